/* What is kept of an image, and the smooth local mean of the rest: integers and exact doubles alone, so that every
 * machine agrees.
 *
 * Levels are counts in fixed point, 12 bits after the point. The mean is made over cells of c x c pixels, c a power
 * of two: pooled, blurred with the weights that Python gives, divided, and interpolated between cells' centres.
 */
#ifndef BNL_BACKGROUND_H
#define BNL_BACKGROUND_H

#include <math.h>

#include "common.h"
#include "reduce.h"

enum { KEPT = 1, ABSENT = 2, AROUND = 4 };

/* Pixels of a row whose states are told by a word of bits for each, from the lowest on; most are all background. */
enum { STRETCH = 32 };

enum { LEVEL_BITS = 12, LEVEL_ONE = 1 << LEVEL_BITS, MOST_TAPS = 64, NEAR_SHARE = 32, POSITION_UNITS = 8 };

typedef struct {
    size_t ny, nx;
    unsigned cell_bits;
    uint32_t limit;
    const uint32_t *weights; /* 2 * reach + 1 of them, their sum 256, the same from either end */
    size_t reach;
    double taps[MOST_TAPS]; /* the weights, but for those of 0 at both ends, and reach less by these */
    uint32_t taps_u4[MOST_TAPS];
    uint16_t taps_u2[MOST_TAPS];
    uint16_t *values;
    const uint8_t *flags;
    size_t n_stretches; /* of a row */
    uint32_t *kept, *absent, *around; /* of each row and stretch: pixels' bits; one with neither of the first two is
                                         background, and may be around a disc; beyond the row's end none are set */
    uint32_t *own_kept, *own_absent;  /* what every image begins with */
    uint32_t *centres; /* room for ny * nx */
    size_t n_centres;
} background;

/* One resolution of the pyramid: pooled counts and numbers of pixels, and the means that come of them. */
typedef struct {
    size_t ny, nx;
    double *sum, *n; /* whole numbers, which doubles add without rounding; not of the finest */
    uint32_t *mean;
    uint8_t *missing; /* of a row: whether a cell that is needed has no mean; of the finest all are */
} cell_grid;

/* Columns of cells that are marked together. */
enum { MARKED = 8 };

