/* LZ4 blocks, from the public description of the block format.
 *
 * A sequence is a token (literal count in the high nibble, match length less 4 in the low one; 15 goes on
 * in further bytes, each adding up to 255), the literals, and a 2-byte little-endian distance back. The
 * last sequence is literals alone; the last 5 bytes are always literals and no match starts in the last 12.
 */
#ifndef BNL_LZ4_H
#define BNL_LZ4_H

#include "common.h"

/* Room past the end of an output buffer that lets copies go in whole 16- and 32-byte pieces. */
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

/* Repeats what lies `distance` bytes back, `length` times a byte; `room` bytes may be written. */
INLINE void lz4_match(uint8_t *dst, size_t distance, size_t length, size_t room) {
    const uint8_t *from = dst - distance;
    if (distance == 1) {
        memset(dst, *from, length);
        return;
    }
    size_t i = 0;
    if (distance < 16) {
        /* write one period of at least 16 bytes, then copy from a whole number of periods back */
        const size_t period = distance * ((15 + distance) / distance), start = period < length ? period : length;
        for (; i < start; i++) dst[i] = from[i];
        if (i == length) return;
        from = dst - period;
    }
    while (i < length && room - i >= 16) {
        copy16(dst + i, from + i);
        i += 16;
    }
    for (; i < length; i++) dst[i] = from[i];
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
        if (LIKELY(literals <= 16 && end - src >= 16 && left + slack >= 16))
            copy16(out, src);
        else
            memcpy(out, src, literals);
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

INLINE uint32_t lz4_hash(uint32_t v) { return v * 2654435761u >> (32 - LZ4_HASH_BITS); }

INLINE size_t lz4_common(const uint8_t *a, const uint8_t *b, const uint8_t *a_end) {
    const uint8_t *const start = a;
    while (a_end - a >= 8) {
        const uint64_t differ = load_u64(a) ^ load_u64(b);
        if (differ) {
#if defined(__GNUC__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
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
            const uint32_t word = load_u32(ip), slot = lz4_hash(word);
            const uint8_t *from = src + table[slot];
            table[slot] = (uint16_t)(ip - src);
            if (from >= ip || load_u32(from) != word) {
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
            if (ip <= last_start) table[lz4_hash(load_u32(ip - 2))] = (uint16_t)(ip - 2 - src);
        }
    }
    return (size_t)(lz4_put_literals(out, anchor, (size_t)(src + n - anchor), 0) - dst);
}

#endif
