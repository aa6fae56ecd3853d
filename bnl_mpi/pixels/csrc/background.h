/* Kept regions exact, all else its smooth local mean: integers and exact doubles alone, so that every machine agrees.
 *
 * Levels are counts in fixed point, 12 bits after the point. The mean is made over cells of c x c pixels, c a power
 * of two: pooled, blurred with the weights that Python gives, divided, and interpolated between cells' centres.
 */
#ifndef BNL_BACKGROUND_H
#define BNL_BACKGROUND_H

#include <math.h>

#include "common.h"
#include "reduce.h"

enum { KEPT = 1, ABSENT = 2, AROUND = 4, PLAIN = KEPT | ABSENT };

enum { LEVEL_BITS = 12, LEVEL_ONE = 1 << LEVEL_BITS, MOST_TAPS = 64, NEAR_SHARE = 32, POSITION_UNITS = 8 };

typedef struct {
    size_t ny, nx;
    unsigned cell_bits;
    uint32_t limit;
    uint32_t low; /* below this level kept pixels stay */
    const uint32_t *weights; /* 2 * reach + 1 of them, their sum 256 */
    size_t reach;
    uint16_t *values;
    const uint8_t *flags;
    uint8_t *state; /* of a pixel: KEPT, ABSENT, both or neither, which is background; AROUND a disc beside these */
    uint32_t *level;
    uint32_t *centres; /* room for ny * nx */
    size_t n_centres;
} background;

/* One resolution of the pyramid: pooled counts and numbers of pixels, and the means that come of them. */
typedef struct {
    size_t ny, nx;
    double *sum, *n; /* whole numbers, which doubles add without rounding */
    uint32_t *mean;
} cell_grid;

typedef struct {
    cell_grid grids[32];
    size_t n_grids;
    double *work_sum, *work_n, *row_sum, *row_n;
} pyramid;

static void pyramid_drop(pyramid *p) {
    for (size_t k = 0; k < p->n_grids; k++) free(p->grids[k].sum);
    free(p->work_sum);
}

static int pyramid_open(pyramid *p, size_t ny, size_t nx) {
    p->n_grids = 0;
    p->work_sum = malloc((2 * ny * nx + 2 * nx) * sizeof(double));
    if (!p->work_sum) return 0;
    p->work_n = p->work_sum + ny * nx;
    p->row_sum = p->work_n + ny * nx;
    p->row_n = p->row_sum + nx;
    for (;;) {
        cell_grid *g = &p->grids[p->n_grids];
        g->ny = ny;
        g->nx = nx;
        g->sum = calloc(ny * nx, 2 * sizeof(double) + sizeof(uint32_t));
        if (!g->sum) return 0;
        g->n = g->sum + ny * nx;
        g->mean = (uint32_t *)(g->n + ny * nx);
        p->n_grids++;
        if (ny * nx == 1 || p->n_grids == 32) return 1;
        ny = (ny + 1) / 2;
        nx = (nx + 1) / 2;
    }
}

/* ---- what is kept ---- */

static uint64_t square_root(uint64_t square) {
    uint64_t root = (uint64_t)sqrt((double)square);
    while (root * root > square) root--;
    while ((root + 1) * (root + 1) <= square) root++;
    return root;
}

INLINE int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

/* Sets a bit of the pixels whose centre is within r of (x, y), in eighths of a pixel. */
static void set_disc(const background *b, int64_t x, int64_t y, int64_t r, uint8_t bit) {
    const int64_t unit = POSITION_UNITS, half = unit / 2;
    int64_t first = -floor_div(-(y - r - half), unit), last = floor_div(y + r - half, unit);
    if (first < 0) first = 0;
    if (last > (int64_t)b->ny - 1) last = (int64_t)b->ny - 1;
    for (int64_t row = first; row <= last; row++) {
        const int64_t dy = row * unit + half - y, left = r * r - dy * dy;
        if (left < 0) continue;
        const int64_t reach = (int64_t)square_root((uint64_t)left);
        int64_t from = -floor_div(-(x - reach - half), unit), to = floor_div(x + reach - half, unit);
        if (from < 0) from = 0;
        if (to > (int64_t)b->nx - 1) to = (int64_t)b->nx - 1;
        uint8_t *state = b->state + (size_t)row * b->nx;
        for (int64_t column = from; column <= to; column++) state[column] |= bit;
    }
}

