/* Pixels that take the weighted mean of four others. */
#ifndef BNL_GAPS_H
#define BNL_GAPS_H

#include "common.h"

/* Added and taken away again, it rounds a double of less than 2**51 to a whole number, halves to the even one. */
#define ROUNDS 6755399441055744.0

/* Of a pixel: how far the nearest valid ones are above, below, left and right; 0 where there is none. */
enum { UP, DOWN, LEFT, RIGHT, DIRECTIONS };

/* 1 / distance, so that they add up to 1. */
static void gap_weights(const uint16_t *far, double *weights) {
    double total = 0;
    for (int i = 0; i < DIRECTIONS; i++) {
        weights[i] = far[i] ? 1.0 / far[i] : 0.0;
        total += weights[i];
    }
    for (int i = 0; total > 0 && i < DIRECTIONS; i++) weights[i] /= total;
}

/* Whether a pixel (of ny x nx) and what it looks at are within the image. */
INLINE int gap_is_inside(size_t pixel, const uint16_t *far, size_t n, size_t nx) {
    return pixel < n && far[UP] * nx <= pixel && far[DOWN] * nx < n - pixel && far[LEFT] <= pixel && far[RIGHT] < n - pixel;
}

/* Fills n pixels, `distances` four for each; returns 0 where one looks outside the image. Neighbours in a gap look
 * equally far as a rule, so weights are made anew for few. Sums go from UP to RIGHT. */
#define DEFINE_FILL(T, NAME)                                                                                 \
    static int fill_gaps_##NAME(T *values, size_t ny, size_t nx, const uint32_t *RESTRICT pixels,            \
                                const uint16_t *RESTRICT distances, size_t n) {                              \
        double w[DIRECTIONS] = {0};                                                                          \
        uint64_t last = 0, here; /* of no distance is no weight */                                           \
        for (size_t i = 0; i < n; i++) {                                                                     \
            const uint16_t *far = distances + DIRECTIONS * i;                                                \
            memcpy(&here, far, sizeof here);                                                                 \
            if (here != last) gap_weights(far, w);                                                           \
            last = here;                                                                                     \
            if (!gap_is_inside(pixels[i], far, ny * nx, nx)) return 0;                                       \
            T *at = values + pixels[i];                                                                      \
            double mean = (double)*(at - far[UP] * nx) * w[UP];                                              \
            mean += (double)at[far[DOWN] * nx] * w[DOWN];                                                    \
            mean += (double)*(at - far[LEFT]) * w[LEFT];                                                     \
            mean += (double)at[far[RIGHT]] * w[RIGHT];                                                       \
            *at = (T)(int64_t)((mean + ROUNDS) - ROUNDS);                                                    \
        }                                                                                                    \
        return 1;                                                                                            \
    }

DEFINE_FILL(uint16_t, u2)
DEFINE_FILL(int32_t, i4)

/* The distances of the invalid pixels of an image, in order; sides are at most 65535 long. `last`: room for nx. */
static void gap_distances(const uint8_t *invalid, size_t ny, size_t nx, size_t n, uint16_t *distances, size_t *last) {
    const size_t none = SIZE_MAX;
    uint16_t *d = distances;
    for (size_t x = 0; x < nx; x++) last[x] = none;
    for (size_t y = 0; y < ny; y++) {
        const uint8_t *row = invalid + y * nx;
        size_t left = none;
        for (size_t x = 0; x < nx; x++) {
            if (!row[x]) {
                last[x] = y;
                left = x;
                continue;
            }
            d[UP] = (uint16_t)(last[x] == none ? 0 : y - last[x]);
            d[LEFT] = (uint16_t)(left == none ? 0 : x - left);
            d += DIRECTIONS;
        }
    }
    d = distances + DIRECTIONS * n;
    for (size_t x = 0; x < nx; x++) last[x] = none;
    for (size_t y = ny; y-- > 0;) {
        const uint8_t *row = invalid + y * nx;
        size_t right = none;
        for (size_t x = nx; x-- > 0;) {
            if (!row[x]) {
                last[x] = y;
                right = x;
                continue;
            }
            d -= DIRECTIONS;
            d[DOWN] = (uint16_t)(last[x] == none ? 0 : last[x] - y);
            d[RIGHT] = (uint16_t)(right == none ? 0 : right - x);
        }
    }
}

#endif
