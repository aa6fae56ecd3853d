/* What all kernels share: vector code chosen at run time, inlining, byte order. */
#ifndef BNL_COMMON_H
#define BNL_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* -DBNL_PORTABLE builds what other machines get, to test it here. */
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(BNL_PORTABLE)
#define BNL_X86 1
#include <immintrin.h>
#endif

/* Two copies of a function, one for AVX2, and the loader picks: needs ELF ifuncs, so glibc on x86-64. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && !defined(BNL_PORTABLE) && \
    ((defined(__clang__) && __clang_major__ >= 16) || (!defined(__clang__) && __GNUC__ >= 8))
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

#if defined(__GNUC__) || defined(__clang__)
#define INLINE static inline __attribute__((always_inline))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define RESTRICT __restrict__
#define PREFETCH(p) __builtin_prefetch(p)
#else
#define INLINE static inline
#define LIKELY(x) (x)
#define UNLIKELY(x) (x)
#define RESTRICT
#define PREFETCH(p) ((void)(p))
#endif

/* Element i depends on element i alone, even where input and output are the same buffer. */
#if defined(__clang__)
#define ELEMENTWISE _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define ELEMENTWISE _Pragma("GCC ivdep")
#else
#define ELEMENTWISE
#endif

#define LINE_BYTES 64 /* of the cache */

/* Memory that begins with a cache line, across which wide vectors are slow; NULL if there is none. */
INLINE void *lines_hold(size_t n_bytes) {
#ifdef _WIN32
    return malloc(n_bytes);
#else
    void *p;
    return posix_memalign(&p, LINE_BYTES, n_bytes) ? NULL : p;
#endif
}

INLINE uint32_t load_be32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

INLINE uint64_t load_be64(const uint8_t *p) { return (uint64_t)load_be32(p) << 32 | load_be32(p + 4); }

INLINE void store_be32(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

#endif
