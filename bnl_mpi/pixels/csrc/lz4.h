/* LZ4 blocks, from the public description of the block format.
 *
 * A sequence is a token (literal count in the high nibble, match length less 4 in the low one; 15 goes on
 * in further bytes, each adding up to 255), the literals, and a 2-byte little-endian distance back. The
 * last sequence is literals alone; the last 5 bytes are always literals and no match starts in the last 12.
 */
#ifndef BNL_LZ4_H
#define BNL_LZ4_H

#include "common.h"

/* Room past the end of an output buffer that lets copies go in whole 16-byte pieces. */
#define LZ4_SLACK 64

INLINE void copy16(uint8_t *dst, const uint8_t *src) {
    uint8_t piece[16];
    memcpy(piece, src, 16);
    memcpy(dst, piece, 16);
}

INLINE uint32_t load_u32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

INLINE uint64_t load_u64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

/* Adds the bytes that go on a length of 15; returns 0 if the input ends. */
INLINE int lz4_length(const uint8_t **src, const uint8_t *end, size_t *length) {
    uint8_t more;
    do {
        if (UNLIKELY(*src >= end)) return 0;
        more = *(*src)++;
        *length += more;
    } while (more == 255);
    return 1;
}

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define LZ4_LITTLE_ENDIAN 1
#else
#define LZ4_LITTLE_ENDIAN 0
#endif

/* The bytes of a period of d < 8, repeated: the period's bytes times the first number; from one 8-byte piece
 * to the next it goes on by the second, the most whole periods that fit. */
static const uint64_t lz4_repeat[8] = {
    0, UINT64_C(0x0101010101010101), UINT64_C(0x0001000100010001), UINT64_C(0x0001000001000001),
    UINT64_C(0x0000000100000001), UINT64_C(0x0000010000000001), UINT64_C(0x0001000000000001),
    UINT64_C(0x0100000000000001)};
static const uint8_t lz4_advance[8] = {0, 8, 8, 6, 8, 5, 6, 7};

/* Repeats what lies `distance` bytes back, `length` times a byte. `room` bytes may be written: with 16
 * more than asked for, copies go in pieces and overshoot. */
INLINE void lz4_match(uint8_t *dst, size_t distance, size_t length, size_t room) {
    const uint8_t *from = dst - distance;
    uint8_t *const end = dst + length;
    if (UNLIKELY(room < length + 16) || (!LZ4_LITTLE_ENDIAN && distance < 8)) {
        while (dst < end) *dst++ = *from++;
    } else if (distance >= 16) {
        do {
            copy16(dst, from);
            dst += 16;
            from += 16;
        } while (dst < end);
    } else if (distance >= 8) {
        do {
            memcpy(dst, from, 8);
            dst += 8;
            from += 8;
        } while (dst < end);
    } else if (distance == 1 && length > 32) {
        memset(dst, *from, length);
    } else {
        const uint64_t bytes = load_u64(from) & (~UINT64_C(0) >> (64 - 8 * distance));
        const uint64_t piece = bytes * lz4_repeat[distance];
        const size_t advance = lz4_advance[distance];
        do {
            memcpy(dst, &piece, 8);
            dst += advance;
        } while (dst < end);
    }
}

/* Decodes one block into dst, of which `size` bytes are wanted and `slack` more may be overwritten.
 * Returns the bytes made, or -1 where the stream is corrupt; touches nothing outside the buffers. */
static ptrdiff_t lz4_decode_block(const uint8_t *src, size_t n, uint8_t *dst, size_t size, size_t slack) {
    const uint8_t *const end = src + n;
    uint8_t *out = dst;
    size_t left = size; /* bytes still wanted */
    for (;;) {
        if (UNLIKELY(src >= end)) return -1;
        const uint8_t token = *src++;
        size_t literals = token >> 4;
        if (literals == 15 && !lz4_length(&src, end, &literals)) return -1;
        if (UNLIKELY(literals > left || literals > (size_t)(end - src))) return -1;
        if (LIKELY(literals <= 16 && end - src >= 16 && left + slack >= 16)) {
            copy16(out, src);
        } else if (literals <= 64 && end - src >= 64 && left + slack >= 64) {
            for (size_t i = 0; i < 64; i += 16) copy16(out + i, src + i);
        } else {
            memcpy(out, src, literals);
        }
        out += literals;
        src += literals;
        left -= literals;
        if (src == end) return out - dst;
        if (UNLIKELY(end - src < 2)) return -1;
        const size_t distance = src[0] | (size_t)src[1] << 8;
        src += 2;
        if (UNLIKELY(distance == 0 || distance > (size_t)(out - dst))) return -1;
        size_t length = token & 15;
        if (length == 15 && !lz4_length(&src, end, &length)) return -1;
        length += 4;
        if (UNLIKELY(length > left)) return -1;
        lz4_match(out, distance, length, left + slack);
        out += length;
        left -= length;
    }
}

