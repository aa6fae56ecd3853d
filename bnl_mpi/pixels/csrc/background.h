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
    double taps[MOST_TAPS]; /* the weights, but for those of 0 at both ends, and reach less by these */
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

/* Columns of cells that are marked together. */
enum { MARKED = 8 };

typedef struct {
    cell_grid grids[32];
    size_t n_grids;
    double *work_sum, *work_n, *nothing;         /* of coarse grids in turn; a row of zeros */
    double *fine_sum, *fine_n;                   /* of the finest, blurred along its rows */
    uint8_t *missing;                            /* of the finest: cells whose mean comes from wider surroundings */
    uint8_t *marks;                              /* of the finest: where means, and levels, are to be made anew */
    size_t n_marks;                              /* of a row */
} pyramid;

static size_t rounded_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* The next bytes of the room at *to, which may be NULL to learn how many there are. */
static void *from_room(uint8_t *room, size_t *to, size_t bytes) {
    void *const here = room ? room + *to : NULL;
    *to += rounded_up(bytes);
    return here;
}

/* The grids of an image of (ny, nx) cells; returns the bytes of room that they take. Nothing in them is set. */
static size_t pyramid_open(pyramid *p, size_t ny, size_t nx, uint8_t *room) {
    const size_t n = ny * nx;
    size_t used = 0;
    p->n_grids = 0;
    p->n_marks = (nx + MARKED - 1) / MARKED;
    p->work_sum = from_room(room, &used, n * sizeof(double));
    p->work_n = from_room(room, &used, n * sizeof(double));
    p->fine_sum = from_room(room, &used, n * sizeof(double));
    p->fine_n = from_room(room, &used, n * sizeof(double));
    p->nothing = from_room(room, &used, nx * sizeof(double));
    p->missing = from_room(room, &used, n);
    p->marks = from_room(room, &used, ny * p->n_marks);
    for (;;) {
        cell_grid *g = &p->grids[p->n_grids++];
        g->ny = ny;
        g->nx = nx;
        g->sum = from_room(room, &used, ny * nx * sizeof(double));
        g->n = from_room(room, &used, ny * nx * sizeof(double));
        g->mean = from_room(room, &used, ny * nx * sizeof(uint32_t));
        if (ny * nx == 1 || p->n_grids == 32) return used;
        ny = (ny + 1) / 2;
        nx = (nx + 1) / 2;
    }
}

/* Bytes that background_find needs for an image (ny, nx). */
static size_t background_room(size_t ny, size_t nx, unsigned cell_bits) {
    const size_t c = (size_t)1 << cell_bits;
    pyramid p;
    return pyramid_open(&p, (ny + c - 1) / c, (nx + c - 1) / c, NULL) + rounded_up((2 * nx + 2) * sizeof(uint32_t));
}

/* Marks the finest grid's cells that are within `reach` of one. */
static void mark_around(pyramid *p, size_t y, size_t x, size_t reach) {
    const cell_grid *g = &p->grids[0];
    const size_t y1 = y + reach < g->ny ? y + reach : g->ny - 1, x1 = x + reach < g->nx ? x + reach : g->nx - 1;
    for (size_t row = y > reach ? y - reach : 0; row <= y1; row++)
        for (size_t k = (x > reach ? x - reach : 0) / MARKED; k <= x1 / MARKED; k++) p->marks[row * p->n_marks + k] = 1;
}

