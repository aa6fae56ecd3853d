/* Pixels that take the weighted mean of four others. */
#ifndef BNL_GAPS_H
#define BNL_GAPS_H

#include "common.h"

/* Added and taken away again, it rounds a double of less than 2**51 to a whole number, halves to the even one. */
#define ROUNDS 6755399441055744.0

/* Sources are four rows of n flat indices, weights of n numbers. Sums go from the first row to the last. */
#define DEFINE_FILL(T, NAME)                                                                                 \
    static CLONES void fill_gaps_##NAME(T *values, const uint32_t *RESTRICT pixels,                          \
                                        const uint32_t *RESTRICT sources, const double *RESTRICT weights,    \
                                        size_t n) {                                                          \
        const uint32_t *s1 = sources + n, *s2 = s1 + n, *s3 = s2 + n;                                        \
        const double *w1 = weights + n, *w2 = w1 + n, *w3 = w2 + n;                                          \
        for (size_t i = 0; i < n; i++) {                                                                     \
            double mean = (double)values[sources[i]] * weights[i];                                           \
            mean += (double)values[s1[i]] * w1[i];                                                           \
            mean += (double)values[s2[i]] * w2[i];                                                           \
            mean += (double)values[s3[i]] * w3[i];                                                           \
            values[pixels[i]] = (T)(int64_t)((mean + ROUNDS) - ROUNDS);                                      \
        }                                                                                                    \
    }

DEFINE_FILL(uint16_t, u2)
DEFINE_FILL(int32_t, i4)

/* Whether no index is beyond `size`. */
static CLONES int all_below(const uint32_t *indices, size_t n, uint32_t size) {
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) most = indices[i] > most ? indices[i] : most;
    return n == 0 || most < size;
}

#endif
