/* The CRC-32 that zlib computes, 16 bytes at a time by carry-less multiplication.
 *
 * A message is a polynomial over GF(2), its CRC the remainder of a division by P. A piece of 128 bits that
 * lies d bits before another may be replaced by one added to the other: its 64-bit halves times x^(d+64) and
 * x^d mod P. In the reflected bit order of this CRC a product comes out one bit off and 32 bits are owed to
 * the remainder's width, so the constants are x^(d+32) and x^(d-32) mod P, reflected and shifted by one.
 * (V. Gopal et al., Fast CRC computation for generic polynomials using PCLMULQDQ, Intel, 2009.)
 */
#ifndef BNL_CRC32_H
#define BNL_CRC32_H

#include "common.h"

#define CRC32_P UINT32_C(0xEDB88320)

/* crc32_table[k][b]: the remainder of byte b with k bytes of zero behind it. */
static uint32_t crc32_table[8][256];

static void crc32_fill_tables(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (CRC32_P & (0 - (crc & 1)));
        crc32_table[0][byte] = crc;
    }
    for (int k = 1; k < 8; k++)
        for (int byte = 0; byte < 256; byte++) {
            const uint32_t crc = crc32_table[k - 1][byte];
            crc32_table[k][byte] = crc >> 8 ^ crc32_table[0][crc & 255];
        }
}

/* Eight bytes at a time, each through a table of its own. */
static uint32_t crc32_bytes(uint32_t crc, const uint8_t *p, size_t n) {
    for (; n >= 8; p += 8, n -= 8) {
        crc ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        crc = crc32_table[7][crc & 255] ^ crc32_table[6][crc >> 8 & 255] ^ crc32_table[5][crc >> 16 & 255] ^
              crc32_table[4][crc >> 24] ^ crc32_table[3][p[4]] ^ crc32_table[2][p[5]] ^ crc32_table[1][p[6]] ^
              crc32_table[0][p[7]];
    }
    for (; n; n--) crc = crc >> 8 ^ crc32_table[0][(crc ^ *p++) & 255];
    return crc;
}

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(BNL_PORTABLE)
#define BNL_CRC32 1
#include <immintrin.h>

__attribute__((target("pclmul"))) static inline __m128i crc32_fold(__m128i piece, __m128i by, __m128i next) {
    const __m128i first = _mm_clmulepi64_si128(piece, by, 0x00), second = _mm_clmulepi64_si128(piece, by, 0x11);
    return _mm_xor_si128(next, _mm_xor_si128(first, second));
}

__attribute__((target("pclmul"))) static uint32_t crc32_folding(uint32_t crc, const uint8_t *p, size_t n) {
    const __m128i far = _mm_set_epi64x(INT64_C(0x1c6e41596), INT64_C(0x154442bd4));  /* d = 512 */
    const __m128i near = _mm_set_epi64x(INT64_C(0x0ccaa009e), INT64_C(0x1751997d0)); /* d = 128 */
    const __m128i *from = (const __m128i *)p, *const end = from + n / 16;
    __m128i x[4];
    for (int i = 0; i < 4; i++) x[i] = _mm_loadu_si128(from + i);
    x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128((int)crc));
    for (from += 4; end - from >= 4; from += 4)
        for (int i = 0; i < 4; i++) x[i] = crc32_fold(x[i], far, _mm_loadu_si128(from + i));
    for (int i = 1; i < 4; i++) x[i] = crc32_fold(x[i - 1], near, x[i]);
    for (; from < end; from++) x[3] = crc32_fold(x[3], near, _mm_loadu_si128(from));
    uint8_t last[16];
    _mm_storeu_si128((__m128i *)last, x[3]);
    return crc32_bytes(crc32_bytes(0, last, 16), p + n / 16 * 16, n % 16);
}

static int crc32_folds;

/* Before anything else of this file is called. */
static void crc32_choose(void) {
    crc32_fill_tables();
#ifndef BNL_NO_PCLMUL /* builds what processors without it get, to test it here */
    crc32_folds = __builtin_cpu_supports("pclmul");
#endif
}

/* Goes on from the CRC of what came before, 0 of nothing. */
static uint32_t crc32_more(uint32_t before, const uint8_t *p, size_t n) {
    if (n >= 64 && crc32_folds) return ~crc32_folding(~before, p, n);
    return ~crc32_bytes(~before, p, n);
}

static uint32_t crc32_of(const uint8_t *p, size_t n) { return crc32_more(0, p, n); }

#else

static void crc32_choose(void) { crc32_fill_tables(); }

/* For code that is built all the same: zlib's own may be faster, so nothing that takes a checksum is offered to Python.
 */
static uint32_t crc32_more(uint32_t before, const uint8_t *p, size_t n) { return ~crc32_bytes(~before, p, n); }

#endif
#endif
