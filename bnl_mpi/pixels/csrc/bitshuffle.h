/* Bit transposition of blocks, as HDF5 filter 32008 stores them.
 *
 * A block of n elements (n a multiple of 8) of s bytes becomes 8*s rows of n/8 bytes: row 8*k + j holds bit
 * j of byte k of every element, element 8*i + e at bit e of the row's byte i. Each byte k, here called a
 * plane, is transposed by itself: 8 rows on one side, n bytes in element order on the other.
 *
 * A strip of 16 columns is eight 16-byte vectors: a butterfly of shifts exchanges bits between rows (it is
 * its own inverse), and perfect shuffles of the 128 bytes exchange rows with columns. A shuffle rotates a
 * byte's 7-bit index by one: three turn (row, column) into (column, row), four undo that.
 */
#ifndef BNL_BITSHUFFLE_H
#define BNL_BITSHUFFLE_H

#include "common.h"

#ifdef BNL_X86
/* -DBNL_NO_GFNI builds what processors without these instructions run, to test it here. */
#if !defined(BNL_NO_GFNI) && (defined(__clang__) ? __clang_major__ >= 11 : __GNUC__ >= 11)
#define BNL_GFNI 1
#ifndef BNL_NO_AVX512 /* the same for these */
#define BNL_AVX512 1
#endif
#endif
#endif

#define SWAP_BITS(A, B, DISTANCE, MASK)                                                                      \
    do {                                                                                                     \
        const VEC t = AND(XOR(SHIFT_RIGHT(A, DISTANCE), B), MASK);                                           \
        B = XOR(B, t);                                                                                       \
        A = XOR(A, SHIFT_LEFT(t, DISTANCE));                                                                 \
    } while (0)

#define BUTTERFLY(V)                                                                                         \
    do {                                                                                                     \
        for (int j = 0; j < 4; j++) SWAP_BITS(V[j], V[j + 4], 4, EACH_BYTE(0x0f));                           \
        for (int j = 0; j < 8; j += 4) {                                                                     \
            SWAP_BITS(V[j], V[j + 2], 2, EACH_BYTE(0x33));                                                   \
            SWAP_BITS(V[j + 1], V[j + 3], 2, EACH_BYTE(0x33));                                               \
        }                                                                                                    \
        for (int j = 0; j < 8; j += 2) SWAP_BITS(V[j], V[j + 1], 1, EACH_BYTE(0x55));                        \
    } while (0)

#define SHUFFLE(V)                                                                                           \
    do {                                                                                                     \
        VEC w[8];                                                                                            \
        for (int j = 0; j < 4; j++) {                                                                        \
            w[2 * j] = UNPACK_LOW(V[j], V[j + 4]);                                                           \
            w[2 * j + 1] = UNPACK_HIGH(V[j], V[j + 4]);                                                      \
        }                                                                                                    \
        for (int j = 0; j < 8; j++) V[j] = w[j];                                                             \
    } while (0)

#define STRIP_BYTES 256 /* of a plane, the widest strip */

typedef void (*strip_function)(const uint8_t *from, size_t stride, uint8_t *to);
typedef void (*elements_function)(const uint8_t *rows, size_t stride, size_t step, void *to);

#ifdef BNL_X86

#define XOR(a, b) _mm_xor_si128(a, b)
#define AND(a, b) _mm_and_si128(a, b)
#define SHIFT_LEFT(a, n) _mm_slli_epi16(a, n)
#define SHIFT_RIGHT(a, n) _mm_srli_epi16(a, n)
#define EACH_BYTE(x) _mm_set1_epi8(x)
#define UNPACK_LOW(a, b) _mm_unpacklo_epi8(a, b)
#define UNPACK_HIGH(a, b) _mm_unpackhi_epi8(a, b)
#define VEC __m128i