typedef struct {
    cell_grid grids[32];
    size_t n_grids, n_pooled;                    /* of n_pooled, the finest ones, sums and numbers are there */
    double *work_sum, *work_n;                   /* of coarse grids in turn, blurred along its rows */
    void *nothing;                               /* a row of zeros */
    uint32_t *sum, *row_sum, *row_bits;          /* of the finest: counts, below 2^22; blurred along its rows, below */
    uint16_t *n, *row_n;                         /* 2^30; bits of each such row; and numbers, up to 64 and 2^14 */
    uint16_t *most;                              /* of the finest: no background pixel of a cell exceeds it */
    uint32_t *near, *lowest, *cells, *level;     /* of a row of cells: numbers of pixels near; least means near, with an
                                                    end on either side; means at a pixel's height; of a row of pixels */
    uint8_t *suspect;                            /* of a row of cells */
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

static size_t cells_along(size_t n, unsigned cell_bits) { return (n + ((size_t)1 << cell_bits) - 1) >> cell_bits; }

static size_t stretches_of(size_t nx) { return (nx + STRETCH - 1) / STRETCH; }

/* The bits of an image; returns the bytes of room that they take. */
static size_t states_open(background *b, uint8_t *room) {
    const size_t bytes = b->ny * (b->n_stretches = stretches_of(b->nx)) * sizeof(uint32_t);
    size_t used = 0;
    b->kept = from_room(room, &used, bytes);
    b->absent = from_room(room, &used, bytes);
    b->around = from_room(room, &used, bytes);
    b->own_kept = from_room(room, &used, bytes);
    b->own_absent = from_room(room, &used, bytes);
    return used;
}

/* The word in which pixel (y, x) has its bit, which is `pixel_bit(x)`. */
INLINE size_t word_of(const background *b, size_t y, size_t x) { return y * b->n_stretches + x / STRETCH; }

INLINE uint32_t pixel_bit(size_t x) { return UINT32_C(1) << x % STRETCH; }

INLINE int is_absent(const background *b, size_t y, size_t x) { return (b->absent[word_of(b, y, x)] & pixel_bit(x)) != 0; }

INLINE int is_background(const background *b, size_t y, size_t x) {
    const size_t word = word_of(b, y, x);
    return ((b->kept[word] | b->absent[word]) & pixel_bit(x)) == 0;
}

/* Sets the bits of a row's pixels x0 to x1. */
INLINE void set_bits(uint32_t *row, size_t x0, size_t x1) {
    for (size_t k = x0 / STRETCH; k <= x1 / STRETCH; k++) {
        const uint32_t from = k == x0 / STRETCH ? ~UINT32_C(0) << x0 % STRETCH : ~UINT32_C(0);
        row[k] |= k == x1 / STRETCH ? from & ~UINT32_C(0) >> (STRETCH - 1 - x1 % STRETCH) : from;
    }
}

/* The grids of an image; returns the bytes of room that they take. Nothing in them is set. `means`: of the finest,
 * which are the caller's. */
static size_t pyramid_open(pyramid *p, const background *b, uint32_t *means, uint8_t *room) {
    size_t ny = cells_along(b->ny, b->cell_bits), nx = cells_along(b->nx, b->cell_bits);
    const size_t n = ny * nx;
    size_t used = 0;
    p->n_grids = 0;
    p->n_pooled = 1;
    p->n_marks = (nx + MARKED - 1) / MARKED;
    p->work_sum = from_room(room, &used, n * sizeof(double));
    p->work_n = from_room(room, &used, n * sizeof(double));
    p->sum = from_room(room, &used, n * sizeof(uint32_t));
    p->row_sum = from_room(room, &used, n * sizeof(uint32_t));
    p->row_bits = from_room(room, &used, ny * sizeof(uint32_t));
    p->n = from_room(room, &used, n * sizeof(uint16_t));
    p->row_n = from_room(room, &used, n * sizeof(uint16_t));
    p->nothing = from_room(room, &used, nx * sizeof(double));
    p->most = from_room(room, &used, n * sizeof(uint16_t));
    p->near = from_room(room, &used, nx * sizeof(uint32_t));
    p->lowest = from_room(room, &used, (nx + 2) * sizeof(uint32_t));
    p->cells = from_room(room, &used, (nx + 1) * sizeof(uint32_t));
    p->level = from_room(room, &used, b->nx * sizeof(uint32_t));
    p->suspect = from_room(room, &used, nx);
    p->missing = from_room(room, &used, n);
    p->marks = from_room(room, &used, ny * p->n_marks);
    for (;;) {
        cell_grid *g = &p->grids[p->n_grids++];
        g->ny = ny;
        g->nx = nx;
        const int is_fine = p->n_grids == 1;
        g->sum = is_fine ? NULL : from_room(room, &used, ny * nx * sizeof(double));
        g->n = is_fine ? NULL : from_room(room, &used, ny * nx * sizeof(double));
        g->missing = from_room(room, &used, ny);
        g->mean = is_fine ? means : from_room(room, &used, ny * nx * sizeof(uint32_t));
        if (ny * nx == 1 || p->n_grids == 32) return used;
        ny = (ny + 1) / 2;
        nx = (nx + 1) / 2;
    }
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

/* Of row `row` the pixels whose centre is within r of (x, y), in eighths of a pixel: *from to *to; 0 if there are none. */
INLINE int disc_in_row(size_t nx, size_t row, int64_t x, int64_t y, int64_t r, size_t *from, size_t *to) {
    const int64_t unit = POSITION_UNITS, half = unit / 2, dy = (int64_t)row * unit + half - y, left = r * r - dy * dy;
    if (left < 0) return 0;
    const int64_t reach = (int64_t)square_root((uint64_t)left), last = (int64_t)nx - 1;
    const int64_t first = -floor_div(-(x - reach - half), unit), end = floor_div(x + reach - half, unit);
    *from = first < 0 ? 0 : (size_t)first;
    *to = (size_t)(end > last ? last : end);
    return first <= last && end >= 0 && first <= end;
}

/* The rows that such a disc may be in: *from to *to - 1. */
INLINE void rows_of_disc(size_t ny, int64_t y, int64_t r, size_t *from, size_t *to) {
    const int64_t unit = POSITION_UNITS, half = unit / 2;
    const int64_t first = -floor_div(-(y - r - half), unit), end = floor_div(y + r - half, unit) + 1;
    *from = first < 0 ? 0 : (size_t)first;
    *to = end < 0 ? 0 : end > (int64_t)ny ? ny : (size_t)end;
}

/* Sets a bit of the bytes of (ny, nx) pixels that are in a disc. */
static void set_disc(uint8_t *state, size_t ny, size_t nx, const int32_t *disc, uint8_t bit) {
    size_t row, end, from, to;
    for (rows_of_disc(ny, disc[1], disc[2], &row, &end); row < end; row++)
        if (disc_in_row(nx, row, disc[0], disc[1], disc[2], &from, &to))
            for (size_t x = from; x <= to; x++) state[row * nx + x] |= bit;
}

/* The same of bits, all of them. */
static void set_disc_bits(const background *b, uint32_t *bits, int64_t x, int64_t y, int64_t r) {
    size_t row, end, from, to;
    for (rows_of_disc(b->ny, y, r, &row, &end); row < end; row++)
        if (disc_in_row(b->nx, row, x, y, r, &from, &to)) set_bits(bits + row * b->n_stretches, from, to);
}

/* What every image begins with, of bytes of KEPT and ABSENT. */
static void states_pack(background *b, const uint8_t *always) {
    memset(b->own_kept, 0, b->ny * b->n_stretches * sizeof *b->own_kept);
    memset(b->own_absent, 0, b->ny * b->n_stretches * sizeof *b->own_absent);
    for (size_t y = 0; y < b->ny; y++)
        for (size_t x = 0; x < b->nx; x++, always++) {
            if (*always & KEPT) b->own_kept[word_of(b, y, x)] |= pixel_bit(x);
            if (*always & ABSENT) b->own_absent[word_of(b, y, x)] |= pixel_bit(x);
        }
}

/* The bytes of all pixels. */
static void states_unpack(const background *b, uint8_t *state) {
    for (size_t y = 0; y < b->ny; y++)
        for (size_t x = 0; x < b->nx; x++, state++) {
            const size_t word = word_of(b, y, x), k = x % STRETCH;
            *state = (uint8_t)((b->kept[word] >> k & 1) * KEPT | (b->absent[word] >> k & 1) * ABSENT |
                               (b->around[word] >> k & 1) * AROUND);
        }
}

/* An image begins: `discs`, n_discs times x, y and r in eighths of a pixel, are kept, and what is around them is marked
 * out to twice their radius and half a pixel. */
static void background_begin(background *b, const int32_t *discs, size_t n_discs) {
    const size_t bytes = b->ny * b->n_stretches * sizeof *b->kept;
    memcpy(b->kept, b->own_kept, bytes);
    memcpy(b->absent, b->own_absent, bytes);
    memset(b->around, 0, bytes);
    for (size_t k = 0; k < n_discs; k++, discs += 3) {
        const int64_t around = 2 * (int64_t)discs[2] + POSITION_UNITS / 2;
        set_disc_bits(b, b->around, discs[0], discs[1], around < INT32_MAX ? around : INT32_MAX);
        set_disc_bits(b, b->kept, discs[0], discs[1], discs[2]);
    }
}

/* Keeps a pixel's eight neighbours and itself; what was pooled of them is taken out again, and the places marked whose
 * means hang on it, or whose levels do. */
static void keep_around(const background *b, size_t pixel, pyramid *p) {
    const size_t y = pixel / b->nx, x = pixel % b->nx;
    const size_t y1 = y + 1 < b->ny ? y + 1 : y, x1 = x + 1 < b->nx ? x + 1 : x;
    for (size_t row = y ? y - 1 : 0; row <= y1; row++)
        for (size_t column = x ? x - 1 : 0; column <= x1; column++) {
            const size_t i = row * b->nx + column;
            if (is_background(b, row, column)) {
                const size_t cell_y = row >> b->cell_bits, cell_x = column >> b->cell_bits;
                p->sum[cell_y * p->grids[0].nx + cell_x] -= b->values[i];
                p->n[cell_y * p->grids[0].nx + cell_x]--;
                for (size_t k = 1; k < p->n_pooled; k++) {
                    const cell_grid *g = &p->grids[k];
                    g->sum[(cell_y >> k) * g->nx + (cell_x >> k)] -= b->values[i];
                    g->n[(cell_y >> k) * g->nx + (cell_x >> k)]--;
                }
                mark_around(p, cell_y, cell_x, b->reach + 1);
            }
            b->kept[word_of(b, row, column)] |= pixel_bit(column);
        }
}

/* ---- the local mean ---- */

/* Columns that are pooled together, whatever a cell's side. */
enum { POOLED = 2 * STRETCH };

/* Of columns, over the rows of a cell: their background's counts, how many there are, and the greatest. */
typedef struct {
    uint16_t sum[POOLED], n[POOLED], most[POOLED];
} pooled_columns;

/* n columns of n_rows rows, whose sums fit 16 bits. `use`: POOLED of each row, all bits of those that are background;
 * NULL where all are. */
INLINE void pool_columns(const uint16_t *RESTRICT values, const uint16_t *RESTRICT use, size_t nx, size_t n_rows,
                         size_t n, pooled_columns *RESTRICT p) {
    for (size_t x = 0; x < n; x++) {
        uint16_t sum = 0, number = 0, most = 0;
        for (size_t y = 0; y < n_rows; y++) {
            const uint16_t used = use ? use[y * POOLED + x] : UINT16_MAX;
            const uint16_t v = values[y * nx + x] & used;
            sum = (uint16_t)(sum + v);
            number = (uint16_t)(number - used);
            most = most > v ? most : v;
        }
        p->sum[x] = sum;
        p->n[x] = number;
        p->most[x] = most;
    }
}

INLINE uint32_t sum_of_pair(uint32_t pair) { return (pair & 0xffff) + (pair >> 16); }

INLINE uint16_t most_of(uint16_t a, uint16_t b) { return a > b ? a : b; }

/* n columns of pairs of those. */
INLINE void pool_pairs(const pooled_columns *RESTRICT p, uint32_t *RESTRICT sum, uint16_t *RESTRICT number,
                       uint16_t *RESTRICT most, size_t n) {
    for (size_t k = 0; k < n; k++) {
        const uint32_t both = load_pair(p->most, k);
        sum[k] = sum_of_pair(load_pair(p->sum, k));
        number[k] = (uint16_t)sum_of_pair(load_pair(p->n, k));
        most[k] = most_of((uint16_t)both, (uint16_t)(both >> 16));
    }
}

INLINE void join_pairs(const uint32_t *RESTRICT sums, const uint16_t *RESTRICT numbers, const uint16_t *RESTRICT mosts,
                       uint32_t *RESTRICT sum, uint16_t *RESTRICT number, uint16_t *RESTRICT most, size_t n) {
    for (size_t k = 0; k < n; k++) {
        const uint32_t both = load_pair(mosts, k);
        sum[k] = sums[2 * k] + sums[2 * k + 1];
        number[k] = (uint16_t)sum_of_pair(load_pair(numbers, k));
        most[k] = most_of((uint16_t)both, (uint16_t)(both >> 16));
    }
}

/* Columns' sums and numbers, and the greatest of all, as those of n_cells cells of c columns. */
INLINE void pool_cells(const pooled_columns *RESTRICT p, size_t n_cells, size_t c, uint32_t *RESTRICT sum,
                       uint16_t *RESTRICT number, uint16_t *RESTRICT most) {
    uint32_t sums[2][POOLED / 2];
    uint16_t numbers[2][POOLED / 2], mosts[2][POOLED / 2];
    for (size_t k = 0; c == 1 && k < n_cells; k++) {
        sum[k] = p->sum[k];
        number[k] = p->n[k];
        most[k] = p->most[k];
    }
    if (c == 2) pool_pairs(p, sum, number, most, n_cells);
    if (c <= 2) return;
    pool_pairs(p, sums[0], numbers[0], mosts[0], POOLED / 2);
    if (c == 8) join_pairs(sums[0], numbers[0], mosts[0], sums[1], numbers[1], mosts[1], POOLED / 4);
    const int last = c == 8;
    join_pairs(sums[last], numbers[last], mosts[last], sum, number, most, n_cells);
}

/* The same of cells whose columns' sums may not fit. */
static void pool_large(const uint16_t *values, const uint16_t *use, size_t nx, size_t n_rows, size_t n, size_t c,
                       uint32_t *sum, uint16_t *number, uint16_t *most) {
    for (size_t x = 0; x < n; x++) {
        const size_t cell = x / c;
        if (x % c == 0) sum[cell] = number[cell] = most[cell] = 0;
        for (size_t y = 0; y < n_rows; y++) {
            if (use && !use[y * POOLED + x]) continue;
            const uint16_t v = values[y * nx + x];
            sum[cell] += v;
            number[cell]++;
            if (v > most[cell]) most[cell] = v;
        }
    }
}

/* Saturated pixels, and those that are invalid by their value, which overloads are, are noted: their neighbours are of
 * a strong spot. What is absent already is so in every image. */
static void note_saturated(background *b, size_t y, size_t x0, size_t n) {
    for (size_t x = x0, i = y * b->nx + x; x < x0 + n; x++, i++) {
        const int invalid = b->flags[i] & INVALID;
        if (!is_absent(b, y, x) && (invalid || b->values[i] >= b->limit)) b->centres[b->n_centres++] = (uint32_t)i;
        if (invalid) b->absent[word_of(b, y, x)] |= pixel_bit(x);
    }
}

/* Which of POOLED columns of n_rows rows from (y, x) on are background, as pool_columns takes it; whether all are. */
INLINE int find_background(const background *b, size_t y, size_t x, size_t n_rows, uint16_t *use) {
    const size_t first = word_of(b, y, x), more = x + STRETCH < b->nx;
    uint32_t hidden[8][2], any = 0;
    for (size_t row = 0; row < n_rows; row++) {
        const size_t k = first + row * b->n_stretches;
        hidden[row][0] = b->kept[k] | b->absent[k];
        hidden[row][1] = b->kept[k + more] | b->absent[k + more];
        any |= hidden[row][0] | hidden[row][1];
    }
    if (!any) return 1;
    for (size_t row = 0; row < n_rows; row++)
        for (size_t half = 0; half < 2; half++)
            for (size_t i = 0; i < STRETCH; i++)
                use[row * POOLED + half * STRETCH + i] = (uint16_t)((hidden[row][half] >> i & 1) - 1);
    return 0;
}

/* All bits of n_rows rows' values, n of them. */
INLINE uint16_t bits_of_values(const uint16_t *values, size_t nx, size_t n_rows, size_t n) {
    uint64_t all = bits_of_all(values, 2 * nx, n_rows, 2 * n);
    all |= all >> 32;
    return (uint16_t)(all | all >> 16);
}

/* A row of cells, from the image's row y on: what its pixels are, and what is pooled of them. */
INLINE void pool_row(background *b, pyramid *p, size_t y, size_t c) {
    const size_t nx = b->nx, n_rows = b->ny - y < c ? b->ny - y : c;
    for (size_t x = 0; x < nx; x += POOLED) {
        const size_t n = nx - x < POOLED ? nx - x : POOLED, start = y * nx + x, cell = y / c * p->grids[0].nx + x / c;
        const uint16_t *values = b->values + start;
        const uint16_t all = bits_of_values(values, nx, n_rows, n);
        pooled_columns columns;
        uint16_t room[8 * POOLED];
        if (all >= b->limit || bits_of_all(b->flags + start, nx, n_rows, n) & UINT64_C(0x0101010101010101) * INVALID)
            for (size_t row = 0; row < n_rows; row++) note_saturated(b, y + row, x, n);
        const uint16_t *const use = find_background(b, y, x, n_rows, room) ? NULL : room;
        if (all > UINT16_MAX / c) {
            pool_large(values, use, nx, n_rows, n, c, p->sum + cell, p->n + cell, p->most + cell);
            continue;
        }
        if (n < POOLED || n_rows < c) {
            memset(&columns, 0, sizeof columns);
            pool_columns(values, use, nx, n_rows, n, &columns);
        } else if (use) {
            pool_columns(values, use, nx, c, POOLED, &columns);
        } else {
            pool_columns(values, NULL, nx, c, POOLED, &columns);
        }
        pool_cells(&columns, (n + c - 1) / c, c, p->sum + cell, p->n + cell, p->most + cell);
    }
}

/* Pools row y of the image's and those before it in its cells, if it is their last. Discs are marked before the first,
 * and there are no centres; saturated pixels are noted. */
static CLONES void pool_with(background *b, pyramid *p, size_t y) {
    const size_t last = ((size_t)1 << b->cell_bits) - 1;
    if ((y & last) != last && y + 1 < b->ny) return;
    switch (b->cell_bits) { /* a constant side lets the compiler unroll and vectorise */
    case 3: pool_row(b, p, y & ~last, 8); break;
    case 2: pool_row(b, p, y & ~last, 4); break;
    case 1: pool_row(b, p, y & ~last, 2); break;
    default: pool_row(b, p, y, 1);
    }
}

/* Sums along rows of numbers of type T, which hold them. */
#define DEFINE_BLUR(T, NAME)                                                                                 \
    /* The weighted sum of the 2 * reach + 1 rows' cell x; weights are the same from either end. */          \
    INLINE T weighted_##NAME(const T *const *rows, const T *weights, size_t reach, size_t x) {               \
        T sum = (T)(weights[reach] * rows[reach][x]);                                                        \
        for (size_t k = 0; k < reach; k++)                                                                   \
            sum = (T)(sum + (T)(weights[k] * (T)(rows[k][x] + rows[2 * reach - k][x])));                     \
        return sum;                                                                                          \
    }                                                                                                        \
                                                                                                             \
    INLINE void blur_inside_##NAME(const T *from, T *RESTRICT to, const T *weights, size_t reach, size_t x0, \
                                   size_t x1) {                                                              \
        const T *rows[MOST_TAPS];                                                                            \
        for (size_t k = 0; k < 2 * reach + 1; k++) rows[k] = from + k;                                       \
        for (size_t x = x0; x < x1; x++) to[x] = weighted_##NAME(rows, weights, reach, x - reach);           \
    }                                                                                                        \
                                                                                                             \
    /* Cells x0 to x1 - 1 of a row near its ends: what lies outside adds nothing. */                         \
    static void blur_ends_##NAME(const T *weights, size_t reach, size_t nx, const T *from, T *to, size_t x0, \
                                 size_t x1) {                                                                \
        for (size_t x = x0; x < x1; x++) {                                                                   \
            T sum = 0;                                                                                       \
            for (size_t k = 0; k < 2 * reach + 1; k++)                                                       \
                if (x + k >= reach && x + k < nx + reach) sum = (T)(sum + (T)(weights[k] * from[x + k - reach])); \
            to[x] = sum;                                                                                     \
        }                                                                                                    \
    }                                                                                                        \
                                                                                                             \
    /* Cells x0 to x1 - 1 of a row, blurred along it. */                                                     \
    static CLONES void blur_row_##NAME(const T *weights, size_t reach, size_t nx, const T *from, T *to,      \
                                       size_t x0, size_t x1) {                                               \
        const size_t inner = nx > reach ? nx - reach : 0;                                                    \
        size_t first = x0 > reach ? x0 : reach, last = x1 < inner ? x1 : inner;                              \
        if (first >= last) first = last = x1;                                                                \
        blur_ends_##NAME(weights, reach, nx, from, to, x0, first);                                           \
        switch (reach) { /* a constant number lets the compiler unroll and vectorise */                      \
        case 2: blur_inside_##NAME(from, to, weights, 2, first, last); break;                                \
        case 3: blur_inside_##NAME(from, to, weights, 3, first, last); break;                                \
        case 4: blur_inside_##NAME(from, to, weights, 4, first, last); break;                                \
        default: blur_inside_##NAME(from, to, weights, reach, first, last);                                  \
        }                                                                                                    \
        blur_ends_##NAME(weights, reach, nx, from, to, last, x1);                                            \
    }                                                                                                        \
                                                                                                             \
    /* The rows within reach of row y, each nx cells, `nothing` where they lie outside. */                    \
    INLINE void rows_about_##NAME(const cell_grid *g, size_t reach, const T *all, const void *nothing,       \
                                  size_t y, const T **rows) {                                                \
        for (size_t k = 0; k < 2 * reach + 1; k++)                                                           \
            rows[k] = y + k >= reach && y + k < g->ny + reach ? all + (y + k - reach) * g->nx : nothing;      \
    }

