/* Summing and binning of frames, and what makes an output image of a sum.
 *
 * Frames are reduced one output row at a time, and a row a run of columns at a time. Nearly all runs are plain:
 * nothing in them is flagged, invalid or saturated, which is seen while they're added, as they are and of all frames
 * at once. In the others flagged and invalid contributions are first set to 0, in a copy. Signed frames go through
 * the unsigned code: read as unsigned, negative numbers lie above `top`.
 */
#ifndef BNL_REDUCE_H
#define BNL_REDUCE_H

#include "common.h"
#include "finish.h"

#define MAX_BINNING 64

/* How much of a run a mask flags. */
enum { NONE, SOME, ALL };

typedef struct {
    size_t ny, nx, ox;   /* frame rows, frame columns, output columns */
    size_t b;
    int itemsize;        /* of the frame: 1, 2, 4 */
    int wide;            /* total is uint64, else uint32 */
    int first;           /* overwrite total and flags */
    int one_row;         /* total is of one output row, whichever comes */
    uint64_t top, low;   /* greatest valid value; smallest value that sets a flag */
    const uint8_t *runs; /* of each output row and run: how much of it the mask flags; or NULL */
    size_t n_runs;       /* of a row */
    const uint8_t *mask; /* of the next run that the mask flags in part: its rows, RUN bytes each, not 0 where flagged */
    size_t flag_rows;    /* flags are of so many output rows, used in turn; 0: of all */
    void *total;
    uint8_t *flags;
} reduction;

static void *row_total(const reduction *r, size_t out_row) {
    return (uint8_t *)r->total + (r->one_row ? 0 : out_row * r->ox) * (r->wide ? 8 : 4);
}

static uint8_t *row_flags(const reduction *r, size_t out_row) {
    return r->flags + (r->flag_rows ? out_row % r->flag_rows : out_row) * r->ox;
}

/* Whether a run's sums are its pixels, if nothing is cut, invalid or saturated. */
INLINE int is_at_once(const reduction *r, const row_ending *e) { return e && r->first && e->f->scale == 1; }

/* Rows of a frame that make an output row: b, fewer at the bottom edge. */
static size_t rows_of(const reduction *r, size_t out_row) {
    return r->ny - out_row * r->b < r->b ? r->ny - out_row * r->b : r->b;
}

/* Runs of an output row: of RUN columns of the frame, cut to a multiple of b. */
static size_t runs_of(size_t nx, size_t b) { return (nx + RUN / b * b - 1) / (RUN / b * b); }

