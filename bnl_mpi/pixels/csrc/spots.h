/* Strong pixels, by the dispersion of the counts around them, and which of them touch.
 *
 * The test is the one that DIALS publishes (Winter et al., Acta Cryst. D74, 2018, 85, and its documentation): with m
 * valid pixels, sum x and sum of squares y of a window of (2k+1) x (2k+1), a pixel of value v is strong where
 *   m y - x^2 - x (m - 1) > x nsigma_b sqrt(2 (m - 1))    the window's variance over its mean is above Poisson's 1
 *   m v - x > nsigma_s sqrt(m x)                          and v stands out of the mean
 * Window sums are differences of sums along a row of columns' sums: a summed-area table of which one band is kept.
 */
#ifndef BNL_SPOTS_H
#define BNL_SPOTS_H

#include <math.h>

#include "common.h"

/* m y and x^2 stay below 2^63: values count at most this much, windows have at most 13 x 13 pixels. */
#define SPOT_GREATEST ((1 << 24) - 1)
#define SPOT_LARGEST_KERNEL 6

typedef struct {
    size_t ny, nx;
    int itemsize;
    uint64_t top;        /* greater values aren't counts */
    const uint8_t *frame, *mask; /* mask: not 0 where flagged, or NULL */
    size_t k;
    uint32_t min_count;
    double nsigma_b, nsigma_s, threshold;
} dispersion;

typedef struct {
    int32_t *value;                          /* nx: a row; -1 where invalid */
    uint32_t *m, *m_along;                   /* nx; nx + 1: sums over the band's rows, and of these along the row */
    uint64_t *x, *y, *x_along, *y_along;
} band;

static int band_open(band *b, size_t nx) {
    memset(b, 0, sizeof *b);
    b->value = malloc(nx * sizeof *b->value);
    b->m = calloc(2 * nx + 1, sizeof *b->m);
    b->x = calloc(4 * nx + 2, sizeof *b->x);
    if (!b->value || !b->m || !b->x) return 0;
    b->m_along = b->m + nx;
    b->y = b->x + nx;
    b->x_along = b->y + nx;
    b->y_along = b->x_along + nx + 1;
    return 1;
}

static void band_close(band *b) {
    free(b->value);
    free(b->m);
    free(b->x);
}

#define LOAD_ROW(type)                                                                             \
    for (size_t i = 0; i < d->nx; i++) {                                                           \
        const uint64_t v = ((const type *)row)[i];                                                 \
        value[i] = v > d->top ? -1 : (int32_t)(v < SPOT_GREATEST ? v : SPOT_GREATEST);             \
    }

/* Row `y` of the frame as counts, -1 where there is none. */
static CLONES void load_row(const dispersion *d, size_t y, int32_t *RESTRICT value) {
    const uint8_t *row = d->frame + y * d->nx * (size_t)d->itemsize;
    if (d->itemsize == 1) {
        LOAD_ROW(uint8_t)
    } else if (d->itemsize == 2) {
        LOAD_ROW(uint16_t)
    } else {
        LOAD_ROW(uint32_t)
    }
    if (d->mask)
        for (size_t i = 0; i < d->nx; i++) value[i] = d->mask[y * d->nx + i] ? -1 : value[i];
}

/* Adds row `y` to the columns' sums, or takes it away again. */
static CLONES void band_count(const dispersion *d, band *b, size_t y, int add) {
    int32_t *RESTRICT value = b->value;
    uint32_t *RESTRICT m = b->m;
    uint64_t *RESTRICT x = b->x, *RESTRICT q = b->y;
    load_row(d, y, value);
    const uint64_t sign = add ? 1 : (uint64_t)-1;
    for (size_t i = 0; i < d->nx; i++) {
        const uint64_t v = value[i] < 0 ? 0 : (uint64_t)value[i];
        m[i] += (uint32_t)sign & (value[i] < 0 ? 0U : ~0U); /* 1, or its negative */
        x[i] += sign * v;
        q[i] += sign * (v * v);
    }
}