DEFINE_BLUR(double, f8)
DEFINE_BLUR(uint32_t, u4)
DEFINE_BLUR(uint16_t, u2)

/* Counts over numbers of pixels, which aren't 0, rounded: below 2^29. */
INLINE uint32_t mean_of(double sum, double n) { return (uint32_t)(int32_t)(sum * LEVEL_ONE / n + 0.5); }

/* Cells of row y of a coarse grid: down the columns of what is blurred along the rows, and the mean; UINT32_MAX where
 * there is too little near. */
INLINE void mean_coarse(const double *const *sums, const double *const *numbers, const double *weights, size_t reach,
                        double least, uint32_t *RESTRICT mean, size_t n) {
    for (size_t x = 0; x < n; x++) {
        const double near = weighted_f8(numbers, weights, reach, x);
        mean[x] = near >= least ? mean_of(weighted_f8(sums, weights, reach, x), near) : UINT32_MAX;
    }
}

static CLONES void mean_row(const background *b, cell_grid *g, const pyramid *p, double least, size_t y) {
    const double *sums[MOST_TAPS], *numbers[MOST_TAPS];
    uint32_t *const mean = g->mean + y * g->nx;
    rows_about_f8(g, b->reach, p->work_sum, p->nothing, y, sums);
    rows_about_f8(g, b->reach, p->work_n, p->nothing, y, numbers);
    switch (b->reach) {
    case 2: mean_coarse(sums, numbers, b->taps, 2, least, mean, g->nx); break;
    case 3: mean_coarse(sums, numbers, b->taps, 3, least, mean, g->nx); break;
    case 4: mean_coarse(sums, numbers, b->taps, 4, least, mean, g->nx); break;
    default: mean_coarse(sums, numbers, b->taps, b->reach, least, mean, g->nx);
    }
}