#define DEFINE_CLEAN(T, NAME)                                                                                \
    /* The pixels of a word, or-ed. */                                                                       \
    INLINE T in_one_##NAME(uint64_t all) {                                                                   \
        for (size_t shift = 32; shift >= 8 * sizeof(T); shift /= 2) all |= all >> shift;                     \
        return (T)all;                                                                                       \
    }                                                                                                        \
                                                                                                             \
    /* Whether n_rows rows of n pixels are sure to hold nothing that is flagged, invalid or saturated: their \
     * values or-ed are no less than the greatest of them. */                                                \
    INLINE int is_plain_##NAME(const T *src, const uint8_t *mask, size_t nx, size_t n_rows, size_t n, T low) {\
        const T all = in_one_##NAME(bits_of_all(src, nx * sizeof(T), n_rows, n * sizeof(T)));                \
        return all < low && (!mask || bits_of_all(mask, RUN, n_rows, n) == 0);                            \
    }                                                                                                        \
                                                                                                             \
    INLINE int clean_run_##NAME(const T *RESTRICT src, const uint8_t *RESTRICT mask, T *RESTRICT dst,        \
                                size_t n, T top, T low) {                                                    \
        T some = 0;                                                                                          \
        for (size_t i = 0; i < n; i++) {                                                                     \
            const T v = src[i], keep = mask ? ALL_IF(T, mask[i] == 0) : (T)-1;                               \
            dst[i] = v & keep & ALL_IF(T, v <= top);                                                         \
            some |= keep & ALL_IF(T, v >= low);                                                              \
        }                                                                                                    \
        return some != 0;                                                                                    \
    }                                                                                                        \
                                                                                                             \
    INLINE void flag_run_##NAME(const reduction *r, const T *src, const uint8_t *mask, uint8_t *flags,       \
                                size_t n) {                                                                  \
        size_t j = 0, phase = 0; /* counted on: a division a pixel is slow */                                \
        for (size_t i = 0; i < n; i++) {                                                                     \
            if (src[i] >= r->low && !(mask && mask[i])) flags[j] |= src[i] > r->top ? INVALID : SATURATED;   \
            if (++phase == r->b) {                                                                           \
                phase = 0;                                                                                   \
                j++;                                                                                         \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
                                                                                                             \
    /* What n contributions add, with zeros up to `whole`, in `space`. */                                    \
    INLINE const T *cleaned_##NAME(const reduction *r, const T *src, const uint8_t *mask, uint8_t *flags,    \
                                   T *space, size_t n, size_t whole) {                                       \
        const T top = (T)r->top, low = (T)r->low;                                                            \
        if (mask ? clean_run_##NAME(src, mask, space, n, top, low)                                           \
                 : clean_run_##NAME(src, NULL, space, n, top, low))                                          \
            flag_run_##NAME(r, src, mask, flags, n);                                                         \
        memset(space + n, 0, (whole - n) * sizeof(T));                                                       \
        return space;                                                                                        \
    }

DEFINE_CLEAN(uint8_t, u1)
DEFINE_CLEAN(uint16_t, u2)
DEFINE_CLEAN(uint32_t, u4)

INLINE uint32_t load_pair(const void *pixels, size_t j) {
    uint32_t pair;
    memcpy(&pair, (const uint8_t *)pixels + 4 * j, 4);
    return pair;
}

#define DEFINE_SUMS(A, SUFFIX)                                                                               \
    /* A pair of 2-byte pixels is read as one 4-byte word: the sum of its halves needs no shuffling. */      \
    INLINE void add_pairs_##SUFFIX(const void *above, const void *below, A *RESTRICT total, size_t n,        \
                                   int first) {                                                              \
        for (size_t j = 0; j < n; j++) {                                                                     \
            const uint32_t a = load_pair(above, j), b = load_pair(below, j);                                 \
            const uint32_t sum = (a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16);                        \
            total[j] = first ? sum : total[j] + sum;                                                         \
        }                                                                                                    \
    }                                                                                                        \
                                                                                                             \
    INLINE void fold_by_##SUFFIX(const A *RESTRICT column, A *RESTRICT total, size_t n, size_t b,            \
                                 int first) {                                                                \
        for (size_t j = 0; j < n; j++) {                                                                     \
            A sum = 0;                                                                                       \
            for (size_t k = 0; k < b; k++) sum += column[j * b + k];                                         \
            total[j] = first ? sum : total[j] + sum;                                                         \
        }                                                                                                    \
    }                                                                                                        \
                                                                                                             \
    static CLONES void fold_##SUFFIX(const A *RESTRICT column, A *RESTRICT total, size_t n, size_t b,        \
                                     int first) {                                                            \
        switch (b) { /* a constant b lets the compiler unroll and vectorise */                               \
        case 2: fold_by_##SUFFIX(column, total, n, 2, first); break;                                         \
        case 3: fold_by_##SUFFIX(column, total, n, 3, first); break;                                         \
        case 4: fold_by_##SUFFIX(column, total, n, 4, first); break;                                         \
        case 5: fold_by_##SUFFIX(column, total, n, 5, first); break;                                         \
        case 6: fold_by_##SUFFIX(column, total, n, 6, first); break;                                         \
        case 7: fold_by_##SUFFIX(column, total, n, 7, first); break;                                         \
        case 8: fold_by_##SUFFIX(column, total, n, 8, first); break;                                         \
        default: fold_by_##SUFFIX(column, total, n, b, first);                                               \
        }                                                                                                    \
    }

DEFINE_SUMS(uint32_t, w4)
DEFINE_SUMS(uint64_t, w8)

