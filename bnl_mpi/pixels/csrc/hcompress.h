/* The HCompress round trip: H-transform, quantisation and their inverses, without the entropy coder.
 *
 * R. L. White, "High-performance compression of astronomical images" (1992): a two-dimensional Haar
 * transform in integers, whose coefficients are rounded so that it can be undone exactly. Each level
 * turns 2 x 2 pixels A B / C D into a sum and differences along the slow axis (hx), the fast axis (hy)
 * and both (hc); the sums are the pixels of the next level. The rounding must be that of the FITS
 * library to the bit, since the published decoder is what users compare with.
 *
 * Here the bands of a level are planes of their own, so that every loop runs along contiguous rows; the
 * differences are quantised as they are made. A tile and its planes stay in the second-level cache.
 */
#ifndef BNL_HCOMPRESS_H
#define BNL_HCOMPRESS_H

#include "common.h"

#define HC_LEVELS 31

typedef struct {
    uint32_t scale, half; /* quantiser step; what is added before the division rounds down */
    int divides;          /* scale is no power of two, which takes more than a mask; 1, which loses nothing, is one */
    uint64_t magic;       /* n / scale = n * magic >> shift for n < 2**31 (Granlund and Montgomery 1994) */
    int shift;
} hc_step;

static hc_step hc_step_of(int64_t scale) {
    hc_step q = {.scale = scale > 1 ? (uint32_t)scale : 1};
    q.divides = (q.scale & (q.scale - 1)) != 0;
    q.half = (q.scale + 1) / 2 - 1;
    q.shift = 31;
    while (((uint64_t)1 << (q.shift - 31)) < q.scale) q.shift++;
    q.magic = (((uint64_t)1 << q.shift) + q.scale - 1) / q.scale;
    return q;
}

/* Rounds to a multiple of the step, halves (of an even step) towards zero. */
INLINE int32_t hc_divide_32(int32_t x, hc_step q) {
    const int32_t sign = x >> 31;
    const uint32_t size = (uint32_t)((x ^ sign) - sign) + q.half;
    const uint32_t kept = (uint32_t)((uint64_t)size * (uint32_t)q.magic >> q.shift) * q.scale;
    return ((int32_t)kept ^ sign) - sign;
}

INLINE int64_t hc_divide_64(int64_t x, hc_step q) {
    return (x > 0 ? x + q.half : x - q.half) / q.scale * q.scale;
}

INLINE int16_t hc_divide_16(int16_t x, hc_step q) { return (int16_t)hc_divide_32(x, q); }

/* log2 of the longer side, rounded up: the number of levels. */
static int hc_levels(size_t ny, size_t nx) {
    const size_t side = ny > nx ? ny : nx;
    int levels = 0;
    while (((size_t)1 << levels) < side) levels++;
    return levels;
}

/* Elements of workspace a tile needs: per level four bands, each rounded up. */
static size_t hc_workspace(size_t ny, size_t nx) {
    size_t n = 0;
    for (int k = hc_levels(ny, nx); k > 0; k--) {
        ny = (ny + 1) / 2;
        nx = (nx + 1) / 2;
        n += 4 * ny * nx;
    }
    return n;
}

#define T int16_t
#define HC(name) name##_16
#include "hcompress_level.h"
#undef T
#undef HC

#define T int32_t
#define HC(name) name##_32
#include "hcompress_level.h"
#include "hcompress_tile.h"
#undef T
#undef HC

#define T int64_t
#define HC(name) name##_64
#include "hcompress_level.h"
#include "hcompress_tile.h"
#undef T
#undef HC

/* A tile whose first level, of most pixels, needs 16 bits alone; `work` as for 32 bits, whose first level it shares. */
INLINE void hc_tile_16_by(int16_t *tile, size_t ny, size_t nx, hc_step q, int32_t *work, int divides) {
    const size_t rows = (ny + 1) / 2, columns = (nx + 1) / 2, n = rows * columns;
    int16_t *const bands = (int16_t *)(work + n), *const sums = bands + 3 * n;
    hc_forward_16(tile, ny, nx, sums, bands, bands + n, bands + 2 * n, 0, q, divides);
    for (size_t i = 0; i < n; i++) work[i] = sums[i];
    hc_levels_by_32(work, rows, columns, 1, q, work + 4 * n, divides);
    for (size_t i = 0; i < n; i++) sums[i] = (int16_t)work[i];
    hc_inverse_16(tile, ny, nx, sums, bands, bands + n, bands + 2 * n, 0);
}

static CLONES void hc_tile_16(int16_t *tile, size_t ny, size_t nx, hc_step q, int32_t *work) {
    if (q.divides)
        hc_tile_16_by(tile, ny, nx, q, work, 1);
    else
        hc_tile_16_by(tile, ny, nx, q, work, 0);
}