/* The finest grid's rows about one, blurred along themselves. */
typedef struct {
    const uint32_t *sums[MOST_TAPS];
    const uint16_t *numbers[MOST_TAPS];
} fine_rows;

/* Of sums whose weighted sums fit 31 bits. `near`: room for a number a cell; with all in one loop it isn't vectorised. */
INLINE void mean_inside(const background *b, const fine_rows *r, size_t reach, uint32_t least, uint32_t *RESTRICT near,
                        uint32_t *RESTRICT mean, size_t x0, size_t x1) {
    const fine_rows rows = *r;
    uint32_t taps[MOST_TAPS];
    for (size_t k = 0; k < reach + 1; k++) taps[k] = b->taps_u4[k];
    ELEMENTWISE
    for (size_t x = x0; x < x1; x++) {
        uint32_t n = taps[reach] * rows.numbers[reach][x];
        for (size_t k = 0; k < reach; k++) n += taps[k] * ((uint32_t)rows.numbers[k][x] + rows.numbers[2 * reach - k][x]);
        near[x] = n;
        mean[x] = weighted_u4(rows.sums, taps, reach, x);
    }
    for (size_t x = x0; x < x1; x++) {
        const uint32_t n = near[x], few = ALL_IF(uint32_t, n < least);
        mean[x] = mean_of((double)(int32_t)mean[x], (double)(int32_t)(n + (n == 0))) | few;
    }
}