INLINE void to_plane_16(const uint8_t *rows, size_t stride, uint8_t *plane) {
    VEC v[8];
    for (int j = 0; j < 8; j++) v[j] = _mm_loadu_si128((const VEC *)(rows + (size_t)j * stride));
    BUTTERFLY(v);
    SHUFFLE(v);
    SHUFFLE(v);
    SHUFFLE(v);
    for (int j = 0; j < 8; j++) _mm_storeu_si128((VEC *)(plane + 16 * j), v[j]);
}

INLINE void to_rows_16(const uint8_t *plane, size_t stride, uint8_t *rows) {
    VEC v[8];
    for (int j = 0; j < 8; j++) v[j] = _mm_loadu_si128((const VEC *)(plane + 16 * j));
    SHUFFLE(v);
    SHUFFLE(v);
    SHUFFLE(v);
    SHUFFLE(v);
    BUTTERFLY(v);
    for (int j = 0; j < 8; j++) _mm_storeu_si128((VEC *)(rows + (size_t)j * stride), v[j]);
}

static void to_plane_sse2(const uint8_t *rows, size_t stride, uint8_t *plane) {
    to_plane_16(rows, stride, plane);
    to_plane_16(rows + 16, stride, plane + 128);
}

static void to_rows_sse2(const uint8_t *plane, size_t stride, uint8_t *rows) {
    to_rows_16(plane, stride, rows);
    to_rows_16(plane + 128, stride, rows + 16);
}

#undef XOR
#undef AND
#undef SHIFT_LEFT
#undef SHIFT_RIGHT
#undef EACH_BYTE
#undef UNPACK_LOW
#undef UNPACK_HIGH
#undef VEC
#define XOR(a, b) _mm256_xor_si256(a, b)
#define AND(a, b) _mm256_and_si256(a, b)
#define SHIFT_LEFT(a, n) _mm256_slli_epi16(a, n)
#define SHIFT_RIGHT(a, n) _mm256_srli_epi16(a, n)
#define EACH_BYTE(x) _mm256_set1_epi8(x)
#define UNPACK_LOW(a, b) _mm256_unpacklo_epi8(a, b)
#define UNPACK_HIGH(a, b) _mm256_unpackhi_epi8(a, b)
#define VEC __m256i

/* The two halves of a 32-byte vector are two strips side by side: shuffles stay within a half. */
#define LOAD_ROWS(V, ROWS)                                                                                   \
    do {                                                                                                     \
        for (int j = 0; j < 8; j++) V[j] = _mm256_loadu_si256((const VEC *)((ROWS) + (size_t)j * stride));   \
    } while (0)

#define TO_PLANE_AVX2(V, ROWS)                                                                               \
    do {                                                                                                     \
        LOAD_ROWS(V, ROWS);                                                                                  \
        BUTTERFLY(V);                                                                                        \
        SHUFFLE(V);                                                                                          \
        SHUFFLE(V);                                                                                          \
        SHUFFLE(V);                                                                                          \
    } while (0)

#define TO_ROWS_AVX2(V)                                                                                      \
    do {                                                                                                     \
        SHUFFLE(V);                                                                                          \
        SHUFFLE(V);                                                                                          \
        SHUFFLE(V);                                                                                          \
        SHUFFLE(V);                                                                                          \
        BUTTERFLY(V);                                                                                        \
    } while (0)

/* With the instruction that multiplies 8 x 8 bits, a matrix in each 8 bytes: the unit matrix times one, row r in byte
 * 7 - r, is that one with rows and columns exchanged. So bytes move first, from the last row on. */
#define UNIT_MATRIX _mm256_set1_epi64x((long long)UINT64_C(0x8040201008040201))