/* Keeps a pixel's eight neighbours and itself; what was pooled of them is taken out again if there is a grid. */
static void keep_around(const background *b, size_t pixel, cell_grid *g) {
    const size_t y = pixel / b->nx, x = pixel % b->nx;
    const size_t y1 = y + 1 < b->ny ? y + 1 : y, x1 = x + 1 < b->nx ? x + 1 : x;
    for (size_t row = y ? y - 1 : 0; row <= y1; row++)
        for (size_t column = x ? x - 1 : 0; column <= x1; column++) {
            const size_t i = row * b->nx + column;
            if (!(b->state[i] & PLAIN) && g) {
                const size_t cell = (row >> b->cell_bits) * g->nx + (column >> b->cell_bits);
                g->sum[cell] -= b->values[i];
                g->n[cell]--;
            }
            b->state[i] |= KEPT;
        }
}

/* Adds what is invalid in this image to the state; whether there is such a pixel, or a saturated one. */
static CLONES int note_invalid(const uint16_t *RESTRICT values, const uint8_t *RESTRICT flags,
                               uint8_t *RESTRICT state, size_t n, uint32_t limit) {
    uint32_t any = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t invalid = flags[i] & INVALID, over = values[i] >= limit ? 1u : 0u;
        any |= over | invalid;
        state[i] = (uint8_t)(state[i] | invalid * ABSENT);
    }
    return any != 0;
}

/* Saturated pixels, and those that are invalid by their value, which overloads are: their neighbours are of a strong
 * spot. What is absent already is so in every image. */
static void keep_saturated(background *b, uint8_t *before) {
    for (size_t y = 0; y < b->ny; y++) {
        const size_t start = y * b->nx;
        memcpy(before, b->state + start, b->nx);
        if (!note_invalid(b->values + start, b->flags + start, b->state + start, b->nx, b->limit)) continue;
        for (size_t x = 0; x < b->nx; x++) {
            if (before[x] & ABSENT) continue;
            const size_t i = start + x;
            if ((b->flags[i] & INVALID) || b->values[i] >= b->limit) b->centres[b->n_centres++] = (uint32_t)i;
        }
    }
    for (size_t k = 0; k < b->n_centres; k++) keep_around(b, b->centres[k], NULL);
}

/* ---- the local mean ---- */

/* Adds a row's background to columns' sums and numbers. */
static CLONES void pool_row(const uint16_t *RESTRICT values, const uint8_t *RESTRICT state, uint32_t *RESTRICT sum,
                            uint32_t *RESTRICT n, size_t nx) {
    for (size_t x = 0; x < nx; x++) {
        const uint32_t use = (state[x] & PLAIN) == 0;
        sum[x] += values[x] & (0u - use);
        n[x] += use;
    }
}

/* Columns' sums and numbers, which start anew, as those of a row of cells. */
INLINE void pool_cells(uint32_t *RESTRICT columns, double *RESTRICT cells, size_t nx, size_t c) {
    size_t cell = 0, x = 0;
    for (; x + c <= nx; x += c, cell++) {
        uint32_t of_cell = 0;
        for (size_t k = x; k < x + c; k++) of_cell += columns[k];
        cells[cell] = of_cell;
    }
    for (; x < nx; x++) cells[cell] += columns[x];
    memset(columns, 0, nx * sizeof *columns);
}

