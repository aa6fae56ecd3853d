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

/* One direction's share of n pixels: from where each takes its value, itself if there is nothing, and 1 / distance. */
typedef struct {
    uint32_t *sources;
    double *weights;
} gap_direction;

INLINE void gap_note(gap_direction d, size_t k, int64_t from, int64_t here, uint32_t pixel, uint32_t source) {
    const int64_t far = here > from ? here - from : from - here;
    d.sources[k] = from < 0 ? pixel : source;
    d.weights[k] = from < 0 ? 0.0 : 1.0 / (double)far;
}

/* Of the invalid pixels of an image, in order, the nearest valid ones above, below, left and right; `last`: room for
 * nx. Weights add up to 1 where there is any. */
static void gap_sources(const uint8_t *invalid, size_t ny, size_t nx, size_t n, uint32_t *sources, double *weights,
                        int64_t *last) {
    gap_direction d[4];
    for (int i = 0; i < 4; i++) d[i] = (gap_direction){sources + (size_t)i * n, weights + (size_t)i * n};
    for (size_t x = 0; x < nx; x++) last[x] = -1;
    size_t k = 0;
    for (size_t y = 0; y < ny; y++) {
        const uint8_t *row = invalid + y * nx;
        int64_t left = -1;
        for (size_t x = 0; x < nx; x++) {
            if (!row[x]) {
                last[x] = (int64_t)y;
                left = (int64_t)x;
                continue;
            }
            const uint32_t pixel = (uint32_t)(y * nx + x);
            gap_note(d[0], k, last[x], (int64_t)y, pixel, (uint32_t)((size_t)last[x] * nx + x));
            gap_note(d[2], k++, left, (int64_t)x, pixel, (uint32_t)(y * nx + (size_t)left));
        }
    }
    for (size_t x = 0; x < nx; x++) last[x] = -1;
    for (size_t y = ny; y-- > 0;) {
        const uint8_t *row = invalid + y * nx;
        int64_t right = -1;
        for (size_t x = nx; x-- > 0;) {
            if (!row[x]) {
                last[x] = (int64_t)y;
                right = (int64_t)x;
                continue;
            }
            const uint32_t pixel = (uint32_t)(y * nx + x);
            gap_note(d[1], --k, last[x], (int64_t)y, pixel, (uint32_t)((size_t)last[x] * nx + x));
            gap_note(d[3], k, right, (int64_t)x, pixel, (uint32_t)(y * nx + (size_t)right));
        }
    }
    for (k = 0; k < n; k++) {
        double total = d[0].weights[k] + d[1].weights[k];
        total += d[2].weights[k];
        total += d[3].weights[k];
        for (int i = 0; total > 0 && i < 4; i++) d[i].weights[k] /= total;
    }
}

/* Whether no index is beyond `size`. */
static CLONES int all_below(const uint32_t *indices, size_t n, uint32_t size) {
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) most = indices[i] > most ? indices[i] : most;
    return n == 0 || most < size;
}

#endif