#define TO_PLANE_GFNI(V, ROWS)                                                                               \
    do {                                                                                                     \
        for (int j = 0; j < 8; j++)                                                                          \
            V[j] = _mm256_loadu_si256((const VEC *)((ROWS) + (size_t)(7 - j) * stride));                     \
        SHUFFLE(V);                                                                                          \
        SHUFFLE(V);                                                                                          \
        SHUFFLE(V);                                                                                          \
        for (int j = 0; j < 8; j++) V[j] = _mm256_gf2p8affine_epi64_epi8(UNIT_MATRIX, V[j], 0);              \
    } while (0)

#define BYTES_REVERSED _mm256_set_epi64x(0x08090a0b0c0d0e0f, 0x0001020304050607, 0x08090a0b0c0d0e0f, 0x0001020304050607)

#define TO_ROWS_GFNI(V)                                                                                      \
    do {                                                                                                     \
        for (int j = 0; j < 8; j++)                                                                          \
            V[j] = _mm256_gf2p8affine_epi64_epi8(UNIT_MATRIX, _mm256_shuffle_epi8(V[j], BYTES_REVERSED), 0); \
        SHUFFLE(V);                                                                                          \
        SHUFFLE(V);                                                                                          \
        SHUFFLE(V);                                                                                          \
        SHUFFLE(V);                                                                                          \
    } while (0)

/* Vectors hold 16 bytes of the left half of a strip and 16 of the right; elements of one go side by side. */
#define STORE_HALVES(FIRST, SECOND, LEFT, RIGHT)                                                             \
    do {                                                                                                     \
        _mm256_storeu_si256((VEC *)(LEFT), _mm256_permute2x128_si256(FIRST, SECOND, 0x20));                  \
        _mm256_storeu_si256((VEC *)(RIGHT), _mm256_permute2x128_si256(FIRST, SECOND, 0x31));                 \
    } while (0)

/* Whether the rows of bytes `first` to `size` - 1 are all zero in this strip. */
__attribute__((target("avx2"))) static inline int zero_from(const uint8_t *rows, size_t stride, size_t step,
                                                            size_t first, size_t size) {
    VEC any = _mm256_setzero_si256();
    for (size_t k = first; k < size; k++)
        for (size_t j = 0; j < 8; j++)
            any = _mm256_or_si256(any, _mm256_loadu_si256((const VEC *)(rows + k * step + j * stride)));
    return _mm256_testz_si256(any, any);
}