/* The same of any sums. */
static void mean_large(const background *b, const fine_rows *r, uint32_t least, uint32_t *mean, size_t x0, size_t x1) {
    for (size_t x = x0; x < x1; x++) {
        double sum = 0, n = 0;
        for (size_t k = 0; k < 2 * b->reach + 1; k++) {
            sum += b->taps[k] * r->sums[k][x];
            n += b->taps[k] * r->numbers[k][x];
        }
        mean[x] = n >= least ? mean_of(sum, n) : UINT32_MAX;
    }
}

/* Cells x0 to x1 - 1 of row y of the finest grid. */
static CLONES void mean_fine(const background *b, const pyramid *p, uint32_t least, size_t y, size_t x0, size_t x1) {
    const cell_grid *g = &p->grids[0];
    uint32_t *const mean = g->mean + y * g->nx, bits = 0;
    fine_rows r;
    rows_about_u4(g, b->reach, p->row_sum, p->nothing, y, r.sums);
    rows_about_u2(g, b->reach, p->row_n, p->nothing, y, r.numbers);
    for (size_t k = y > b->reach ? y - b->reach : 0; k <= y + b->reach && k < g->ny; k++) bits |= p->row_bits[k];
    switch (bits <= INT32_MAX / 256 ? b->reach : 0) {
    case 2: mean_inside(b, &r, 2, least, p->near, mean, x0, x1); break;
    case 3: mean_inside(b, &r, 3, least, p->near, mean, x0, x1); break;
    case 4: mean_inside(b, &r, 4, least, p->near, mean, x0, x1); break;
    default: mean_large(b, &r, least, mean, x0, x1);
    }
}