/* Adds a run of n columns of a frame, whatever is in it: n_rows rows to n_out sums. */
#define DEFINE_RUN(T, NAME, A, SUFFIX)                                                                       \
    INLINE void add_##NAME##_##SUFFIX(const T *from, A *RESTRICT sum, size_t n, int first) {                 \
        if (first)                                                                                           \
            for (size_t i = 0; i < n; i++) sum[i] = from[i];                                                 \
        else                                                                                                 \
            for (size_t i = 0; i < n; i++) sum[i] += from[i];                                                \
    }                                                                                                        \
                                                                                                             \
    INLINE void run_##NAME##_##SUFFIX(const reduction *r, const T *src, const uint8_t *mask, A *total,       \
                                      uint8_t *flags, size_t n_rows, size_t n, size_t n_out, int first) {    \
        static const T nothing[RUN];                                                                         \
        const size_t b = r->b, nx = r->nx;                                                                   \
        const int halves = sizeof(T) == 2 && b == 2;                                                         \
        const T *pair[2] = {nothing, nothing};                                                               \
        T space[2][RUN];                                                                                     \
        A column[RUN];                                                                                       \
        /* A constant length leaves the loops without ends. */                                               \
        const int plain = n == RUN       ? is_plain_##NAME(src, mask, nx, n_rows, RUN, (T)r->low)            \
                          : n_out * b == n ? is_plain_##NAME(src, mask, nx, n_rows, n, (T)r->low)            \
                                           : 0;                                                              \
        for (size_t y = 0; y < n_rows; y++, src += nx, mask = mask ? mask + RUN : NULL) {                    \
            const T *from = plain ? src : cleaned_##NAME(r, src, mask, flags, space[y & 1], n, n_out * b);   \
            if (halves)                                                                                      \
                pair[y] = from;                                                                              \
            else if (b == 1)                                                                                 \
                add_##NAME##_##SUFFIX(from, total, n, first);                                                \
            else                                                                                             \
                add_##NAME##_##SUFFIX(from, column, n_out * b, y == 0);                                      \
        }                                                                                                    \
        if (halves)                                                                                          \
            add_pairs_##SUFFIX(pair[0], pair[1], total, n_out, first);                                       \
        else if (b > 1)                                                                                      \
            fold_##SUFFIX(column, total, n_out, b, first);                                                   \
    }

/* ---- runs that are plain in all frames ---- */

/* 32 bytes of pixels at any address; where there are no vectors, one pixel. */
#if defined(__GNUC__) || defined(__clang__)
typedef uint16_t lanes_u2 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint32_t lanes_u4 __attribute__((vector_size(32), aligned(4), may_alias));
#else
typedef uint16_t lanes_u2;
typedef uint32_t lanes_u4;
#endif

/* So many vectors of sums stay in registers. */
#define VECTORS 8

/* Rows of a run whose masks are widened at once. */
#define MOST_KEPT 8

INLINE void join_pairs_u2(const uint16_t *RESTRICT columns, uint16_t *RESTRICT sums) {
    for (size_t j = 0; j < RUN / 2; j++) {
        const uint32_t pair = load_pair(columns, j);
        sums[j] = (uint16_t)((pair & 0xffff) + (pair >> 16));
    }
}

INLINE void join_pairs_u4(const uint32_t *RESTRICT columns, uint32_t *RESTRICT sums) {
    for (size_t j = 0; j < RUN / 2; j++) sums[j] = columns[2 * j] + columns[2 * j + 1];
}