static void band_sum_along(band *b, size_t nx) {
    uint32_t m = 0;
    uint64_t x = 0, y = 0;
    b->m_along[0] = 0, b->x_along[0] = 0, b->y_along[0] = 0;
    for (size_t i = 0; i < nx; i++) {
        b->m_along[i + 1] = m += b->m[i];
        b->x_along[i + 1] = x += b->x[i];
        b->y_along[i + 1] = y += b->y[i];
    }
}

static int is_strong(const dispersion *d, const band *b, size_t i) {
    const size_t first = i < d->k ? 0 : i - d->k, end = i + d->k + 1 < d->nx ? i + d->k + 1 : d->nx;
    const int64_t m = (int64_t)(b->m_along[end] - b->m_along[first]);
    const int64_t x = (int64_t)(b->x_along[end] - b->x_along[first]);
    const int64_t y = (int64_t)(b->y_along[end] - b->y_along[first]);
    if (m < (int64_t)d->min_count) return 0;
    const double spread = (double)(m * y - x * x - x * (m - 1)), above = (double)(m * b->value[i] - x);
    return spread > (double)x * d->nsigma_b * sqrt(2.0 * (double)(m - 1)) &&
           above > d->nsigma_s * sqrt((double)m * (double)x);
}

/* Sets `strong` (ny, nx) to 1 where a pixel is strong, else 0; returns how many are, or -1 without memory. */
static int64_t find_strong(const dispersion *d, uint8_t *strong) {
    band b;
    int64_t found = 0;
    if (!band_open(&b, d->nx)) {
        band_close(&b);
        return -1;
    }
    for (size_t y = 0; y < d->k && y < d->ny; y++) band_count(d, &b, y, 1);
    for (size_t y = 0; y < d->ny; y++) {
        uint8_t *row = strong + y * d->nx;
        if (y + d->k < d->ny) band_count(d, &b, y + d->k, 1);
        if (y > d->k) band_count(d, &b, y - d->k - 1, 0);
        band_sum_along(&b, d->nx);
        load_row(d, y, b.value);
        memset(row, 0, d->nx);
        for (size_t i = 0; i < d->nx; i++)
            if (UNLIKELY(b.value[i] > d->threshold) && is_strong(d, &b, i)) row[i] = 1, found++;
    }
    band_close(&b);
    return found;
}

static int32_t root_of(int32_t *parent, int32_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
}

/* The smaller index becomes the root, so that a component's root is its first pixel. */
static void join(int32_t *parent, int32_t i, int32_t j) {
    i = root_of(parent, i), j = root_of(parent, j);
    if (i < j) parent[j] = i;
    if (j < i) parent[i] = j;
}

/* Joins every pixel to the one at `step` further on, if that is there; not across a row's end where `row` isn't 0. */
static void join_at(const int64_t *keys, int32_t n, int64_t step, int64_t row, int32_t *parent) {
    int32_t j = 0;
    for (int32_t i = 0; i < n; i++) {
        while (j < n && keys[j] < keys[i] + step) j++;
        if (j < n && keys[j] == keys[i] + step && (!row || (keys[i] + step) % row >= step)) join(parent, i, j);
    }
}

/* Numbers the components of n pixels, keys (frame * ny + y) * nx + x that rise, from 0 by their first pixel; returns
 * how many there are. Pixels touch where they share a face, in the frame or to the next frame. */
static int32_t label_components(const int64_t *keys, int32_t n, int64_t ny, int64_t nx, int32_t *labels) {
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++) labels[i] = i;
    join_at(keys, n, 1, nx, labels);
    join_at(keys, n, nx, ny * nx, labels);
    join_at(keys, n, ny * nx, 0, labels);
    for (int32_t i = 0; i < n; i++) labels[i] = root_of(labels, i);
    /* Roots come before what hangs on them, so that theirs is numbered already. */
    for (int32_t i = 0; i < n; i++) labels[i] = labels[i] == i ? count++ : labels[labels[i]];
    return count;
}

#endif