/* Cells x0 to x1 - 1 of row y of the finest grid, blurred along it. */
static CLONES void blur_fine(const background *b, const pyramid *p, size_t y, size_t x0, size_t x1) {
    const size_t nx = p->grids[0].nx, i = y * nx;
    uint32_t bits = 0;
    blur_row_u4(b->taps_u4, b->reach, nx, p->sum + i, p->row_sum + i, x0, x1);
    blur_row_u2(b->taps_u2, b->reach, nx, p->n + i, p->row_n + i, x0, x1);
    for (size_t x = x0; x < x1; x++) bits |= p->row_sum[i + x];
    p->row_bits[y] |= bits;
}

/* Two rows' 2 x 2 cells; of a last column alone one each. */
#define DEFINE_COARSEN(T, NAME, S)                                                                           \
    static CLONES void coarsen_row_##NAME(const T *RESTRICT above, const T *RESTRICT below,                  \
                                          double *RESTRICT to, size_t nx) {                                  \
        for (size_t x = 0; x < nx / 2; x++)                                                                  \
            to[x] = (S)above[2 * x] + (S)above[2 * x + 1] + ((S)below[2 * x] + (S)below[2 * x + 1]);         \
        if (nx & 1) to[nx / 2] = (S)above[nx - 1] + (S)below[nx - 1];                                        \
    }

DEFINE_COARSEN(double, f8, double)
DEFINE_COARSEN(uint32_t, u4, int32_t)
DEFINE_COARSEN(uint16_t, u2, int32_t)

/* Grid k, from the next finer one: sums of 2 x 2 cells. */
static void coarsen(const pyramid *p, size_t k) {
    const cell_grid *fine = &p->grids[k - 1], *coarse = &p->grids[k];
    for (size_t y = 0; y < coarse->ny; y++) {
        const size_t above = 2 * y * fine->nx, below = above + fine->nx, to = y * coarse->nx, nx = fine->nx;
        const int alone = 2 * y + 1 == fine->ny;
        if (k == 1) {
            coarsen_row_u4(p->sum + above, alone ? p->nothing : p->sum + below, coarse->sum + to, nx);
            coarsen_row_u2(p->n + above, alone ? p->nothing : p->n + below, coarse->n + to, nx);
        } else {
            coarsen_row_f8(fine->sum + above, alone ? p->nothing : fine->sum + below, coarse->sum + to, nx);
            coarsen_row_f8(fine->n + above, alone ? p->nothing : fine->n + below, coarse->n + to, nx);
        }
    }
}