/* `columns`: room for 2 * nx, all 0. */
static CLONES void pool(const background *b, cell_grid *g, uint32_t *columns) {
    const size_t nx = b->nx, last = ((size_t)1 << b->cell_bits) - 1;
    for (size_t y = 0; y < b->ny; y++) {
        pool_row(b->values + y * nx, b->state + y * nx, columns, columns + nx, nx);
        if ((y & last) != last && y + 1 < b->ny) continue;
        const size_t start = (y >> b->cell_bits) * g->nx;
        for (int k = 0; k < 2; k++) {
            uint32_t *from = columns + (size_t)k * nx;
            double *to = (k ? g->n : g->sum) + start;
            switch (b->cell_bits) {
            case 3: pool_cells(from, to, nx, 8); break;
            case 2: pool_cells(from, to, nx, 4); break;
            case 1: pool_cells(from, to, nx, 2); break;
            default: pool_cells(from, to, nx, 1);
            }
        }
    }
}

/* Along the rows: what lies outside adds nothing. */
static CLONES void blur_rows(const background *b, const cell_grid *g, const double *RESTRICT in,
                             double *RESTRICT out) {
    const ptrdiff_t reach = (ptrdiff_t)b->reach, nx = (ptrdiff_t)g->nx;
    for (size_t y = 0; y < g->ny; y++) {
        const double *RESTRICT from = in + y * g->nx;
        double *RESTRICT to = out + y * g->nx;
        memset(to, 0, g->nx * sizeof *to);
        for (ptrdiff_t k = -reach; k <= reach; k++) {
            const double w = b->weights[k + reach];
            const ptrdiff_t first = k < 0 ? -k : 0, last = k > 0 ? nx - k : nx;
            for (ptrdiff_t x = first; x < last; x++) to[x] += w * from[x + k];
        }
    }
}

/* Down the columns, and the mean: where there is too little near, 0xffffffff. */
static CLONES void blur_columns(const background *b, cell_grid *g, pyramid *p, double least) {
    double *RESTRICT sum = p->row_sum, *RESTRICT n = p->row_n;
    const ptrdiff_t reach = (ptrdiff_t)b->reach, ny = (ptrdiff_t)g->ny;
    for (ptrdiff_t y = 0; y < ny; y++) {
        uint32_t *RESTRICT mean = g->mean + (size_t)y * g->nx;
        for (size_t x = 0; x < g->nx; x++) sum[x] = n[x] = 0;
        for (ptrdiff_t k = -reach; k <= reach; k++) {
            if (y + k < 0 || y + k >= ny) continue;
            const double w = b->weights[k + reach];
            const size_t start = (size_t)(y + k) * g->nx;
            const double *RESTRICT s = p->work_sum + start, *RESTRICT m = p->work_n + start;
            for (size_t x = 0; x < g->nx; x++) {
                sum[x] += w * s[x];
                n[x] += w * m[x];
            }
        }
        for (size_t x = 0; x < g->nx; x++) {
            const double level = floor(sum[x] * LEVEL_ONE / (n[x] > 0 ? n[x] : 1) + 0.5);
            mean[x] = n[x] >= least ? (uint32_t)(int64_t)level : UINT32_MAX;
        }
    }
}

/* The next coarser grid: sums of 2 x 2 cells. */
static void coarsen(const cell_grid *fine, cell_grid *coarse) {
    for (size_t y = 0; y < coarse->ny; y++)
        for (size_t x = 0; x < coarse->nx; x++) {
            double sum = 0, n = 0;
            for (size_t dy = 2 * y; dy < 2 * y + 2 && dy < fine->ny; dy++)
                for (size_t dx = 2 * x; dx < 2 * x + 2 && dx < fine->nx; dx++) {
                    sum += fine->sum[dy * fine->nx + dx];
                    n += fine->n[dy * fine->nx + dx];
                }
            coarse->sum[y * coarse->nx + x] = sum;
            coarse->n[y * coarse->nx + x] = n;
        }
}