/* Rows to elements without planes in between: a strip of 256 elements, the rows of byte k at rows + k * step. */
#define DEFINE_STRIPS(SUFFIX, TARGET, TO_PLANE, TO_ROWS)                                                     \
    __attribute__((target(TARGET))) static void to_plane_##SUFFIX(const uint8_t *rows, size_t stride,        \
                                                                  uint8_t *plane) {                          \
        VEC v[8];                                                                                            \
        TO_PLANE(v, rows);                                                                                   \
        for (int j = 0; j < 8; j++) {                                                                        \
            _mm_storeu_si128((__m128i *)(plane + 16 * j), _mm256_castsi256_si128(v[j]));                     \
            _mm_storeu_si128((__m128i *)(plane + 128 + 16 * j), _mm256_extracti128_si256(v[j], 1));          \
        }                                                                                                    \
    }                                                                                                        \
                                                                                                             \
    __attribute__((target(TARGET))) static void to_rows_##SUFFIX(const uint8_t *plane, size_t stride,        \
                                                                 uint8_t *rows) {                            \
        VEC v[8];                                                                                            \
        for (int j = 0; j < 8; j++) {                                                                        \
            const __m128i left = _mm_loadu_si128((const __m128i *)(plane + 16 * j));                         \
            const __m128i right = _mm_loadu_si128((const __m128i *)(plane + 128 + 16 * j));                  \
            v[j] = _mm256_inserti128_si256(_mm256_castsi128_si256(left), right, 1);                          \
        }                                                                                                    \
        TO_ROWS(v);                                                                                          \
        for (int j = 0; j < 8; j++) _mm256_storeu_si256((VEC *)(rows + (size_t)j * stride), v[j]);           \
    }                                                                                                        \
                                                                                                             \
    __attribute__((target(TARGET))) static void elements_2_##SUFFIX(const uint8_t *rows, size_t stride,      \
                                                                    size_t step, void *to) {                 \
        uint16_t *const out = to;                                                                            \
        VEC low[8], high[8];                                                                                 \
        TO_PLANE(low, rows);                                                                                 \
        if (zero_from(rows, stride, step, 1, 2)) {                                                           \
            for (int j = 0; j < 8; j++) high[j] = _mm256_setzero_si256();                                    \
        } else {                                                                                             \
            TO_PLANE(high, rows + step);                                                                     \
        }                                                                                                    \
        for (int j = 0; j < 8; j++)                                                                          \
            STORE_HALVES(UNPACK_LOW(low[j], high[j]), UNPACK_HIGH(low[j], high[j]), out + 16 * j,            \
                         out + 128 + 16 * j);                                                                \
    }                                                                                                        \
                                                                                                             \
    __attribute__((target(TARGET))) static void elements_4_##SUFFIX(const uint8_t *rows, size_t stride,      \
                                                                    size_t step, void *to) {                 \
        uint32_t *const out = to;                                                                            \
        VEC v[4][8];                                                                                         \
        TO_PLANE(v[0], rows);                                                                                \
        const int low_only = zero_from(rows, stride, step, 1, 4);                                            \
        for (int k = 1; k < 4; k++) {                                                                        \
            if (low_only) {                                                                                  \
                for (int j = 0; j < 8; j++) v[k][j] = _mm256_setzero_si256();                                \
            } else {                                                                                         \
                TO_PLANE(v[k], rows + (size_t)k * step);                                                     \
            }                                                                                                \
        }                                                                                                    \
        for (int j = 0; j < 8; j++) {                                                                        \
            uint32_t *const left = out + 16 * j, *const right = left + 128;                                  \
            const VEC a = UNPACK_LOW(v[0][j], v[1][j]), b = UNPACK_LOW(v[2][j], v[3][j]);                    \
            const VEC c = UNPACK_HIGH(v[0][j], v[1][j]), d = UNPACK_HIGH(v[2][j], v[3][j]);                  \
            STORE_HALVES(_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b), left, right);             \
            STORE_HALVES(_mm256_unpacklo_epi16(c, d), _mm256_unpackhi_epi16(c, d), left + 8, right + 8);     \
        }                                                                                                    \
    }

DEFINE_STRIPS(avx2, "avx2", TO_PLANE_AVX2, TO_ROWS_AVX2)
#ifdef BNL_GFNI
DEFINE_STRIPS(gfni, "avx2,gfni", TO_PLANE_GFNI, TO_ROWS_GFNI)
#endif

#ifdef BNL_AVX512
#undef UNPACK_LOW
#undef UNPACK_HIGH
#undef VEC
#define UNPACK_LOW(a, b) _mm512_unpacklo_epi8(a, b)
#define UNPACK_HIGH(a, b) _mm512_unpackhi_epi8(a, b)
#define VEC __m512i
#define WIDE __attribute__((target("avx512bw,gfni"))) static

/* Where columns go, two by two, lest they must be moved after shuffles, which stay within 16 bytes. */
static const uint16_t dealt[32] = {0, 4, 8,  12, 16, 20, 24, 28, 1, 5, 9,  13, 17, 21, 25, 29,
                                   2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31};

/* 64 columns of 8 rows as bytes in the elements' order. */
WIDE inline void to_plane_wide(const uint8_t *rows, size_t stride, VEC *v) {
    const VEC order = _mm512_loadu_si512(dealt), unit = _mm512_set1_epi64((long long)UINT64_C(0x8040201008040201));
    for (int j = 0; j < 8; j++)
        v[j] = _mm512_permutexvar_epi16(order, _mm512_loadu_si512(rows + (size_t)(7 - j) * stride));
    SHUFFLE(v);
    SHUFFLE(v);
    SHUFFLE(v);
    for (int j = 0; j < 8; j++) v[j] = _mm512_gf2p8affine_epi64_epi8(unit, v[j], 0);
}