#define DEFINE_PLAIN(T, NAME)                                                                                \
    /* Adds RUN columns from x on, of all rows of all frames; returns their pixels or-ed, which tells whether\
     * sums can have wrapped. `keep`, RUN a row: all bits set, none where flagged; or NULL. */               \
    INLINE T add_columns_##NAME(const void *const *frames, size_t n_frames, size_t n_rows, size_t nx,        \
                                size_t x, const T *keep, T *columns) {                                       \
        const size_t lanes = sizeof(lanes_##NAME) / sizeof(T);                                               \
        uint64_t all = 0;                                                                                    \
        for (size_t from = 0; from < RUN; from += VECTORS * lanes) {                                         \
            lanes_##NAME sum[VECTORS] = {0}, any[2] = {0};                                                   \
            for (size_t f = 0; f < n_frames; f++) {                                                          \
                const T *src = (const T *)frames[f] + x + from, *kept = keep ? keep + from : NULL;           \
                for (size_t y = 0; y < n_rows; y++, src += nx, kept = keep ? kept + RUN : NULL)              \
                    for (size_t k = 0; k < VECTORS; k++) {                                                   \
                        lanes_##NAME v = *(const lanes_##NAME *)(src + k * lanes);                           \
                        if (keep) v &= *(const lanes_##NAME *)(kept + k * lanes);                            \
                        sum[k] += v;                                                                         \
                        any[k & 1] |= v;                                                                     \
                    }                                                                                        \
            }                                                                                                \
            memcpy(columns + from, sum, sizeof sum);                                                         \
            any[0] |= any[1];                                                                                \
            all |= bits_of_all(any, 0, 1, sizeof any[0]);                                                    \
        }                                                                                                    \
        return in_one_##NAME(all);                                                                           \
    }                                                                                                        \
                                                                                                             \
    INLINE T add_masked_##NAME(const void *const *frames, size_t n_frames, size_t n_rows, size_t nx,         \
                               size_t x, const uint8_t *mask, T *columns) {                                  \
        T keep[MOST_KEPT * RUN];                                                                             \
        for (size_t i = 0; i < n_rows * RUN; i++) keep[i] = ALL_IF(T, mask[i] == 0);                         \
        return add_columns_##NAME(frames, n_frames, n_rows, nx, x, keep, columns);                           \
    }                                                                                                        \
                                                                                                             \
    /* The same of n columns at a row's end. */                                                              \
    INLINE T add_last_##NAME(const void *const *frames, size_t n_frames, size_t n_rows, size_t nx, size_t x, \
                             const uint8_t *mask, size_t n, T *RESTRICT columns) {                           \
        T all = 0;                                                                                           \
        memset(columns, 0, RUN * sizeof(T));                                                                 \
        for (size_t f = 0; f < n_frames; f++)                                                                \
            for (size_t y = 0; y < n_rows; y++) {                                                            \
                const T *RESTRICT src = (const T *)frames[f] + x + y * nx;                                   \
                const uint8_t *RESTRICT m = mask ? mask + y * RUN : NULL;                                    \
                for (size_t i = 0; i < n; i++) {                                                             \
                    const T v = m ? src[i] & ALL_IF(T, m[i] == 0) : src[i];                                  \
                    columns[i] = (T)(columns[i] + v);                                                        \
                    all |= v;                                                                                \
                }                                                                                            \
            }                                                                                                \
        return all;                                                                                          \
    }                                                                                                        \
                                                                                                             \
    INLINE void join_by_##NAME(const T *RESTRICT columns, T *RESTRICT sums, size_t n, size_t b) {            \
        for (size_t j = 0; j < n; j++) {                                                                     \
            T sum = 0;                                                                                       \
            for (size_t k = 0; k < b; k++) sum = (T)(sum + columns[j * b + k]);                              \
            sums[j] = sum;                                                                                   \
        }                                                                                                    \
    }                                                                                                        \
                                                                                                             \
    /* What a run, of n columns and n_out outputs, adds over all frames, where no pixel is invalid or         \
     * saturated nor any sum above `most`; NULL where that isn't sure. */                                    \
    INLINE const T *plain_sums_##NAME(const reduction *r, const void *const *frames, size_t n_frames,        \
                                      size_t n_rows, size_t x, const uint8_t *mask, size_t n, size_t n_out,  \
                                      uint64_t most, T (*room)[RUN]) {                                       \
        uint64_t all;                                                                                        \
        if (r->nx - x < RUN)                                                                                 \
            all = add_last_##NAME(frames, n_frames, n_rows, r->nx, x, mask, n, room[0]);                     \
        else if (!mask)                                                                                      \
            all = add_columns_##NAME(frames, n_frames, n_rows, r->nx, x, NULL, room[0]);                     \
        else if (n_rows <= MOST_KEPT)                                                                        \
            all = add_masked_##NAME(frames, n_frames, n_rows, r->nx, x, mask, room[0]);                      \
        else                                                                                                 \
            return NULL;                                                                                     \
        if (all >= r->low || all * (r->b * n_rows * n_frames) > most) return NULL;                           \
        switch (r->b) {                                                                                      \
        case 1: return room[0];                                                                              \
        case 2: join_pairs_##NAME(room[0], room[1]); break;                                                  \
        case 3: join_by_##NAME(room[0], room[1], n_out, 3); break;                                           \
        case 4: join_by_##NAME(room[0], room[1], n_out, 4); break;                                           \
        default: join_by_##NAME(room[0], room[1], n_out, r->b);                                              \
        }                                                                                                    \
        return room[1];                                                                                      \
    }