/* Means of all cells, from wider surroundings where there is nothing near; 0 where there is nothing at all. */
static void solve(const background *b, pyramid *p) {
    size_t coarsest = 0;
    double full = (double)((size_t)1 << 2 * b->cell_bits) * 65536.0;
    for (;; coarsest++) {
        cell_grid *g = &p->grids[coarsest];
        blur_rows(b, g, g->sum, p->work_sum);
        blur_rows(b, g, g->n, p->work_n);
        const int last = coarsest + 1 == p->n_grids;
        blur_columns(b, g, p, last ? 1 : full / NEAR_SHARE);
        int missing = 0;
        for (size_t i = 0; i < g->ny * g->nx; i++) missing |= g->mean[i] == UINT32_MAX;
        if (!missing) break;
        if (last) {
            for (size_t i = 0; i < g->ny * g->nx; i++)
                if (g->mean[i] == UINT32_MAX) g->mean[i] = 0;
            break;
        }
        coarsen(g, &p->grids[coarsest + 1]);
        full *= 4;
    }
    for (size_t k = coarsest; k-- > 0;) {
        cell_grid *g = &p->grids[k];
        const cell_grid *wide = &p->grids[k + 1];
        for (size_t y = 0; y < g->ny; y++)
            for (size_t x = 0; x < g->nx; x++)
                if (g->mean[y * g->nx + x] == UINT32_MAX)
                    g->mean[y * g->nx + x] = wide->mean[y / 2 * wide->nx + x / 2];
    }
}

/* A row of pixels' levels from the cells' means, between whose centres they are linear. */
INLINE void level_row(const background *b, const cell_grid *g, size_t y, uint32_t *RESTRICT cells,
                      uint32_t *RESTRICT out, size_t c) {
    const unsigned bits = b->cell_bits + 1;
    const uint32_t half = 1u << (bits - 1);
    /* The pixel's centre, in half pixels, from the first cell's centre. */
    const ptrdiff_t at = (ptrdiff_t)(2 * y + 1) - (ptrdiff_t)c;
    const size_t top = at < 0 ? 0 : (size_t)at >> bits, below = top + 1 < g->ny ? top + 1 : top;
    const uint32_t part = at < 0 ? 0 : (uint32_t)at & (2 * (uint32_t)c - 1);
    const uint32_t *RESTRICT a = g->mean + top * g->nx, *RESTRICT d = g->mean + below * g->nx;
    for (size_t x = 0; x < g->nx; x++) cells[x] = ((2 * (uint32_t)c - part) * a[x] + part * d[x] + half) >> bits;
    cells[g->nx] = cells[g->nx - 1];
    size_t x = 0;
    for (; x < c / 2 && x < b->nx; x++) out[x] = cells[0];
    size_t cell = 0;
    for (; x + c <= b->nx; x += c, cell++) {
        const uint32_t left = cells[cell], right = cells[cell + 1];
        for (size_t k = 0; k < c; k++) {
            const uint32_t w = (uint32_t)(2 * k + (c > 1));
            out[x + k] = ((2 * (uint32_t)c - w) * left + w * right + half) >> bits;
        }
    }
    for (size_t k = 0; x < b->nx; x++, k++) {
        const uint32_t w = (uint32_t)(2 * k + (c > 1));
        out[x] = ((2 * (uint32_t)c - w) * cells[cell] + w * cells[cell + 1 < g->nx ? cell + 1 : cell] + half) >> bits;
    }
}

static CLONES void levels_of_row(const background *b, const cell_grid *g, size_t y, uint32_t *cells, uint32_t *out) {
    switch (b->cell_bits) {
    case 3: level_row(b, g, y, cells, out, 8); break;
    case 2: level_row(b, g, y, cells, out, 4); break;
    case 1: level_row(b, g, y, cells, out, 2); break;
    default: level_row(b, g, y, cells, out, 1);
    }
}

/* ---- what stands out ---- */