WIDE inline int zero_wide(const uint8_t *rows, size_t stride) {
    VEC any = _mm512_setzero_si512();
    for (size_t j = 0; j < 8; j++) any = _mm512_or_si512(any, _mm512_loadu_si512(rows + j * stride));
    return !_mm512_test_epi64_mask(any, any);
}

/* 32 bytes as the low ones of elements. */
#define WIDENED(V, HALF) _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(V, HALF))
#define JOINED(LOW, HIGH, HALF) _mm512_or_si512(WIDENED(LOW, HALF), _mm512_slli_epi16(WIDENED(HIGH, HALF), 8))

WIDE void elements_2_wide(const uint8_t *rows, size_t stride, size_t step, void *to) {
    uint16_t *const out = to;
    VEC low[8], high[8];
    to_plane_wide(rows, stride, low);
    if (zero_wide(rows + step, stride)) {
        for (int j = 0; j < 8; j++) {
            _mm512_storeu_si512(out + 64 * j, WIDENED(low[j], 0));
            _mm512_storeu_si512(out + 64 * j + 32, WIDENED(low[j], 1));
        }
        return;
    }
    to_plane_wide(rows + step, stride, high);
    for (int j = 0; j < 8; j++) {
        _mm512_storeu_si512(out + 64 * j, JOINED(low[j], high[j], 0));
        _mm512_storeu_si512(out + 64 * j + 32, JOINED(low[j], high[j], 1));
    }
}

/* Whether n rows are the same. Those of bytes above the lowest are, but where counts are large: bits of them are 0, or
 * 1 all in a masked pixel. */
WIDE inline int alike_wide(const uint8_t *rows, size_t stride, size_t n) {
    const VEC first = _mm512_loadu_si512(rows);
    VEC differ = _mm512_setzero_si512();
    for (size_t j = 1; j < n; j++)
        differ = _mm512_or_si512(differ, _mm512_xor_si512(first, _mm512_loadu_si512(rows + j * stride)));
    return !_mm512_test_epi64_mask(differ, differ);
}

/* Large counts in 4 bytes are too rare for a way of their own. */
WIDE void elements_4_wide(const uint8_t *rows, size_t stride, size_t step, void *to) {
    uint32_t *const out = to;
    if (!alike_wide(rows + step, stride, 24)) {
        elements_4_gfni(rows, stride, step, out);
        elements_4_gfni(rows + 32, stride, step, out + 256);
        return;
    }
    const VEC above = _mm512_set1_epi32((int)0xffffff00);
    VEC low[8];
    uint16_t ones[32];
    to_plane_wide(rows, stride, low);
    memcpy(ones, rows + step, sizeof ones);
    for (int i = 0; i < 32; i++) {
        const VEC a = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)low + i));
        _mm512_storeu_si512(out + 16 * i, _mm512_mask_or_epi32(a, ones[i], a, above));
    }
}
#endif

static strip_function to_plane = to_plane_sse2, to_rows = to_rows_sse2;
static elements_function elements_2 = NULL, elements_4 = NULL, wide_elements_2 = NULL, wide_elements_4 = NULL;

static void bitshuffle_choose(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) {
        to_plane = to_plane_avx2;
        to_rows = to_rows_avx2;
        elements_2 = elements_2_avx2;
        elements_4 = elements_4_avx2;
    }
#ifdef BNL_GFNI
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("gfni")) {
        to_plane = to_plane_gfni;
        to_rows = to_rows_gfni;
        elements_2 = elements_2_gfni;
        elements_4 = elements_4_gfni;
    }