#define DEFINE_PUT(T, NAME)                                                                                  \
    /* Sums as pixels. */                                                                                    \
    INLINE void put_##NAME(const T *RESTRICT sums, int value_size, void *RESTRICT values, size_t n) {        \
        if (value_size == 2)                                                                                 \
            for (size_t j = 0; j < n; j++) ((uint16_t *)values)[j] = (uint16_t)sums[j];                      \
        else                                                                                                 \
            for (size_t j = 0; j < n; j++) ((uint32_t *)values)[j] = sums[j];                                \
    }                                                                                                        \
                                                                                                             \
    /* The same with marks where blank; returns how many there are. */                                       \
    INLINE uint32_t put_marked_##NAME(const T *RESTRICT sums, const uint8_t *RESTRICT blank, uint32_t mark,  \
                                      int value_size, void *RESTRICT values, size_t n) {                     \
        uint16_t *RESTRICT narrow = values;                                                                  \
        uint32_t *RESTRICT wide = values, marked = 0;                                                        \
        for (size_t j = 0; value_size == 2 && j < n; j++) {                                                  \
            const uint16_t bad = ALL_IF(uint16_t, blank[j] != 0);                                            \
            narrow[j] = (uint16_t)((bad & mark) | (~bad & sums[j]));                                         \
        }                                                                                                    \
        for (size_t j = 0; value_size != 2 && j < n; j++) {                                                  \
            const uint32_t bad = ALL_IF(uint32_t, blank[j] != 0);                                            \
            wide[j] = (bad & mark) | (~bad & sums[j]);                                                       \
        }                                                                                                    \
        for (size_t j = 0; j < n; j++) marked += blank[j] != 0;                                              \
        return marked;                                                                                       \
    }

DEFINE_PLAIN(uint16_t, u2)
DEFINE_PLAIN(uint32_t, u4)
DEFINE_PUT(uint8_t, u1)
DEFINE_PUT(uint16_t, u2)
DEFINE_PUT(uint32_t, u4)

/* Pixels of a byte go the other way. */
#define plain_sums_u1(r, frames, n_frames, n_rows, x, mask, n, n_out, most, room) ((void)(most), (void)(room), NULL)

/* An output row of n_frames frames. Runs that are plain in all of them are added at once, and are the image's pixels
 * where these frames are all. */
#define DEFINE_ROW(T, NAME, A, SUFFIX)                                                                       \
    DEFINE_RUN(T, NAME, A, SUFFIX)                                                                           \
                                                                                                             \
    static CLONES void row_##NAME##_##SUFFIX(reduction *r, size_t out_row, const void *const *frames,        \
                                             size_t n_frames, row_ending *e) {                               \
        static const T nothing[RUN];                                                                         \
        const size_t b = r->b, nx = r->nx, in_run = RUN / b, width = in_run * b;                             \
        const size_t n_rows = rows_of(r, out_row);                                                           \
        const int at_once = is_at_once(r, e);                                                                \
        const uint64_t most = at_once && e->f->edge < (T)-1 ? e->f->edge : (T)-1;                            \
        A *const total = row_total(r, out_row);                                                              \
        uint8_t *const flags = row_flags(r, out_row);                                                        \
        const uint8_t *runs = r->runs ? r->runs + out_row * r->n_runs : NULL;                                \
        size_t finished = 0;                                                                                 \
        T room[2][RUN];                                                                                      \
        /* What was never written takes no memory. */                                                        \
        if (r->first && !none_set(flags, r->ox)) memset(flags, 0, r->ox);                                    \
        for (size_t x = 0, j = 0; x < nx; x += width, j += in_run) {                                         \
            const size_t n = nx - x < width ? nx - x : width, n_out = (n + b - 1) / b;                       \
            const int flagged = runs ? *runs++ : NONE;                                                       \
            const uint8_t *mask = flagged == SOME ? r->mask : NULL;                                          \
            const T *sums = flagged == ALL ? nothing                                                         \
                                           : plain_sums_##NAME(r, frames, n_frames, n_rows, x, mask, n,      \
                                                               n_out, most, room);                           \
            if (mask) r->mask += n_rows * RUN;                                                               \
            if (sums && at_once) {                                                                           \
                uint8_t *const values = (uint8_t *)e->values + j * (size_t)e->value_size;                    \
                finish_part(e, r->wide, total, flags, finished, j);                                          \
                finished = j + n_out;                                                                        \
                if (is_unblanked(e, j, n_out))                                                               \
                    put_##NAME(sums, e->value_size, values, n_out);                                          \
                else                                                                                         \
                    e->f->n_invalid += put_marked_##NAME(sums, e->blank + j, e->f->invalid, e->value_size,   \
                                                         values, n_out);                                     \
            } else if (sums) {                                                                               \
                add_##NAME##_##SUFFIX(sums, total + j, n_out, r->first);                                     \
            } else {                                                                                         \
                for (size_t f = 0; f < n_frames; f++)                                                        \
                    run_##NAME##_##SUFFIX(r, (const T *)frames[f] + x, mask, total + j, flags + j, n_rows, n,\
                                          n_out, r->first && f == 0);                                        \
            }                                                                                                \
        }                                                                                                    \
        if (e) finish_part(e, r->wide, total, flags, finished, r->ox);                                       \
    }