/* Whether v > m + 5 sqrt(m + 1/2) + 1. */
INLINE int stands_out(uint32_t v, uint32_t m) {
    const int64_t over = ((int64_t)v << LEVEL_BITS) - m - LEVEL_ONE;
    return over > 0 && (uint64_t)(over * over) > 25 * ((uint64_t)m + LEVEL_ONE / 2) * LEVEL_ONE;
}

/* Whether some pixel could: 5 sqrt(1/2) + 1 is more than 4.5. */
static CLONES int row_may_stand_out(const uint16_t *RESTRICT v, const uint32_t *RESTRICT m, size_t n) {
    uint32_t any = 0;
    for (size_t i = 0; i < n; i++) any |= (uint32_t)v[i] * 2 > (m[i] >> (LEVEL_BITS - 1)) + 8;
    return (int)any;
}

/* Keeps what stands out of its surroundings; returns how many pixels did. */
static size_t keep_outliers(background *b, pyramid *p, uint32_t *cells) {
    cell_grid *g = &p->grids[0];
    const size_t before = b->n_centres, step = 64;
    for (size_t y = 0; y < b->ny; y++) {
        uint32_t *m = b->level; /* one row of it, overwritten later */
        levels_of_row(b, g, y, cells, m);
        for (size_t x = 0; x < b->nx; x += step) {
            const size_t n = b->nx - x < step ? b->nx - x : step, start = y * b->nx + x;
            if (!row_may_stand_out(b->values + start, m + x, n)) continue;
            for (size_t k = 0; k < n; k++)
                if (!(b->state[start + k] & PLAIN) && stands_out(b->values[start + k], m[x + k]))
                    b->centres[b->n_centres++] = (uint32_t)(start + k);
        }
    }
    for (size_t k = before; k < b->n_centres; k++) keep_around(b, b->centres[k], g);
    return b->n_centres - before;
}

/* Keeps discs, (n, 3) of x, y, r in eighths of a pixel, beside what is kept already; finds what else is to be kept,
 * and the level of every pixel. */
static int background_find(background *b, const int32_t *discs, size_t n_discs) {
    const size_t c = (size_t)1 << b->cell_bits, cells_y = (b->ny + c - 1) / c, cells_x = (b->nx + c - 1) / c;
    pyramid p;
    uint32_t *cells = calloc(2 * b->nx + 1, sizeof *cells);
    const int ok = pyramid_open(&p, cells_y, cells_x) && cells != NULL;
    if (ok) {
        for (size_t k = 0; k < n_discs; k++) {
            const int32_t *disc = discs + 3 * k;
            set_disc(b, disc[0], disc[1], 2 * (int64_t)disc[2] + POSITION_UNITS / 2, AROUND);
            set_disc(b, disc[0], disc[1], disc[2], KEPT);
        }
        b->n_centres = 0;
        keep_saturated(b, (uint8_t *)cells);
        memset(cells, 0, b->nx); /* of which it used one byte a pixel */
        pool(b, &p.grids[0], cells);
        solve(b, &p);
        for (int round = 0; round < 2; round++) {
            /* The second time without what the first found: strong spots hide weaker ones beside them. */
            if (!keep_outliers(b, &p, cells)) break;
            solve(b, &p);
        }
        for (size_t y = 0; y < b->ny; y++) levels_of_row(b, &p.grids[0], y, cells, b->level + y * b->nx);
    }
    pyramid_drop(&p);
    free(cells);
    return ok;
}

/* ---- the new image ---- */

typedef struct {
    uint64_t sum_before, sum_after, n_kept;
} background_sums;

/* What becomes of a pixel: it gets its rounded level, is moved by what rounding does to it, is the level dithered, or
 * stays. Dithered is what lies around a disc where the level is low, so that nothing can be taken from most pixels:
 * there kept pixels stay. */
enum { ROUNDED, MOVED, DITHERED, STAYS };

/* Without branches, so that the loops over rows are vectorised. */
INLINE uint32_t fate_of(uint32_t state, uint32_t level, uint32_t low) {
    const uint32_t is_low = level < low, kept = state & KEPT, around = (state / AROUND) & 1, here = !(state & ABSENT);
    return here * (kept * (MOVED + is_low * (STAYS - MOVED)) + (1 - kept) * around * is_low * DITHERED);
}