INLINE size_t lz4_bound(size_t n) { return n + n / 255 + 16; }

/* ---- encoder: blocks of up to 64 KiB, one probe a position -------------------------------------------- */

#define LZ4_HASH_BITS 12
#define LZ4_MAX_BLOCK 65536

/* Five bytes are probed: matches of four gain nothing on bit planes, and cost a sequence each. */
#if LZ4_LITTLE_ENDIAN
#define LZ4_PROBED(v) ((v) << 24)
#else
#define LZ4_PROBED(v) ((v) >> 24 << 24)
#endif

INLINE uint32_t lz4_hash(uint64_t v) {
    return (uint32_t)(LZ4_PROBED(v) * UINT64_C(0x9E3779B97F4A7C15) >> (64 - LZ4_HASH_BITS));
}

INLINE size_t lz4_common(const uint8_t *a, const uint8_t *b, const uint8_t *a_end) {
    const uint8_t *const start = a;
    while (a_end - a >= 32) { /* long runs of zeros are what bitshuffle leaves */
        const uint64_t first = (load_u64(a) ^ load_u64(b)) | (load_u64(a + 8) ^ load_u64(b + 8));
        const uint64_t second = (load_u64(a + 16) ^ load_u64(b + 16)) | (load_u64(a + 24) ^ load_u64(b + 24));
        if (first | second) break;
        a += 32;
        b += 32;
    }
    while (a_end - a >= 8) {
        const uint64_t differ = load_u64(a) ^ load_u64(b);
        if (differ) {
#if defined(__GNUC__) && LZ4_LITTLE_ENDIAN
            return (size_t)(a - start) + (size_t)(__builtin_ctzll(differ) >> 3);
#else
            break;
#endif
        }
        a += 8;
        b += 8;
    }
    while (a < a_end && *a == *b) {
        a++;
        b++;
    }
    return (size_t)(a - start);
}

INLINE uint8_t *lz4_put_length(uint8_t *dst, size_t length) {
    for (; length >= 255; length -= 255) *dst++ = 255;
    *dst++ = (uint8_t)length;
    return dst;
}

INLINE uint8_t *lz4_put_literals(uint8_t *dst, const uint8_t *src, size_t n, size_t match_nibble) {
    *dst++ = (uint8_t)((n < 15 ? n : 15) << 4 | match_nibble);
    if (n >= 15) dst = lz4_put_length(dst, n - 15);
    if (LIKELY(n <= 16))
        copy16(dst, src);
    else
        memcpy(dst, src, n);
    return dst + n;
}

/* Encodes src[0..n), n <= LZ4_MAX_BLOCK, into dst of at least lz4_bound(n) bytes; returns the bytes made.
 * 16 bytes past the end of src are read, and past the bound of dst written. */
static size_t lz4_encode_block(const uint8_t *src, size_t n, uint8_t *dst, uint16_t *table) {
    const uint8_t *anchor = src, *ip = src;
    uint8_t *out = dst;
    if (n >= 13) {
        const uint8_t *const last_start = src + n - 12, *const match_end = src + n - 5;
        memset(table, 0, sizeof(uint16_t) << LZ4_HASH_BITS); /* position 0 is as good a guess as none */
        ip++;
        size_t misses = 0;
        while (ip <= last_start) {
            const uint64_t word = load_u64(ip);
            const uint32_t slot = lz4_hash(word);
            const uint8_t *from = src + table[slot];
            table[slot] = (uint16_t)(ip - src);
            if (LZ4_PROBED(load_u64(from) ^ word)) {
                ip += 1 + (misses++ >> 5); /* noise is crossed ever faster */
                continue;
            }
            misses = 0;
            while (ip > anchor && from > src && ip[-1] == from[-1]) {
                ip--;
                from--;
            }
            const size_t extra = lz4_common(ip + 4, from + 4, match_end);
            const size_t distance = (size_t)(ip - from);
            out = lz4_put_literals(out, anchor, (size_t)(ip - anchor), extra < 15 ? extra : 15);
            *out++ = (uint8_t)distance;
            *out++ = (uint8_t)(distance >> 8);
            if (extra >= 15) out = lz4_put_length(out, extra - 15);
            ip += extra + 4;
            anchor = ip;
            if (ip <= last_start) table[lz4_hash(load_u64(ip - 2))] = (uint16_t)(ip - 2 - src);
        }
    }
    return (size_t)(lz4_put_literals(out, anchor, (size_t)(src + n - anchor), 0) - dst);
}

#endif