/* Means of a coarse grid where they are needed, in place of the next finer one's; whether there is none for some cell. */
static int solve_coarse(const background *b, pyramid *p, cell_grid *g, double least) {
    const cell_grid *fine = g - 1;
    size_t blurred = 0; /* rows before it are, if they are needed */
    int missing = 0;
    for (size_t y = 0; y < g->ny; y++) {
        g->missing[y] = 0;
        if (!fine->missing[2 * y] && !(2 * y + 1 < fine->ny && fine->missing[2 * y + 1])) continue;
        if (y > b->reach && y - b->reach > blurred) blurred = y - b->reach;
        for (; blurred <= y + b->reach && blurred < g->ny; blurred++) {
            const size_t i = blurred * g->nx;
            blur_row_f8(b->taps, b->reach, g->nx, g->sum + i, p->work_sum + i, 0, g->nx);
            blur_row_f8(b->taps, b->reach, g->nx, g->n + i, p->work_n + i, 0, g->nx);
        }
        mean_row(b, g, p, least, y);
        for (size_t x = 0; x < g->nx; x++) g->missing[y] |= g->mean[y * g->nx + x] == UINT32_MAX;
        missing |= g->missing[y];
    }
    return missing;
}

static CLONES void note_missing(const uint32_t *RESTRICT mean, uint8_t *RESTRICT missing, size_t n) {
    for (size_t i = 0; i < n; i++) missing[i] = mean[i] == UINT32_MAX;
}

/* Notes which rows have such cells; whether any has. */
static int missing_rows(const uint8_t *missing, const cell_grid *g) {
    int any = 0;
    for (size_t y = 0; y < g->ny; y++) any |= g->missing[y] = memchr(missing + y * g->nx, 1, g->nx) != NULL;
    return any;
}

/* Means of marked cells from what is near; whether it is too little for some cell, marked or not. Rows are blurred when
 * the means of those above them are about to be made, of which they are the last that is needed. */
static int solve_fine(const background *b, pyramid *p, uint32_t least) {
    cell_grid *g = &p->grids[0];
    for (size_t ahead = 0; ahead < g->ny + b->reach; ahead++) {
        for (size_t from, to = 0; ahead < g->ny && next_marked(p, ahead, &from, &to);) blur_fine(b, p, ahead, from, to);
        if (ahead < b->reach) continue;
        const size_t y = ahead - b->reach;
        for (size_t from, to = 0; next_marked(p, y, &from, &to);) {
            mean_fine(b, p, least, y, from, to);
            note_missing(g->mean + y * g->nx + from, p->missing + y * g->nx + from, to - from);
        }
    }
    return missing_rows(p->missing, g);
}

/* Cells of a coarse grid without a mean get that of the next coarser one. */
static void fill_coarse(cell_grid *g, const cell_grid *wide) {
    for (size_t y = 0; y < g->ny; y++)
        for (size_t x = 0; g->missing[y] && x < g->nx; x++)
            if (g->mean[y * g->nx + x] == UINT32_MAX) g->mean[y * g->nx + x] = wide->mean[y / 2 * wide->nx + x / 2];
}