/* Pixels of a row that are worked on together: their sums fit 32 bits. */
enum { STRETCH = 1024, N_FATES = STAYS + 1 };

/* Histograms of the levels' fractions, by fate; whole levels and counts, of what is rounded and of what is moved. */
typedef struct {
    uint32_t n_of[N_FATES * LEVEL_ONE];
    uint64_t whole[2], counts[2];
} level_sums;

static CLONES void take_run(const uint16_t *RESTRICT values, const uint8_t *RESTRICT state,
                            const uint32_t *RESTRICT level, size_t n, uint32_t low, uint32_t *RESTRICT bins,
                            level_sums *sums) {
    uint32_t whole[2] = {0, 0}, counts[2] = {0, 0};
    for (size_t i = 0; i < n; i++) {
        /* What is absent is rounded, but counts nowhere: as if it stayed. */
        const uint32_t absent = (state[i] & ABSENT) != 0, fate = fate_of(state[i], level[i], low) | (absent * STAYS);
        const uint32_t rounded = 0u - (fate == ROUNDED), moved = 0u - (fate == MOVED);
        bins[i] = fate << LEVEL_BITS | (level[i] & (LEVEL_ONE - 1));
        whole[0] += (level[i] >> LEVEL_BITS) & rounded;
        whole[1] += (level[i] >> LEVEL_BITS) & moved;
        counts[0] += values[i] & rounded;
        counts[1] += values[i] & moved;
    }
    for (int k = 0; k < 2; k++) {
        sums->whole[k] += whole[k];
        sums->counts[k] += counts[k];
    }
}

static void take_levels(const background *b, uint32_t low, level_sums *sums) {
    uint32_t bins[STRETCH];
    const size_t all = b->ny * b->nx;
    memset(sums, 0, sizeof *sums);
    for (size_t start = 0; start < all; start += STRETCH) {
        const size_t n = all - start < STRETCH ? all - start : STRETCH;
        take_run(b->values + start, b->state + start, b->level + start, n, low, bins, sums);
        for (size_t i = 0; i < n; i++) sums->n_of[bins[i]]++;
    }
}

/* The sum of all levels of a fate. */
static uint64_t levels_of(const level_sums *sums, int fate) {
    uint64_t sum = sums->whole[fate] << LEVEL_BITS;
    for (uint32_t k = 0; k < LEVEL_ONE; k++) sum += (uint64_t)sums->n_of[fate * LEVEL_ONE + (int)k] * k;
    return sum;
}

/* What is added to levels before they are cut to whole counts so that their sum is `wanted`, nearly: about a half as
 * a rule. Of what is rounded alone, or of what is moved too. */
static uint32_t rounding(const level_sums *sums, int moved_too, uint64_t wanted) {
    uint64_t up = sums->whole[ROUNDED] + (moved_too ? sums->whole[MOVED] : 0);
    uint32_t from = LEVEL_ONE;
    while (from > 0) {
        const uint64_t n = (uint64_t)sums->n_of[ROUNDED * LEVEL_ONE + from - 1] + (moved_too ? sums->n_of[MOVED * LEVEL_ONE + from - 1] : 0);
        if (up + n / 2 >= wanted) break;
        up += n;
        from--;
    }
    return LEVEL_ONE - from;
}

static const uint8_t DITHER[4][4] = {{0, 8, 2, 10}, {12, 4, 14, 6}, {3, 11, 1, 9}, {15, 7, 13, 5}};

/* What is added to the fractions of a row's pixels before they are cut. */
static void thresholds_of(size_t y, uint32_t *thresholds) {
    for (size_t x = 0; x < STRETCH; x++) thresholds[x] = DITHER[y & 3][x & 3] * (LEVEL_ONE / 16u) + LEVEL_ONE / 32u;
}