#endif
#ifdef BNL_AVX512
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("gfni")) {
        wide_elements_2 = elements_2_wide;
        wide_elements_4 = elements_4_wide;
    }
#endif
}

#else

#define XOR(a, b) ((a) ^ (b))
#define AND(a, b) ((a) & (b))
#define SHIFT_LEFT(a, n) ((a) << (n))
#define SHIFT_RIGHT(a, n) ((a) >> (n))
#define EACH_BYTE(x) (UINT64_C(0x0101010101010101) * (x))
#define VEC uint64_t

/* Without vector instructions: the butterfly on 8 columns in a 64-bit word, bytes moved one by one. */
static void to_plane(const uint8_t *rows, size_t stride, uint8_t *plane) {
    for (size_t c = 0; c < STRIP_BYTES / 8; c += 8) {
        uint64_t v[8];
        uint8_t bytes[8][8];
        for (size_t j = 0; j < 8; j++) memcpy(&v[j], rows + j * stride + c, 8);
        BUTTERFLY(v);
        memcpy(bytes, v, sizeof bytes);
        for (size_t i = 0; i < 8; i++)
            for (size_t j = 0; j < 8; j++) plane[8 * (c + i) + j] = bytes[j][i];
    }
}

static void to_rows(const uint8_t *plane, size_t stride, uint8_t *rows) {
    for (size_t c = 0; c < STRIP_BYTES / 8; c += 8) {
        uint64_t v[8];
        uint8_t bytes[8][8];
        for (size_t i = 0; i < 8; i++)
            for (size_t j = 0; j < 8; j++) bytes[j][i] = plane[8 * (c + i) + j];
        memcpy(v, bytes, sizeof bytes);
        BUTTERFLY(v);
        for (size_t j = 0; j < 8; j++) memcpy(rows + j * stride + c, &v[j], 8);
    }
}

static const elements_function elements_2 = NULL, elements_4 = NULL, wide_elements_2 = NULL, wide_elements_4 = NULL;

static void bitshuffle_choose(void) {}

#endif

/* A last strip that isn't whole goes through a padded copy. */
static void plane_of_rows(const uint8_t *rows, size_t stride, uint8_t *plane) {
    const size_t width = STRIP_BYTES / 8;
    size_t c = 0;
    for (; c + width <= stride; c += width) to_plane(rows + c, stride, plane + 8 * c);
    if (c < stride) {
        uint8_t in[STRIP_BYTES] = {0}, out[STRIP_BYTES];
        for (size_t j = 0; j < 8; j++) memcpy(in + j * width, rows + j * stride + c, stride - c);
        to_plane(in, width, out);
        memcpy(plane + 8 * c, out, 8 * (stride - c));
    }
}

static void rows_of_plane(const uint8_t *plane, size_t stride, uint8_t *rows) {
    const size_t width = STRIP_BYTES / 8;
    size_t c = 0;
    for (; c + width <= stride; c += width) to_rows(plane + 8 * c, stride, rows + c);
    if (c < stride) {
        uint8_t in[STRIP_BYTES] = {0}, out[STRIP_BYTES];
        memcpy(in, plane + 8 * c, 8 * (stride - c));
        to_rows(in, width, out);
        for (size_t j = 0; j < 8; j++) memcpy(rows + j * stride + c, out + j * width, stride - c);
    }
}

static CLONES int all_zero(const uint8_t *p, size_t n) {
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++) any |= p[i];
    return !any;
}

static CLONES void merge_2(const uint8_t *RESTRICT low, const uint8_t *RESTRICT high, uint16_t *RESTRICT out,
                           size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = (uint16_t)(low[i] | high[i] << 8);
}

static CLONES void widen_2(const uint8_t *RESTRICT low, uint16_t *RESTRICT out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = low[i];
}

static CLONES void widen_4(const uint8_t *RESTRICT low, uint32_t *RESTRICT out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = low[i];
}