/* The next cells in a row that are marked, from *to on, into *from and *to; 0 if there are none. */
static int next_marked(const pyramid *p, size_t y, size_t *from, size_t *to) {
    const uint8_t *marks = p->marks + y * p->n_marks;
    size_t k = (*to + MARKED - 1) / MARKED;
    while (k < p->n_marks && !marks[k]) k++;
    if (k == p->n_marks) return 0;
    *from = k * MARKED;
    while (k < p->n_marks && marks[k]) k++;
    *to = k * MARKED < p->grids[0].nx ? k * MARKED : p->grids[0].nx;
    return 1;
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

/* Keeps a pixel's eight neighbours and itself; what was pooled of them is taken out again if there is a pyramid, and
 * the places marked whose means hang on it, or whose levels do. */
static void keep_around(const background *b, size_t pixel, pyramid *p) {
    cell_grid *g = p ? &p->grids[0] : NULL;
    const size_t y = pixel / b->nx, x = pixel % b->nx;
    const size_t y1 = y + 1 < b->ny ? y + 1 : y, x1 = x + 1 < b->nx ? x + 1 : x;
    for (size_t row = y ? y - 1 : 0; row <= y1; row++)
        for (size_t column = x ? x - 1 : 0; column <= x1; column++) {
            const size_t i = row * b->nx + column;
            if (!(b->state[i] & PLAIN) && g) {
                const size_t cell_y = row >> b->cell_bits, cell_x = column >> b->cell_bits;
                g->sum[cell_y * g->nx + cell_x] -= b->values[i];
                g->n[cell_y * g->nx + cell_x]--;
                mark_around(p, cell_y, cell_x, b->reach + 1);
            }
            b->state[i] |= KEPT;
        }
}

/* Whether there is a pixel in a row that is invalid in this image, or a saturated one. */
static CLONES int some_stand_apart(const uint16_t *RESTRICT values, const uint8_t *RESTRICT flags, size_t n,
                                   uint32_t limit) {
    uint16_t over = 0;
    const uint16_t most = (uint16_t)(limit ? limit - 1 : 0);
    for (size_t i = 0; i < n; i++) over |= (uint16_t)(values[i] > most);
    return over || !limit || !none_set(flags, n);
}

/* Saturated pixels, and those that are invalid by their value, which overloads are: their neighbours are of a strong
 * spot. What is absent already is so in every image. */
static void keep_saturated(background *b) {
    for (size_t y = 0; y < b->ny; y++) {
        const size_t start = y * b->nx;
        if (!some_stand_apart(b->values + start, b->flags + start, b->nx, b->limit)) continue;
        for (size_t i = start; i < start + b->nx; i++) {
            const int invalid = b->flags[i] & INVALID;
            if (!(b->state[i] & ABSENT) && (invalid || b->values[i] >= b->limit)) b->centres[b->n_centres++] = (uint32_t)i;
            if (invalid) b->state[i] |= ABSENT;
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
    if (x < nx) {
        uint32_t of_cell = 0;
        for (; x < nx; x++) of_cell += columns[x];
        cells[cell] = of_cell;
    }
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

/* The weighted sum of the 2 * reach + 1 rows' cell x. */
INLINE double weighted(const double *const *rows, const double *weights, size_t reach, size_t x) {
    double sum = 0;
    for (size_t k = 0; k < 2 * reach + 1; k++) sum += weights[k] * rows[k][x];
    return sum;
}

INLINE void blur_inside(const double *from, double *RESTRICT to, const double *weights, size_t reach, size_t x0,
                        size_t x1) {
    const double *rows[MOST_TAPS];
    for (size_t k = 0; k < 2 * reach + 1; k++) rows[k] = from + k;
    for (size_t x = x0; x < x1; x++) to[x] = weighted(rows, weights, reach, x - reach);
}

/* Cells x0 to x1 - 1 of a row near its ends: what lies outside adds nothing. */
static void blur_ends(const background *b, size_t nx, const double *from, double *to, size_t x0, size_t x1) {
    for (size_t x = x0; x < x1; x++) {
        to[x] = 0;
        for (size_t k = 0; k < 2 * b->reach + 1; k++)
            if (x + k >= b->reach && x + k < nx + b->reach) to[x] += b->taps[k] * from[x + k - b->reach];
    }
}

/* Cells x0 to x1 - 1 of a row, blurred along it. */
static CLONES void blur_row(const background *b, size_t nx, const double *from, double *to, size_t x0, size_t x1) {
    const size_t inner = nx > b->reach ? nx - b->reach : 0;
    size_t first = x0 > b->reach ? x0 : b->reach, last = x1 < inner ? x1 : inner;
    if (first >= last) first = last = x1;
    blur_ends(b, nx, from, to, x0, first);
    switch (b->reach) { /* a constant number lets the compiler unroll and vectorise */
    case 2: blur_inside(from, to, b->taps, 2, first, last); break;
    case 3: blur_inside(from, to, b->taps, 3, first, last); break;
    case 4: blur_inside(from, to, b->taps, 4, first, last); break;
    default: blur_inside(from, to, b->taps, b->reach, first, last);
    }
    blur_ends(b, nx, from, to, last, x1);
}

INLINE void mean_inside(const double *const *sums, const double *const *numbers, const double *weights, size_t reach,
                        double least, uint32_t *RESTRICT mean, size_t x0, size_t x1) {
    for (size_t x = x0; x < x1; x++) {
        const double sum = weighted(sums, weights, reach, x), n = weighted(numbers, weights, reach, x);
        const double level = floor(sum * LEVEL_ONE / (n > 0 ? n : 1) + 0.5); /* below 2^29 */
        mean[x] = n >= least ? (uint32_t)(int32_t)level : UINT32_MAX;
    }
}

/* Cells x0 to x1 - 1 of row y: down the columns of what is blurred along the rows, and the mean. Where there is too
 * little near it is 0xffffffff. */
static CLONES void mean_row(const background *b, cell_grid *g, const double *sums, const double *numbers,
                            double least, size_t y, size_t x0, size_t x1) {
    const double *s[MOST_TAPS], *n[MOST_TAPS];
    double weights[MOST_TAPS];
    for (size_t k = 0; k < 2 * b->reach + 1; k++) {
        const int inside = y + k >= b->reach && y + k < g->ny + b->reach;
        const size_t row = inside ? y + k - b->reach : y;
        weights[k] = inside ? b->taps[k] : 0;
        s[k] = sums + row * g->nx;
        n[k] = numbers + row * g->nx;
    }
    uint32_t *const mean = g->mean + y * g->nx;
    switch (b->reach) {
    case 2: mean_inside(s, n, weights, 2, least, mean, x0, x1); break;
    case 3: mean_inside(s, n, weights, 3, least, mean, x0, x1); break;
    case 4: mean_inside(s, n, weights, 4, least, mean, x0, x1); break;
    default: mean_inside(s, n, weights, b->reach, least, mean, x0, x1);
    }
}

/* Two rows' 2 x 2 cells; of a last column alone one each. */
static CLONES void coarsen_row(const double *RESTRICT above, const double *RESTRICT below, double *RESTRICT to,
                               size_t nx) {
    for (size_t x = 0; x < nx / 2; x++) to[x] = above[2 * x] + above[2 * x + 1] + (below[2 * x] + below[2 * x + 1]);
    if (nx & 1) to[nx / 2] = above[nx - 1] + below[nx - 1];
}

/* The next coarser grid: sums of 2 x 2 cells. `nothing`: a row of zeros. */
static void coarsen(const cell_grid *fine, cell_grid *coarse, const double *nothing) {
    for (size_t y = 0; y < coarse->ny; y++) {
        const size_t above = 2 * y * fine->nx, below = above + fine->nx;
        const int alone = 2 * y + 1 == fine->ny;
        coarsen_row(fine->sum + above, alone ? nothing : fine->sum + below, coarse->sum + y * coarse->nx, fine->nx);
        coarsen_row(fine->n + above, alone ? nothing : fine->n + below, coarse->n + y * coarse->nx, fine->nx);
    }
}

/* Means of a coarse grid; whether there is none for some cell. */
static int solve_coarse(const background *b, pyramid *p, cell_grid *g, double least) {
    for (size_t i = 0; i < g->ny * g->nx; i += g->nx) {
        blur_row(b, g->nx, g->sum + i, p->work_sum + i, 0, g->nx);
        blur_row(b, g->nx, g->n + i, p->work_n + i, 0, g->nx);
    }
    for (size_t y = 0; y < g->ny; y++) mean_row(b, g, p->work_sum, p->work_n, least, y, 0, g->nx);
    int missing = 0;
    for (size_t i = 0; i < g->ny * g->nx; i++) missing |= g->mean[i] == UINT32_MAX;
    return missing;
}

/* Means of marked cells from what is near; whether it is too little for some cell, marked or not. */
static int solve_fine(const background *b, pyramid *p, double least) {
    cell_grid *g = &p->grids[0];
    for (size_t y = 0; y < g->ny; y++)
        for (size_t i = y * g->nx, from, to = 0; next_marked(p, y, &from, &to);) {
            blur_row(b, g->nx, g->sum + i, p->fine_sum + i, from, to);
            blur_row(b, g->nx, g->n + i, p->fine_n + i, from, to);
        }
    for (size_t y = 0; y < g->ny; y++)
        for (size_t from, to = 0; next_marked(p, y, &from, &to);) {
            mean_row(b, g, p->fine_sum, p->fine_n, least, y, from, to);
            for (size_t i = y * g->nx + from; i < y * g->nx + to; i++) p->missing[i] = g->mean[i] == UINT32_MAX;
        }
    return memchr(p->missing, 1, g->ny * g->nx) != NULL;
}

/* Cells of a coarse grid without a mean get that of the next coarser one. */
static void fill_coarse(cell_grid *g, const cell_grid *wide) {
    for (size_t y = 0; y < g->ny; y++)
        for (size_t x = 0; x < g->nx; x++)
            if (g->mean[y * g->nx + x] == UINT32_MAX) g->mean[y * g->nx + x] = wide->mean[y / 2 * wide->nx + x / 2];
}

/* The same of the finest grid; where that changes levels it is marked. */
static void fill_fine(pyramid *p) {
    cell_grid *g = &p->grids[0];
    const cell_grid *wide = &p->grids[1];
    for (size_t y = 0; y < g->ny; y++) {
        const uint8_t *row = p->missing + y * g->nx, *end = row + g->nx;
        for (const uint8_t *at = row; (at = memchr(at, 1, (size_t)(end - at))) != NULL; at++) {
            const size_t x = (size_t)(at - row);
            const uint32_t mean = wide->mean[y / 2 * wide->nx + x / 2];
            if (mean != g->mean[y * g->nx + x]) mark_around(p, y, x, 1);
            g->mean[y * g->nx + x] = mean;
            if (at + 1 == end) break;
        }
    }
}

/* Means of the finest grid, where marked and where they hang on that: from wider surroundings where there is too
 * little near, 0 where there is nothing at all. */
static void solve(const background *b, pyramid *p) {
    double full = (double)((size_t)1 << 2 * b->cell_bits) * 65536.0;
    size_t coarsest = 0;
    int missing = solve_fine(b, p, p->n_grids == 1 ? 1 : full / NEAR_SHARE);
    while (missing && coarsest + 1 < p->n_grids) {
        memset(p->nothing, 0, p->grids[coarsest].nx * sizeof(double));
        coarsen(&p->grids[coarsest], &p->grids[coarsest + 1], p->nothing);
        coarsest++;
        full *= 4;
        missing = solve_coarse(b, p, &p->grids[coarsest], coarsest + 1 == p->n_grids ? 1 : full / NEAR_SHARE);
    }
    const cell_grid *g = &p->grids[coarsest];
    for (size_t i = 0; missing && i < g->ny * g->nx; i++)
        if (g->mean[i] == UINT32_MAX) g->mean[i] = 0;
    for (size_t k = coarsest; k-- > 1;) fill_coarse(&p->grids[k], &p->grids[k + 1]);
    if (coarsest) fill_fine(p);
}

/* The levels from the centre of cell 0 to that of cell 2, of 4 pixels each: eight at once, as vectors are. */
INLINE void two_cells_of_4(const uint32_t *cells, uint32_t *out) {
#if defined(__GNUC__) || defined(__clang__)
    const uint32_t a = cells[0], b = cells[1], c = cells[2];
    const lanes_u4 left = {a, a, a, a, b, b, b, b}, right = {b, b, b, b, c, c, c, c};
    const lanes_u4 weights = {1, 3, 5, 7, 1, 3, 5, 7};
    /* Modulo 2^32, within which the sum is. */
    *(lanes_u4 *)out = (8 * left + 4 + weights * (right - left)) >> 3;
#else
    for (uint32_t k = 0; k < 8; k++)
        out[k] = (8 * cells[k / 4] + 4 + (2 * (k % 4) + 1) * (cells[k / 4 + 1] - cells[k / 4])) >> 3;
#endif
}

/* A row's levels from the cells' means, between whose centres they are linear: of the pixels from the centre of cell
 * x0 to that of cell x1, or to the edge. Returns where they end; *first is where they begin. */
INLINE size_t level_row(const background *b, const cell_grid *g, size_t y, uint32_t *RESTRICT cells,
                        uint32_t *RESTRICT out, size_t x0, size_t x1, size_t *first, size_t c) {
    const unsigned bits = b->cell_bits + 1;
    const uint32_t half = 1u << (bits - 1);
    /* The pixel's centre, in half pixels, from the first cell's centre. */
    const ptrdiff_t at = (ptrdiff_t)(2 * y + 1) - (ptrdiff_t)c;
    const size_t top = at < 0 ? 0 : (size_t)at >> bits, below = top + 1 < g->ny ? top + 1 : top;
    const uint32_t part = at < 0 ? 0 : (uint32_t)at & (2 * (uint32_t)c - 1);
    const uint32_t *RESTRICT a = g->mean + top * g->nx, *RESTRICT d = g->mean + below * g->nx;
    const size_t last = x1 + 1 < g->nx ? x1 + 1 : g->nx, centre = c / 2 < b->nx ? c / 2 : b->nx;
    const size_t end = x1 < g->nx && centre + x1 * c < b->nx ? centre + x1 * c : b->nx;
    for (size_t x = x0; x < last; x++) cells[x] = ((2 * (uint32_t)c - part) * a[x] + part * d[x] + half) >> bits;
    if (last == g->nx) cells[last] = cells[last - 1];
    size_t x = x0 ? centre + x0 * c : 0, cell = x0;
    *first = x;
    if (!x0)
        for (; x < centre; x++) out[x] = cells[0];
    for (; c == 4 && cell + 2 <= x1 && x + 2 * c <= b->nx; x += 2 * c, cell += 2)
        two_cells_of_4(cells + cell, out + x);
    for (; cell < x1 && x + c <= b->nx; x += c, cell++) {
        const uint32_t left = cells[cell], right = cells[cell + 1];
        for (size_t k = 0; k < c; k++) {
            const uint32_t w = (uint32_t)(2 * k + (c > 1));
            out[x + k] = ((2 * (uint32_t)c - w) * left + w * right + half) >> bits;
        }
    }
    for (size_t k = 0; x < end; x++, k++) {
        const uint32_t w = (uint32_t)(2 * k + (c > 1));
        out[x] = ((2 * (uint32_t)c - w) * cells[cell] + w * cells[cell + 1 < g->nx ? cell + 1 : cell] + half) >> bits;
    }
    return end;
}

static CLONES size_t levels_of_row(const background *b, const cell_grid *g, size_t y, uint32_t *cells, size_t x0,
                                   size_t x1, size_t *first) {
    uint32_t *out = b->level + y * b->nx;
    switch (b->cell_bits) {
    case 3: return level_row(b, g, y, cells, out, x0, x1, first, 8);
    case 2: return level_row(b, g, y, cells, out, x0, x1, first, 4);
    case 1: return level_row(b, g, y, cells, out, x0, x1, first, 2);
    default: return level_row(b, g, y, cells, out, x0, x1, first, 1);
    }
}

/* ---- what stands out ---- */

/* Whether v > m + 5 sqrt(m + 1/2) + 1. */
INLINE int stands_out(uint32_t v, uint32_t m) {
    const int64_t over = ((int64_t)v << LEVEL_BITS) - m - LEVEL_ONE;
    return over > 0 && (uint64_t)(over * over) > 25 * ((uint64_t)m + LEVEL_ONE / 2) * LEVEL_ONE;
}

/* Whether some pixel could: 5 sqrt(1/2) + 1 is more than 4.5. */
static CLONES int some_are_high(const uint16_t *RESTRICT v, const uint32_t *RESTRICT m, size_t n) {
    uint32_t any = 0;
    for (size_t i = 0; i < n; i++) any |= (uint32_t)v[i] * 2 > (m[i] >> (LEVEL_BITS - 1)) + 8;
    return (int)any;
}

/* Whether some background pixel could: by floats, and with a little less asked for than they may be wrong. */
static CLONES int some_may_stand_out(const uint16_t *RESTRICT v, const uint8_t *RESTRICT state,
                                     const uint32_t *RESTRICT m, size_t n) {
    uint32_t any = 0;
    for (size_t i = 0; i < n; i++) {
        const float mean = (float)(int32_t)m[i] * (1.0f / LEVEL_ONE), over = (float)v[i] - mean - 0.999f;
        any |= (uint32_t)((state[i] & PLAIN) == 0) & (uint32_t)(over > 0.0f) &
               (uint32_t)(over * over > 24.9f * (mean + 0.5f));
    }
    return (int)any;
}

/* Notes which of row y's pixels `from` to `to` - 1 stand out of their surroundings. */
static void note_outliers(background *b, size_t y, size_t from, size_t to) {
    const size_t step = 64, start = y * b->nx;
    for (size_t x = from; x < to; x += step) {
        const size_t n = to - x < step ? to - x : step, i = start + x;
        if (!some_are_high(b->values + i, b->level + i, n) ||
            !some_may_stand_out(b->values + i, b->state + i, b->level + i, n))
            continue;
        for (size_t k = i; k < i + n; k++)
            if (!(b->state[k] & PLAIN) && stands_out(b->values[k], b->level[k])) b->centres[b->n_centres++] = (uint32_t)k;
    }
}

/* Levels where they may have changed; and what stands out there is kept, if wanted. Returns how many pixels did. Elsewhere
 * nothing can stand out that didn't before. */
static size_t refresh(background *b, pyramid *p, uint32_t *cells, int keep) {
    const cell_grid *g = &p->grids[0];
    const size_t before = b->n_centres, c = (size_t)1 << b->cell_bits;
    for (size_t y = 0; y < b->ny; y++)
        for (size_t first, from, to = 0; next_marked(p, y / c, &from, &to);) {
            const size_t end = levels_of_row(b, g, y, cells, from, to, &first);
            if (keep) note_outliers(b, y, first, end);
        }
    memset(p->marks, 0, g->ny * p->n_marks);
    for (size_t k = before; k < b->n_centres; k++) keep_around(b, b->centres[k], p);
    return b->n_centres - before;
}

static void set_taps(background *b) {
    size_t cut = 0;
    while (cut < b->reach && !b->weights[cut] && !b->weights[2 * b->reach - cut]) cut++;
    b->reach -= cut;
    for (size_t k = 0; k < 2 * b->reach + 1; k++) b->taps[k] = b->weights[k + cut];
}

/* Keeps discs, (n, 3) of x, y, r in eighths of a pixel, beside what is kept already; finds what else is to be kept,
 * and the level of every pixel. `room`: background_room bytes. */
static void background_find(background *b, const int32_t *discs, size_t n_discs, uint8_t *room) {
    const size_t c = (size_t)1 << b->cell_bits, cells_y = (b->ny + c - 1) / c, cells_x = (b->nx + c - 1) / c;
    pyramid p;
    uint32_t *cells = (uint32_t *)(room + pyramid_open(&p, cells_y, cells_x, room));
    set_taps(b);
    for (size_t k = 0; k < n_discs; k++) {
        const int32_t *disc = discs + 3 * k;
        set_disc(b, disc[0], disc[1], 2 * (int64_t)disc[2] + POSITION_UNITS / 2, AROUND);
        set_disc(b, disc[0], disc[1], disc[2], KEPT);
    }
    b->n_centres = 0;
    keep_saturated(b);
    memset(cells, 0, (2 * b->nx + 2) * sizeof *cells);
    pool(b, &p.grids[0], cells);
    memset(p.marks, 1, cells_y * p.n_marks);
    solve(b, &p);
    /* The second time without what the first found: strong spots hide weaker ones beside them. */
    for (int round = 0; refresh(b, &p, cells, round < 2); round++) solve(b, &p);
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

/* Pixels of a row that are worked on together: their sums fit 32 bits. Most are all background. */
enum { STRETCH = 32, N_FATES = STAYS + 1 };

/* What a stretch is: of several kinds of pixels, all background, or all absent. */
enum { MIXED, ALL_PLAIN, ALL_ABSENT };

INLINE uint8_t kind_of_stretch(const uint8_t *state, size_t n) {
    uint8_t all = ABSENT;
    const uint64_t any = bits_of_all(state, 0, 1, n);
    if (!any) return ALL_PLAIN;
    if (!(any & UINT64_C(0x0101010101010101) * ABSENT)) return MIXED;
    for (size_t i = 0; i < n; i++) all &= state[i];
    return all ? ALL_ABSENT : MIXED;
}

/* Histograms of the levels' fractions, by fate; whole levels and counts, of what is rounded and of what is moved. */
typedef struct {
    uint32_t n_of[N_FATES * LEVEL_ONE], more[LEVEL_ONE];
    uint64_t whole[2], counts[2], plain; /* counts of plain stretches alone */
} level_sums;

INLINE void take_run(const uint16_t *RESTRICT values, const uint8_t *RESTRICT state,
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

/* Of plain stretches: whole levels and counts. */
INLINE void take_plain(const uint16_t *RESTRICT values, const uint32_t *RESTRICT level, size_t n,
                              level_sums *sums) {
    uint32_t whole = 0, counts = 0;
    for (size_t i = 0; i < n; i++) {
        whole += level[i] >> LEVEL_BITS;
        counts += values[i];
    }
    sums->whole[ROUNDED] += whole;
    sums->counts[ROUNDED] += counts;
    sums->plain += counts;
}

/* Stretches of a row from k on that are of one kind: where they end. */
INLINE size_t alike(const uint8_t *kinds, size_t k, size_t n) {
    size_t end = k + 1;
    while (end < n && kinds[end] == kinds[k]) end++;
    return end;
}

static size_t stretches_of(size_t nx) { return (nx + STRETCH - 1) / STRETCH; }

/* Neighbours are alike: two histograms, lest each increment waits for the one before. */
INLINE void count_fractions(const uint32_t *level, size_t n, level_sums *sums) {
    size_t i = 0;
    for (; i + 1 < n; i += 2) {
        sums->n_of[level[i] & (LEVEL_ONE - 1)]++;
        sums->more[level[i + 1] & (LEVEL_ONE - 1)]++;
    }
    if (i < n) sums->more[level[i] & (LEVEL_ONE - 1)]++;
}

/* `kinds`, of each row and stretch: set to what it is. */
static CLONES void take_levels(const background *b, uint32_t low, level_sums *sums, uint8_t *kinds) {
    const size_t n_stretches = stretches_of(b->nx);
    uint32_t bins[STRETCH];
    memset(sums, 0, sizeof *sums);
    for (size_t y = 0; y < b->ny; y++, kinds += n_stretches) {
        const size_t row = y * b->nx;
        for (size_t k = 0; k < n_stretches; k++) {
            const size_t x = k * STRETCH;
            kinds[k] = kind_of_stretch(b->state + row + x, b->nx - x < STRETCH ? b->nx - x : STRETCH);
        }
        for (size_t k = 0, end; k < n_stretches; k = end) {
            end = alike(kinds, k, n_stretches);
            size_t i = row + k * STRETCH, last = row + (end < n_stretches ? end * STRETCH : b->nx);
            if (kinds[k] == ALL_PLAIN) {
                take_plain(b->values + i, b->level + i, last - i, sums);
                count_fractions(b->level + i, last - i, sums);
                continue;
            }
            for (; kinds[k] == MIXED && i < last; i += STRETCH) {
                const size_t n = last - i < STRETCH ? last - i : STRETCH;
                take_run(b->values + i, b->state + i, b->level + i, n, low, bins, sums);
                for (size_t j = 0; j < n; j++) sums->n_of[bins[j]]++;
            }
        }
    }
    for (size_t k = 0; k < LEVEL_ONE; k++) sums->n_of[ROUNDED * LEVEL_ONE + k] += sums->more[k];
}

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
INLINE void move_run(uint16_t *RESTRICT values, const uint8_t *RESTRICT state, const uint32_t *RESTRICT level,
                            const uint32_t *RESTRICT thresholds, size_t n, const background *b, uint32_t up,
                            background_sums *sums) {
    const int32_t limit = (int32_t)b->limit;
    const uint32_t low = b->low;
    uint32_t before = 0, after = 0;
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
    }
    sums->sum_before += before;
    sums->sum_after += after;
}

INLINE uint32_t round_run(uint16_t *RESTRICT values, const uint8_t *RESTRICT state,
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

/* The same of stretches of one kind. */
INLINE uint32_t round_plain(uint16_t *RESTRICT values, const uint32_t *RESTRICT level, size_t n, uint32_t limit,
                                   uint32_t up) {
    uint32_t after = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t whole = (level[i] + up) >> LEVEL_BITS;
        whole = whole < limit ? whole : limit;
        values[i] = (uint16_t)whole;
        after += whole;
    }
    return after;
}

/* Notes the kept pixels among n from `start` on. */
INLINE void note_kept(const background *b, size_t start, size_t n, background_sums *sums) {
    for (size_t i = start; i < start + n; i++)
        if ((b->state[i] & PLAIN) == KEPT) b->centres[sums->n_kept++] = (uint32_t)i;
}

/* `kinds`: as take_levels sets it. */
static CLONES void move_kept(const background *b, const uint8_t *kinds, uint32_t up, background_sums *sums) {
    uint32_t thresholds[STRETCH];
    for (size_t y = 0; y < b->ny; y++) {
        thresholds_of(y, thresholds);
        for (size_t x = 0; x < b->nx; x += STRETCH) {
            const size_t n = b->nx - x < STRETCH ? b->nx - x : STRETCH, i = y * b->nx + x;
            if (*kinds++ != MIXED) continue;
            move_run(b->values + i, b->state + i, b->level + i, thresholds, n, b, up, sums);
            if (bits_of_all(b->state + i, 0, 1, n) & UINT64_C(0x0101010101010101) * KEPT) note_kept(b, i, n, sums);
        }
    }
}

static CLONES void round_rest(const background *b, const uint8_t *kinds, uint32_t up, background_sums *sums) {
    const size_t n_stretches = stretches_of(b->nx);
    for (size_t y = 0; y < b->ny; y++, kinds += n_stretches)
        for (size_t k = 0, end; k < n_stretches; k = end) {
            end = alike(kinds, k, n_stretches);
            const size_t i = y * b->nx + k * STRETCH, last = y * b->nx + (end < n_stretches ? end * STRETCH : b->nx);
            if (kinds[k] == MIXED) {
                sums->sum_after += round_run(b->values + i, b->state + i, b->level + i, last - i, b, up);
                continue;
            }
            const uint32_t after = round_plain(b->values + i, b->level + i, last - i, b->limit, up);
            sums->sum_after += kinds[k] == ALL_PLAIN ? after : 0;
        }
}

/* All that isn't kept, invalid pixels among it, gets its level, rounded; kept pixels stand on it then. The sum of all
 * counts stays. What is kept is listed in place of the centres. */
static int background_apply(background *b, background_sums *sums) {
    level_sums *levels = malloc(sizeof *levels + b->ny * stretches_of(b->nx));
    if (!levels) return 0;
    uint8_t *const kinds = (uint8_t *)(levels + 1);
    memset(sums, 0, sizeof *sums);
    take_levels(b, b->low, levels, kinds);
    const uint64_t moved = (levels_of(levels, MOVED) + LEVEL_ONE / 2) >> LEVEL_BITS;
    uint32_t up = rounding(levels, 1, levels->counts[ROUNDED] + moved);
    sums->sum_before = levels->plain;
    move_kept(b, kinds, up, sums);
    up = rounding(levels, 0, sums->sum_before > sums->sum_after ? sums->sum_before - sums->sum_after : 0);
    round_rest(b, kinds, up, sums);
    free(levels);
    return 1;
}

#endif