/* A kept pixel on its rounded level is changed by one of two neighbouring integers, by an ordered dither; a saturated
 * one stays. */
static CLONES void move_run(uint16_t *RESTRICT values, const uint8_t *RESTRICT state, const uint32_t *RESTRICT level,
                            const uint32_t *RESTRICT thresholds, size_t n, const background *b, uint32_t up,
                            background_sums *sums) {
    const int32_t limit = (int32_t)b->limit;
    const uint32_t low = b->low;
    uint32_t before = 0, after = 0, kept = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t fate = fate_of(state[i], level[i], low), here = !(state[i] & ABSENT);
        const int32_t value = values[i], at = (int32_t)level[i];
        int32_t whole = (int32_t)((level[i] + up) >> LEVEL_BITS);
        whole = whole < limit ? whole : limit;
        int32_t now = value + ((whole * LEVEL_ONE - at + (int32_t)thresholds[i]) >> LEVEL_BITS);
        now = now < 0 ? 0 : now;
        now = now > limit ? limit : now;
        now = value >= limit ? value : now;
        const int32_t spread = (at + (int32_t)thresholds[i]) >> LEVEL_BITS;
        const int32_t is_moved = 0 - (int32_t)(fate == MOVED), is_spread = 0 - (int32_t)(fate == DITHERED);
        const uint32_t new_value = (uint32_t)((now & is_moved) | (spread & is_spread) | (value & ~(is_moved | is_spread)));
        values[i] = (uint16_t)new_value;
        before += (uint32_t)value & (0u - here);
        after += new_value & (0u - (uint32_t)(fate != ROUNDED));
        kept += here & state[i];
    }
    sums->sum_before += before;
    sums->sum_after += after;
    sums->n_kept += kept;
}

static CLONES uint32_t round_run(uint16_t *RESTRICT values, const uint8_t *RESTRICT state,
                                 const uint32_t *RESTRICT level, size_t n, const background *b, uint32_t up) {
    const uint32_t limit = b->limit, low = b->low;
    uint32_t after = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t rounded = 0u - (uint32_t)(fate_of(state[i], level[i], low) == ROUNDED);
        uint32_t whole = (level[i] + up) >> LEVEL_BITS;
        whole = whole < limit ? whole : limit;
        values[i] = (uint16_t)((whole & rounded) | (values[i] & ~rounded));
        after += whole & rounded & (0u - (uint32_t)!(state[i] & ABSENT));
    }
    return after;
}

/* All that isn't kept, invalid pixels among it, gets its level, rounded; kept pixels stand on it then. The sum of all
 * counts stays. */
static int background_apply(background *b, background_sums *sums) {
    uint32_t thresholds[STRETCH];
    level_sums *levels = malloc(sizeof *levels);
    if (!levels) return 0;
    memset(sums, 0, sizeof *sums);
    take_levels(b, b->low, levels);
    const uint64_t moved = (levels_of(levels, MOVED) + LEVEL_ONE / 2) >> LEVEL_BITS;
    uint32_t up = rounding(levels, 1, levels->counts[ROUNDED] + moved);
    for (size_t y = 0; y < b->ny; y++) {
        thresholds_of(y, thresholds);
        for (size_t x = 0; x < b->nx; x += STRETCH) {
            const size_t n = b->nx - x < STRETCH ? b->nx - x : STRETCH, i = y * b->nx + x;
            move_run(b->values + i, b->state + i, b->level + i, thresholds, n, b, up, sums);
        }
    }
    up = rounding(levels, 0, sums->sum_before > sums->sum_after ? sums->sum_before - sums->sum_after : 0);
    const size_t all = b->ny * b->nx;
    for (size_t i = 0; i < all; i += STRETCH)
        sums->sum_after += round_run(b->values + i, b->state + i, b->level + i, all - i < STRETCH ? all - i : STRETCH, b, up);
    free(levels);
    return 1;
}

#endif