static CLONES uint32_t hc_greatest_u2(const uint16_t *image, size_t n) {
    uint16_t all = 0;
    for (size_t i = 0; i < n; i++) all = image[i] > all ? image[i] : all;
    return all;
}

static CLONES uint32_t hc_greatest(const int32_t *image, size_t n) {
    uint32_t all = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t v = (uint32_t)(image[i] ^ (image[i] >> 31));
        all = v > all ? v : all;
    }
    return all;
}

/* Whether no sum in either direction leaves 32 bits. With n levels and pixels up to v, sums reach
 * 2**(n+1) * (2v + n), and quantising moves what is rebuilt by a few steps and roundings. */
static int hc_fits_32(uint64_t v, int n, int64_t scale) {
    if (n > 24 || scale > ((int64_t)1 << 24)) return 0;
    return ((2 * v + (uint64_t)n) << (n + 1)) + 8 * ((uint64_t)(scale > 1 ? scale : 1) + ((uint64_t)4 << n)) <
           ((uint64_t)1 << 31);
}

/* Whether the first of n levels stays within 16 bits. Its sums reach 4v + 2 on the way there. On the way back each
 * level adds up to 3 halves of a step, and less than 12 times its lowest bit for roundings, to the error of its sums,
 * and halves it: four times a pixel is rebuilt to within 3 steps and 12n + 16. Twice that is kept free. */
static int hc_fits_16(uint64_t v, int n, int64_t scale) {
    return n > 0 && 4 * v + 8 * (uint64_t)(scale > 1 ? scale : 1) + 32 * (uint64_t)n + 64 <= INT16_MAX;
}

/* Memory for tiles of up to so many rows. */
typedef struct {
    hc_step q;
    int64_t scale;
    size_t rows, nx;
    int32_t *narrow;
    int32_t *widened; /* a tile of 16-bit pixels */
    int64_t *wide, *wide_tile;
} hc_memory;

static void hc_memory_drop(hc_memory *m) {
    free(m->narrow);
    free(m->widened);
    free(m->wide);
    free(m->wide_tile);
}

static int hc_memory_hold(hc_memory *m, size_t rows, size_t nx, int64_t scale) {
    *m = (hc_memory){.q = hc_step_of(scale), .scale = scale, .rows = rows, .nx = nx,
                     .narrow = malloc(hc_workspace(rows, nx) * sizeof(int32_t))};
    return m->narrow != NULL;
}

/* Round trip of one tile, in place. Returns 0 if memory ran out. */
static int hc_tile(hc_memory *m, int32_t *pixels, size_t n_rows) {
    const size_t n = n_rows * m->nx;
    if (hc_fits_32(hc_greatest(pixels, n), hc_levels(n_rows, m->nx), m->scale)) {
        hc_tile_32(pixels, n_rows, m->nx, m->q, m->narrow);
        return 1;
    }
    if (!m->wide) m->wide = malloc(hc_workspace(m->rows, m->nx) * sizeof(int64_t));
    if (!m->wide_tile) m->wide_tile = malloc(m->rows * m->nx * sizeof(int64_t));
    if (!m->wide || !m->wide_tile) return 0;
    for (size_t i = 0; i < n; i++) m->wide_tile[i] = pixels[i];
    hc_tile_64(m->wide_tile, n_rows, m->nx, m->q, m->wide);
    for (size_t i = 0; i < n; i++) pixels[i] = (int32_t)(uint32_t)(uint64_t)m->wide_tile[i];
    return 1;
}

/* The same of 16-bit pixels. Returns what came of them, of *size bytes each and signed, or NULL if memory ran out. */
static const void *hc_tile_u2(hc_memory *m, uint16_t *pixels, size_t n_rows, int *size) {
    const size_t n = n_rows * m->nx;
    if (hc_fits_16(hc_greatest_u2(pixels, n), hc_levels(n_rows, m->nx), m->scale)) {
        *size = 2;
        hc_tile_16((int16_t *)pixels, n_rows, m->nx, m->q, m->narrow);
        return pixels;
    }
    *size = 4;
    if (!m->widened) m->widened = malloc(m->rows * m->nx * sizeof(int32_t));
    if (!m->widened) return NULL;
    for (size_t i = 0; i < n; i++) m->widened[i] = pixels[i];
    return hc_tile(m, m->widened, n_rows) ? m->widened : NULL;
}

/* Round trip of an image in tiles of `tile` whole rows, in place. Returns 0 if memory ran out. */
static int hc_roundtrip(int32_t *image, size_t ny, size_t nx, size_t tile, int64_t scale) {
    const size_t rows = tile < ny ? tile : ny;
    hc_memory memory;
    int ok = hc_memory_hold(&memory, rows, nx, scale);
    for (size_t y = 0; ok && y < ny; y += rows)
        ok = hc_tile(&memory, image + y * nx, ny - y < rows ? ny - y : rows);
    hc_memory_drop(&memory);
    return ok;
}

#endif