DEFINE_ROW(uint8_t, u1, uint32_t, w4)
DEFINE_ROW(uint16_t, u2, uint32_t, w4)
DEFINE_ROW(uint32_t, u4, uint32_t, w4)
DEFINE_ROW(uint8_t, u1, uint64_t, w8)
DEFINE_ROW(uint16_t, u2, uint64_t, w8)
DEFINE_ROW(uint32_t, u4, uint64_t, w8)

/* Adds to output row `out_row`, the next one, its rows of each frame, contiguous at frames[i]; and makes the image's
 * pixels if there is an ending. */
static void reduce_row(reduction *r, size_t out_row, const void *const *frames, size_t n_frames, row_ending *e) {
    switch (r->itemsize * 2 + r->wide) {
    case 2: row_u1_w4(r, out_row, frames, n_frames, e); break;
    case 3: row_u1_w8(r, out_row, frames, n_frames, e); break;
    case 4: row_u2_w4(r, out_row, frames, n_frames, e); break;
    case 5: row_u2_w8(r, out_row, frames, n_frames, e); break;
    case 8: row_u4_w4(r, out_row, frames, n_frames, e); break;
    case 9: row_u4_w8(r, out_row, frames, n_frames, e); break;
    }
}

/* What `reduction.runs` tells of a mask (ny, nx); returns the bytes of what `reduction.mask` does. */
static size_t runs_of_mask(const uint8_t *mask, size_t ny, size_t nx, size_t b, uint8_t *runs) {
    const size_t width = RUN / b * b;
    size_t bytes = 0;
    for (size_t y = 0; y < ny; y += b)
        for (size_t x = 0; x < nx; x += width) {
            const size_t n_rows = ny - y < b ? ny - y : b, n = nx - x < width ? nx - x : width;
            const uint8_t *here = mask + y * nx + x;
            size_t n_free = 0;
            for (size_t k = 0; k < n_rows; k++)
                for (size_t i = 0; i < n; i++) n_free += here[k * nx + i] == 0;
            bytes += n_free && n_free < n_rows * n ? n_rows * RUN : 0;
            *runs++ = n_free == n_rows * n ? NONE : n_free ? SOME : ALL;
        }
    return bytes;
}

/* Of the runs that are flagged in part, their rows, RUN bytes each, filled up with flags. */
static void pack_mask(const uint8_t *mask, size_t ny, size_t nx, size_t b, const uint8_t *runs, uint8_t *packed) {
    const size_t width = RUN / b * b;
    for (size_t y = 0; y < ny; y += b)
        for (size_t x = 0; x < nx; x += width) {
            const size_t n_rows = ny - y < b ? ny - y : b, n = nx - x < width ? nx - x : width;
            for (size_t k = 0; *runs == SOME && k < n_rows; k++, packed += RUN) {
                memset(packed, 1, RUN);
                memcpy(packed, mask + (y + k) * nx + x, n);
            }
            runs++;
        }
}

/* The bytes that a packed mask of frames (ny, nx) has, by its runs. */
static size_t packed_bytes(const uint8_t *runs, size_t ny, size_t n_runs, size_t b) {
    size_t bytes = 0;
    for (size_t y = 0; y < ny; y += b, runs += n_runs) {
        size_t n = 0;
        for (size_t k = 0; k < n_runs; k++) n += runs[k] == SOME;
        bytes += n * (ny - y < b ? ny - y : b) * RUN;
    }
    return bytes;
}

#endif
