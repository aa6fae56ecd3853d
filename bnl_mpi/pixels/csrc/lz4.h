/* LZ4 blocks, from the public description of the block format.
 *
 * A sequence is a token (literal count in the high nibble, match length less 4 in the low one; 15 goes on
 * in further bytes, each adding up to 255), the literals, and a 2-byte little-endian distance back. The
 * last sequence is literals alone; the last 5 bytes are always literals and no match starts in the last 12.
 */
#ifndef BNL_LZ4_H
#define BNL_LZ4_H

#include "common.h"

/* Room past the end of an output buffer that lets copies go in whole pieces. */
#define LZ4_SLACK 64

/* So far from the ends of both buffers a short sequence needs no checks. */
#define LZ4_SHORT 32

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

/* Of a period of d bytes, 8 standing for all from 8 on: what its bytes are multiplied with to repeat them in 8 bytes;
 * and the least multiple of it that is no less than 8. */
static const uint64_t lz4_repeat[9] = {
    0, UINT64_C(0x0101010101010101), UINT64_C(0x0001000100010001), UINT64_C(0x0001000001000001),
    UINT64_C(0x0000000100000001), UINT64_C(0x0000010000000001), UINT64_C(0x0001000000000001),
    UINT64_C(0x0100000000000001), 1};
static const uint8_t lz4_back[9] = {0, 8, 8, 9, 8, 10, 12, 14, 8};

/* Of a period below 16 bytes, its greatest multiple that is no more than 16. */
static const uint8_t lz4_advance[16] = {0, 16, 16, 15, 16, 15, 12, 14, 16, 9, 10, 11, 12, 13, 14, 15};

/* Writes 16 bytes that repeat what lies `distance` bytes back, by the same instructions for all distances: which come
 * can't be foreseen, and a wrong guess costs more than many such copies. */
INLINE void lz4_match_16_any(uint8_t *dst, size_t distance) {
    const size_t d = distance < 8 ? distance : 8;
    const uint64_t piece = (load_u64(dst - distance) & (~UINT64_C(0) >> (64 - 8 * d))) * lz4_repeat[d];
    memcpy(dst, &piece, 8);
    const uint64_t next = load_u64(dst + 8 - lz4_back[d] - (distance - d));
    memcpy(dst + 8, &next, 8);
}

/* Goes on with a match of which 16 bytes are written, to less than 64 bytes past its end. */
INLINE void lz4_match_on_any(uint8_t *dst, size_t distance, size_t length) {
    uint8_t *const end = dst + length;
    if (distance < 16) {
        const uint64_t first = load_u64(dst), second = load_u64(dst + 8);
        const size_t advance = lz4_advance[distance];
        for (dst += advance; dst < end;)
            for (int i = 0; i < 4; i++, dst += advance) {
                memcpy(dst, &first, 8);
                memcpy(dst + 8, &second, 8);
            }
    } else {
        for (dst += 16; dst < end; dst += 64)
            for (size_t i = 0; i < 64; i += 16) copy16(dst + i, dst + i - distance);
    }
}

/* Copies literals, of which there may be many; `room` bytes may be written, `more` read. */
INLINE void lz4_literals(uint8_t *dst, const uint8_t *src, size_t n, size_t room, size_t more) {
    if (n <= 64 && more >= 64 && room >= 64)
        for (size_t i = 0; i < 64; i += 16) copy16(dst + i, src + i);
    else
        memcpy(dst, src, n);
}

#define LZ4(name) name##_any
#define LZ4_TARGET
#include "lz4_decode.h"
#undef LZ4
#undef LZ4_TARGET

typedef ptrdiff_t (*lz4_decoder)(const uint8_t *src, size_t n, uint8_t *dst, size_t size, size_t slack);

static lz4_decoder lz4_decode_block = lz4_decode_block_any;

#ifdef BNL_X86

#define LZ4(name) name##_avx2
#define LZ4_TARGET __attribute__((target("avx2")))

/* Where each of 16 bytes comes from under a period; 16 stands for all from 16 on. */
static uint8_t lz4_spread[17][16];

LZ4_TARGET static inline void lz4_match_16_avx2(uint8_t *dst, size_t distance) {
    const __m128i *const spread = (const __m128i *)lz4_spread[distance < 16 ? distance : 16];
    const __m128i from = _mm_loadu_si128((const __m128i *)(dst - distance));
    _mm_storeu_si128((__m128i *)dst, _mm_shuffle_epi8(from, _mm_loadu_si128(spread)));
}

LZ4_TARGET static inline void lz4_match_on_avx2(uint8_t *dst, size_t distance, size_t length) {
    if (distance < 32) {
        lz4_match_on_any(dst, distance, length);
        return;
    }
    const uint8_t *const end = dst + length;
    for (dst += 16; dst < end; dst += 64)
        for (size_t i = 0; i < 64; i += 32)
            _mm256_storeu_si256((__m256i *)(dst + i), _mm256_loadu_si256((const __m256i *)(dst + i - distance)));
}

#include "lz4_decode.h"
#undef LZ4
#undef LZ4_TARGET

/* Before anything else of this file is called. */
static void lz4_choose(void) {
    for (size_t d = 1; d <= 16; d++)
        for (size_t i = 0; i < 16; i++) lz4_spread[d][i] = (uint8_t)(i % d);
    if (__builtin_cpu_supports("avx2")) lz4_decode_block = lz4_decode_block_avx2;
}

#else

static void lz4_choose(void) {}

#endif

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