static CLONES void merge_4(const uint8_t *RESTRICT p, uint32_t *RESTRICT out, size_t n) {
    for (size_t i = 0; i < n; i++)
        out[i] = p[i] | (uint32_t)p[n + i] << 8 | (uint32_t)p[2 * n + i] << 16 | (uint32_t)p[3 * n + i] << 24;
}

static CLONES void split_2(const uint16_t *RESTRICT in, uint8_t *RESTRICT p, size_t n) {
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)in[i];
    for (size_t i = 0; i < n; i++) p[n + i] = (uint8_t)(in[i] >> 8);
}

static CLONES void split_4(const uint32_t *RESTRICT in, uint8_t *RESTRICT p, size_t n) {
    for (size_t k = 0; k < 4; k++)
        for (size_t i = 0; i < n; i++) p[k * n + i] = (uint8_t)(in[i] >> (8 * k));
}

/* All strips of a block of n elements, of `size` bytes, where there is a function that makes elements at once. */
static void unshuffle_strips(elements_function elements, const uint8_t *rows, size_t n, size_t size, uint8_t *out) {
    const size_t width = STRIP_BYTES / 8, stride = n / 8;
    const elements_function wide_elements = size == 2 ? wide_elements_2 : wide_elements_4;
    size_t c = 0;
    for (; wide_elements && c + 2 * width <= stride; c += 2 * width)
        wide_elements(rows + c, stride, n, out + 8 * c * size);
    for (; c + width <= stride; c += width) elements(rows + c, stride, n, out + 8 * c * size);
    if (c < stride) {
        uint8_t in[4 * STRIP_BYTES] = {0}, made[4 * STRIP_BYTES];
        for (size_t j = 0; j < 8 * size; j++) memcpy(in + j * width, rows + j * stride + c, stride - c);
        elements(in, width, STRIP_BYTES, made);
        memcpy(out + 8 * c * size, made, 8 * (stride - c) * size);
    }
}

/* Shuffled block of n elements -> elements in the machine's (little-endian) order; planes: n*size bytes.
 * Counts are small as a rule: bytes above the lowest are zero in most blocks, and are then skipped. */
static void bit_unshuffle(const uint8_t *rows, size_t n, size_t size, uint8_t *planes, void *out) {
    const elements_function elements = size == 2 ? elements_2 : size == 4 ? elements_4 : NULL;
    if (elements) {
        unshuffle_strips(elements, rows, n, size, out);
        return;
    }
    const size_t plane_bytes = n;
    const int low_only = size > 1 && size <= 4 && all_zero(rows + plane_bytes, (size - 1) * plane_bytes);
    const size_t used = low_only ? 1 : size;
    uint8_t *to = size == 1 ? out : planes;
    for (size_t k = 0; k < used; k++) plane_of_rows(rows + k * plane_bytes, n / 8, to + k * plane_bytes);
    if (size == 2)
        low_only ? widen_2(planes, out, n) : merge_2(planes, planes + n, out, n);
    else if (size == 4)
        low_only ? widen_4(planes, out, n) : merge_4(planes, out, n);
    else if (size > 1)
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < size; k++) ((uint8_t *)out)[i * size + k] = planes[k * n + i];
}

static void bit_shuffle(const void *in, size_t n, size_t size, uint8_t *planes, uint8_t *rows) {
    const uint8_t *from = size == 1 ? in : planes;
    if (size == 2)
        split_2(in, planes, n);
    else if (size == 4)
        split_4(in, planes, n);
    else if (size > 1)
        for (size_t k = 0; k < size; k++)
            for (size_t i = 0; i < n; i++) planes[k * n + i] = ((const uint8_t *)in)[i * size + k];
    for (size_t k = 0; k < size; k++) {
        if (k > 0 && all_zero(from + k * n, n))
            memset(rows + k * n, 0, n);
        else
            rows_of_plane(from + k * n, n / 8, rows + k * n);
    }
}

#endif