/* The same of the finest grid; where that changes levels it is marked. */
static void fill_fine(pyramid *p) {
    cell_grid *g = &p->grids[0];
    const cell_grid *wide = &p->grids[1];
    for (size_t y = 0; y < g->ny; y++) {
        if (!g->missing[y]) continue;
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
    int missing = solve_fine(b, p, p->n_grids == 1 ? 1 : (uint32_t)full / NEAR_SHARE);
    while (missing && coarsest + 1 < p->n_grids) {
        if (++coarsest == p->n_pooled) {
            coarsen(p, coarsest);
            p->n_pooled++;
        }
        full *= 4;
        missing = solve_coarse(b, p, &p->grids[coarsest], coarsest + 1 == p->n_grids ? 1 : full / NEAR_SHARE);
    }
    const cell_grid *g = &p->grids[coarsest];
    for (size_t y = 0; missing && y < g->ny; y++)
        for (size_t i = y * g->nx; g->missing[y] && i < (y + 1) * g->nx; i++)
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
 * x0 to that of cell x1, or to the edge. */
INLINE void level_row(const background *b, const cell_grid *g, size_t y, uint32_t *RESTRICT cells,
                      uint32_t *RESTRICT out, size_t x0, size_t x1, size_t c) {
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
}

/* `cells`: room for a row of them and one more. */
static CLONES void levels_of_row(const background *b, const cell_grid *g, size_t y, uint32_t *cells, uint32_t *out,
                                 size_t x0, size_t x1) {
    switch (b->cell_bits) {
    case 3: level_row(b, g, y, cells, out, x0, x1, 8); break;
    case 2: level_row(b, g, y, cells, out, x0, x1, 4); break;
    case 1: level_row(b, g, y, cells, out, x0, x1, 2); break;
    default: level_row(b, g, y, cells, out, x0, x1, 1);
    }
}

/* ---- what stands out ---- */

/* Whether v > m + 5 sqrt(m + 1/2) + 1. */
INLINE int stands_out(uint32_t v, uint32_t m) {
    const int64_t over = ((int64_t)v << LEVEL_BITS) - m - LEVEL_ONE;
    return over > 0 && (uint64_t)(over * over) > 25 * ((uint64_t)m + LEVEL_ONE / 2) * LEVEL_ONE;
}

/* Which of a row's cells `from` to `to` - 1 may hold a background pixel that does: by their greatest counts, the least
 * means near, below which no level of theirs is, and floats with a little less asked for than they may be wrong. Whether
 * there is one. */
static CLONES int suspects(const pyramid *p, size_t y, size_t from, size_t to) {
    const cell_grid *g = &p->grids[0];
    const size_t x0 = from ? from - 1 : 0, x1 = to < g->nx ? to + 1 : to;
    const uint32_t *RESTRICT here = g->mean + y * g->nx, *RESTRICT above = y ? here - g->nx : here,
                   *RESTRICT below = y + 1 < g->ny ? here + g->nx : here;
    const uint16_t *RESTRICT most = p->most + y * g->nx;
    uint32_t *RESTRICT lowest = p->lowest + 1, any = 0;
    uint8_t *RESTRICT suspect = p->suspect;
    *(lowest + x0 - 1) = lowest[x1] = UINT32_MAX;
    for (size_t x = x0; x < x1; x++) {
        const uint32_t low = above[x] < below[x] ? above[x] : below[x];
        lowest[x] = low < here[x] ? low : here[x];
    }
    for (size_t x = from; x < to; x++) {
        const uint32_t *at = lowest + x - 1;
        uint32_t low = at[0] < at[2] ? at[0] : at[2];
        low = low < at[1] ? low : at[1];
        const float mean = (float)(int32_t)low * (1.0f / LEVEL_ONE), over = (float)most[x] - mean - 0.999f;
        const uint32_t is = (uint32_t)(over > 0.0f) & (uint32_t)(over * over > 24.9f * (mean + 0.5f));
        suspect[x] = (uint8_t)is;
        any |= is;
    }
    return (int)any;
}

/* Notes which pixels of a cell stand out of their surroundings. */
static void note_outliers(background *b, const pyramid *p, size_t cell_y, size_t cell_x) {
    const cell_grid *g = &p->grids[0];
    const unsigned bits = b->cell_bits;
    const size_t y1 = (cell_y + 1) << bits < b->ny ? (cell_y + 1) << bits : b->ny;
    const size_t x1 = (cell_x + 1) << bits < b->nx ? (cell_x + 1) << bits : b->nx;
    for (size_t y = cell_y << bits; y < y1; y++) {
        levels_of_row(b, g, y, p->cells, p->level, cell_x ? cell_x - 1 : 0, cell_x + 1);
        for (size_t x = cell_x << bits, i = y * b->nx + x; x < x1; x++, i++)
            if (is_background(b, y, x) && stands_out(b->values[i], p->level[x])) b->centres[b->n_centres++] = (uint32_t)i;
    }
}

/* Keeps what stands out where levels may have changed; elsewhere nothing can that didn't before. Returns how many
 * pixels did. */
static size_t keep_outliers(background *b, pyramid *p) {
    const cell_grid *g = &p->grids[0];
    const size_t before = b->n_centres;
    for (size_t y = 0; y < g->ny; y++)
        for (size_t from, to = 0; next_marked(p, y, &from, &to);) {
            if (!suspects(p, y, from, to)) continue;
            for (size_t x = from; x < to; x++)
                if (p->suspect[x]) note_outliers(b, p, y, x);
        }
    memset(p->marks, 0, g->ny * p->n_marks);
    for (size_t k = before; k < b->n_centres; k++) keep_around(b, b->centres[k], p);
    return b->n_centres - before;
}

static void set_taps(background *b) {
    size_t cut = 0;
    while (cut < b->reach && !b->weights[cut] && !b->weights[2 * b->reach - cut]) cut++;
    b->reach -= cut;
    for (size_t k = 0; k < 2 * b->reach + 1; k++) {
        b->taps_u4[k] = b->weights[k + cut];
        b->taps_u2[k] = (uint16_t)b->taps_u4[k];
        b->taps[k] = b->taps_u4[k];
    }
}

/* The counts in all cells. */
static CLONES uint64_t counts_of(const pyramid *p) {
    uint64_t sum = 0;
    for (size_t i = 0, n = p->grids[0].ny * p->grids[0].nx; i < n; i++) sum += p->sum[i];
    return sum;
}

/* Finds what is to be kept beside discs, which are marked, and the means of all cells. All rows are pooled already.
 * Returns the counts of the pixels that aren't kept. */
static uint64_t background_find(background *b, pyramid *p) {
    const cell_grid *g = &p->grids[0];
    set_taps(b);
    memset(p->nothing, 0, g->nx * sizeof(double));
    memset(p->row_bits, 0, g->ny * sizeof(uint32_t));
    for (size_t k = 0; k < b->n_centres; k++) keep_around(b, b->centres[k], p);
    memset(p->marks, 1, g->ny * p->n_marks);
    solve(b, p);
    /* The second time without what the first found: strong spots hide weaker ones beside them. */
    for (int round = 0; round < 2 && keep_outliers(b, p); round++) solve(b, p);
    return counts_of(p);
}

/* The level of every pixel, (ny, nx), of the means that background_find left; `cells`: room for a row of them and one
 * more. */
static void background_levels(const background *b, uint32_t *means, uint32_t *cells, uint32_t *level) {
    const cell_grid g = {.ny = cells_along(b->ny, b->cell_bits), .nx = cells_along(b->nx, b->cell_bits), .mean = means};
    for (size_t y = 0; y < b->ny; y++) levels_of_row(b, &g, y, cells, level + y * b->nx, 0, g.nx);
}

#endif
