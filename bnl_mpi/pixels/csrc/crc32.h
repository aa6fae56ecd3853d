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

static uint32_t crc32_bytes(uint32_t crc, const uint8_t *p, size_t n) {
    while (n--) {
        crc ^= *p++;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (CRC32_P & (0 - (crc & 1)));
    }
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

/* Goes on from the CRC of what came before, 0 of nothing. */
static uint32_t crc32_more(uint32_t before, const uint8_t *p, size_t n) {
    if (n >= 64 && __builtin_cpu_supports("pclmul")) return ~crc32_folding(~before, p, n);
    return ~crc32_bytes(~before, p, n);
}

static uint32_t crc32_of(const uint8_t *p, size_t n) { return crc32_more(0, p, n); }

#else

/* For code that is built all the same: where it is slow, nothing that takes a checksum is offered to Python. */
static uint32_t crc32_more(uint32_t before, const uint8_t *p, size_t n) { return ~crc32_bytes(~before, p, n); }

#endif
#endif
