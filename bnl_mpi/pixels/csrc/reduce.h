/* Summing and binning of frames, and what makes an output image of a sum.
 *
 * A frame is reduced one output row at a time, and a row a run of columns at a time. Nearly all runs are plain:
 * nothing in them is flagged, invalid or saturated, which is soon seen, and they're added as they are. In the
 * others flagged and invalid contributions are first set to 0, in a copy. Signed frames go through the unsigned
 * code: read as unsigned, negative numbers lie above `top`.
 */
#ifndef BNL_REDUCE_H
#define BNL_REDUCE_H

#include "common.h"

enum { INVALID = 1, SATURATED = 2 };

/* Columns at a time, cut to a multiple of b. */
#define RUN 128
#define MAX_BINNING 64

typedef struct {
    size_t ny, nx, ox;   /* frame rows, frame columns, output columns */
    size_t b;
    int itemsize;        /* of the frame: 1, 2, 4 */
    int wide;            /* total is uint64, else uint32 */
    int first;           /* overwrite total and flags */
    int one_row;         /* total is of one output row, whichever comes */
    uint64_t top, low;   /* greatest valid value; smallest value that sets a flag */
    const uint8_t *mask; /* (ny, nx) or NULL */
    const uint8_t *runs; /* of each output row and run: 0 where the mask flags nothing; or NULL */
    size_t n_runs;       /* of a row */
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

/* Runs of an output row: of RUN columns of the frame, cut to a multiple of b. */
static size_t runs_of(size_t nx, size_t b) { return (nx + RUN / b * b - 1) / (RUN / b * b); }

/* Asks for what runs that flag something will need of n_rows rows of a mask: they lie so scattered that nothing else
 * does. `width`: of a run. */
static void prefetch_runs(const uint8_t *mask, const uint8_t *runs, size_t n_runs, size_t nx, size_t n_rows,
                          size_t width) {
    for (size_t k = 0; k < n_runs; k++)
        for (size_t y = 0; runs[k] && y < n_rows; y++) {
            const uint8_t *p = mask + y * nx + k * width;
            PREFETCH(p);
            PREFETCH(p + 64);
            PREFETCH(p + 127);
        }
}

/* All bits set if a condition holds: what a vector comparison gives. */
#define ALL_IF(T, condition) ((T) - (T)(condition))

/* 32 bytes at any address, or-ed at once where the processor can. */
#if defined(__GNUC__) || defined(__clang__)
typedef uint64_t words __attribute__((vector_size(32), aligned(1), may_alias));
#define OR_WORDS(all, p) ((all) |= *(const words *)(p))
#define WORD(all, k) ((all)[k])
#else
typedef struct {
    uint64_t word[4];
} words;
static void or_words(words *all, const uint8_t *p) {
    words here;
    memcpy(&here, p, sizeof here);
    for (int k = 0; k < 4; k++) all->word[k] |= here.word[k];
}
#define OR_WORDS(all, p) or_words(&(all), p)
#define WORD(all, k) ((all).word[k])
#endif

/* The bytes of n_rows rows, n bytes each, or-ed into one word, byte i into byte i % 8. */
INLINE uint64_t bits_of_all(const void *bytes, size_t stride, size_t n_rows, size_t n) {
    words all = {0};
    uint64_t rest = 0, word = 0;
    for (size_t y = 0; y < n_rows; y++) {
        const uint8_t *p = (const uint8_t *)bytes + y * stride;
        size_t i = 0;
        for (; i + sizeof all <= n; i += sizeof all) OR_WORDS(all, p + i);
        for (; i < n; i += 8) {
            memcpy(&word, p + i, n - i < 8 ? n - i : 8);
            rest |= word;
            word = 0;
        }
    }
    return WORD(all, 0) | WORD(all, 1) | WORD(all, 2) | WORD(all, 3) | rest;
}

INLINE int none_set(const uint8_t *bytes, size_t n) { return bits_of_all(bytes, 0, 1, n) == 0; }

#define DEFINE_CLEAN(T, NAME)                                                                                \
    /* Whether n_rows rows of n pixels are sure to hold nothing that is flagged, invalid or saturated: their \
     * values or-ed are no less than the greatest of them. */                                                \
    INLINE int is_plain_##NAME(const T *src, const uint8_t *mask, size_t nx, size_t n_rows, size_t n, T low) {\
        uint64_t all = bits_of_all(src, nx * sizeof(T), n_rows, n * sizeof(T));                              \
        for (size_t shift = 32; shift >= 8 * sizeof(T); shift /= 2) all |= all >> shift;                     \
        return (T)all < low && (!mask || bits_of_all(mask, nx, n_rows, n) == 0);                             \
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

#define DEFINE_ROW(T, NAME, A, SUFFIX)                                                                       \
    INLINE void add_##NAME##_##SUFFIX(const T *from, A *RESTRICT sum, size_t n, int first) {                 \
        if (first)                                                                                           \
            for (size_t i = 0; i < n; i++) sum[i] = from[i];                                                 \
        else                                                                                                 \
            for (size_t i = 0; i < n; i++) sum[i] += from[i];                                                \
    }                                                                                                        \
                                                                                                             \
    static CLONES void row_##NAME##_##SUFFIX(const reduction *r, size_t out_row, const T *rows) {            \
        static const T nothing[RUN];                                                                         \
        const size_t b = r->b, nx = r->nx, y0 = out_row * b, in_run = RUN / b;                               \
        const size_t n_rows = r->ny - y0 < b ? r->ny - y0 : b;                                               \
        const int first = r->first, halves = sizeof(T) == 2 && b == 2;                                       \
        A *total = row_total(r, out_row);                                                                    \
        uint8_t *flags = row_flags(r, out_row);                                                              \
        const uint8_t *runs = r->runs ? r->runs + out_row * r->n_runs : NULL;                                \
        T space[2][RUN];                                                                                     \
        A column[RUN];                                                                                       \
        if (first) memset(flags, 0, r->ox);                                                                  \
        for (size_t x = 0; x < nx; x += in_run * b, total += in_run, flags += in_run) {                      \
            const int ends = nx - x < in_run * b;                                                            \
            const size_t n = ends ? nx - x : in_run * b, n_out = ends ? (n + b - 1) / b : in_run;            \
            const T *src = rows + x, *pair[2] = {nothing, nothing};                                          \
            const int masked = r->mask && (!runs || *runs);                                                  \
            const uint8_t *mask = masked ? r->mask + y0 * nx + x : NULL;                                     \
            if (runs) runs++;                                                                                \
            /* A constant length leaves the loops without ends. */                                           \
            const int plain = n == RUN       ? is_plain_##NAME(src, mask, nx, n_rows, RUN, (T)r->low)        \
                              : n_out * b == n ? is_plain_##NAME(src, mask, nx, n_rows, n, (T)r->low)        \
                                               : 0;                                                          \
            for (size_t y = 0; y < n_rows; y++, src += nx, mask = mask ? mask + nx : NULL) {                 \
                const T *from = plain ? src : cleaned_##NAME(r, src, mask, flags, space[y & 1], n, n_out * b);\
                if (halves)                                                                                  \
                    pair[y] = from;                                                                          \
                else if (b == 1)                                                                             \
                    add_##NAME##_##SUFFIX(from, total, n, first);                                            \
                else                                                                                         \
                    add_##NAME##_##SUFFIX(from, column, n_out * b, y == 0);                                  \
            }                                                                                                \
            if (halves)                                                                                      \
                add_pairs_##SUFFIX(pair[0], pair[1], total, n_out, first);                                   \
            else if (b > 1)                                                                                  \
                fold_##SUFFIX(column, total, n_out, b, first);                                               \
        }                                                                                                    \
    }

DEFINE_ROW(uint8_t, u1, uint32_t, w4)
DEFINE_ROW(uint16_t, u2, uint32_t, w4)
DEFINE_ROW(uint32_t, u4, uint32_t, w4)
DEFINE_ROW(uint8_t, u1, uint64_t, w8)
DEFINE_ROW(uint16_t, u2, uint64_t, w8)
DEFINE_ROW(uint32_t, u4, uint64_t, w8)

/* Adds to output row `out_row` its b rows of the frame (fewer at the bottom edge), contiguous at `rows`. */
static void reduce_row(const reduction *r, size_t out_row, const void *rows) {
    const size_t next = (out_row + 1) * r->b;
    if (r->mask && r->runs && next + r->b <= r->ny)
        prefetch_runs(r->mask + next * r->nx, r->runs + (out_row + 1) * r->n_runs, r->n_runs, r->nx, r->b,
                      RUN / r->b * r->b);
    switch (r->itemsize * 2 + r->wide) {
    case 2: row_u1_w4(r, out_row, rows); break;
    case 3: row_u1_w8(r, out_row, rows); break;
    case 4: row_u2_w4(r, out_row, rows); break;
    case 5: row_u2_w8(r, out_row, rows); break;
    case 8: row_u4_w4(r, out_row, rows); break;
    case 9: row_u4_w8(r, out_row, rows); break;
    }
}

/* What `reduction.runs` tells of a mask (ny, nx). */
static void runs_of_mask(const uint8_t *mask, size_t ny, size_t nx, size_t b, uint8_t *runs) {
    const size_t width = RUN / b * b;
    for (size_t y = 0; y < ny; y += b)
        for (size_t x = 0; x < nx; x += width)
            *runs++ = bits_of_all(mask + y * nx + x, nx, ny - y < b ? ny - y : b, nx - x < width ? nx - x : width) != 0;
}

/* ---- finish and mark ------------------------------------------------------------------------------ */

typedef struct {
    uint64_t satval;        /* UINT64_MAX: none */
    uint64_t limit;
    double scale;
    uint8_t over;           /* the flag for which a pixel gets the value `limit`; 0: none */
    uint32_t invalid;       /* what invalid pixels get */
    uint64_t edge, most;    /* greatest total that isn't cut; the value of those that are */
    uint64_t n_clipped, n_invalid;
} finishing;

/* The greatest total whose scaled value, cut to an integer, doesn't exceed the limit: scaled values never fall. */
static uint64_t greatest_within(double scale, uint64_t limit) {
    const double bound = (double)limit + 1;
    uint64_t within = 0;
    for (int bit = 63; bit >= 0; bit--) {
        const uint64_t v = within | (uint64_t)1 << bit;
        if ((double)v * scale < bound) within = v;
    }
    return within;
}

/* Totals above `edge` are cut: their value is `most`. So what is left to scale is in range, and where it
 * fits 31 bits, the conversions to double and back have vector instructions. Runs without a scale in which no
 * pixel is cut, invalid or saturated are the rule, and only change their type.
 */
#define DEFINE_FINISH(A, SUFFIX, V, NAME)                                                                    \
    INLINE void finish_run_##SUFFIX##_##NAME(finishing *f, const A *RESTRICT total,                          \
                                             const uint32_t *RESTRICT scaled, const uint8_t *RESTRICT flags, \
                                             const uint8_t *RESTRICT blank, V *RESTRICT values, size_t n) {  \
        const A edge = f->edge < (A)-1 ? (A)f->edge : (A)-1;                                                 \
        const uint32_t limit = (uint32_t)f->limit, most = (uint32_t)f->most, mark = f->invalid;              \
        const uint8_t over = f->over;                                                                        \
        uint32_t clipped = 0, invalid = 0;                                                                   \
        for (size_t i = 0; i < n; i++) {                                                                     \
            const uint32_t bad = ALL_IF(uint32_t, ((flags[i] & INVALID) | (blank ? blank[i] : 0)) != 0);     \
            const uint32_t saturated = ALL_IF(uint32_t, (flags[i] & over) != 0);                             \
            const uint32_t high = ALL_IF(uint32_t, total[i] > edge);                                         \
            const uint32_t value = (high & most) | (~high & (scaled ? scaled[i] : (uint32_t)total[i]));      \
            values[i] = (V)((bad & mark) | (~bad & ((saturated & limit) | (~saturated & value))));           \
            clipped -= (saturated | high) & ~bad;                                                            \
            invalid -= bad;                                                                                  \
        }                                                                                                    \
        f->n_clipped += clipped;                                                                             \
        f->n_invalid += invalid;                                                                             \
    }                                                                                                        \
                                                                                                             \
    INLINE void scale_run_##SUFFIX##_##NAME(const finishing *f, const A *RESTRICT total,                     \
                                            uint32_t *RESTRICT scaled, size_t n) {                           \
        const A edge = f->edge < (A)-1 ? (A)f->edge : (A)-1;                                                 \
        const double factor = f->scale;                                                                      \
        if (f->edge <= INT32_MAX && f->limit <= INT32_MAX)                                                   \
            for (size_t i = 0; i < n; i++)                                                                   \
                scaled[i] = (uint32_t)(int32_t)((double)(int32_t)(total[i] < edge ? total[i] : edge) * factor);\
        else                                                                                                 \
            for (size_t i = 0; i < n; i++)                                                                   \
                scaled[i] = (uint32_t)(int64_t)((double)(total[i] < edge ? total[i] : edge) * factor);       \
    }                                                                                                        \
                                                                                                             \
    INLINE int copy_if_plain_##SUFFIX##_##NAME(const finishing *f, const A *RESTRICT total,                  \
                                               const uint8_t *flags, const uint8_t *blank,                   \
                                               V *RESTRICT values, size_t n) {                               \
        const A edge = f->edge < (A)-1 ? (A)f->edge : (A)-1;                                                 \
        A high = 0;                                                                                          \
        for (size_t i = 0; i < n; i++) high |= ALL_IF(A, total[i] > edge);                                   \
        if (high || !none_set(flags, n) || (blank && !none_set(blank, n))) return 0;                         \
        for (size_t i = 0; i < n; i++) values[i] = (V)total[i];                                              \
        return 1;                                                                                            \
    }                                                                                                        \
                                                                                                             \
    static CLONES void finish_##SUFFIX##_##NAME(finishing *f, const void *totals, const uint8_t *flags,      \
                                                const uint8_t *blank, const uint8_t *runs, void *out,        \
                                                size_t n_all) {                                              \
        uint32_t scaled[RUN];                                                                                \
        const int scales = f->scale != 1;                                                                    \
        for (size_t i = 0; i < n_all; i += RUN, flags += RUN, blank = blank ? blank + RUN : NULL) {          \
            const A *total = (const A *)totals + i;                                                          \
            V *values = (V *)out + i;                                                                        \
            const size_t n = n_all - i < RUN ? n_all - i : RUN;                                              \
            const uint8_t *here = runs && !runs[i / RUN] ? NULL : blank;                                     \
            if (!scales && n == RUN && copy_if_plain_##SUFFIX##_##NAME(f, total, flags, here, values, RUN))  \
                continue;                                                                                    \
            if (scales) scale_run_##SUFFIX##_##NAME(f, total, scaled, n);                                    \
            finish_run_##SUFFIX##_##NAME(f, total, scales ? scaled : NULL, flags, here, values, n);          \
        }                                                                                                    \
    }

DEFINE_FINISH(uint32_t, w4, uint16_t, v2)
DEFINE_FINISH(uint32_t, w4, uint32_t, v4)
DEFINE_FINISH(uint64_t, w8, uint16_t, v2)
DEFINE_FINISH(uint64_t, w8, uint32_t, v4)

static void finishing_prepare(finishing *f) {
    const uint64_t within = greatest_within(f->scale, f->limit);
    f->edge = within < f->satval ? within : f->satval;
    f->most = within < f->satval ? f->limit : (uint64_t)((double)f->satval * f->scale);
}

/* The next n pixels of an image; `runs` tells where blank is 0, run by run, or NULL. int32 values share the code of
 * uint32: no value exceeds limit, which fits the type. */
static void finish_pixels(finishing *f, int wide, const void *total, const uint8_t *flags, const uint8_t *blank,
                          const uint8_t *runs, int value_size, void *values, size_t n) {
    if (wide)
        (value_size == 2 ? finish_w8_v2 : finish_w8_v4)(f, total, flags, blank, runs, values, n);
    else
        (value_size == 2 ? finish_w4_v2 : finish_w4_v4)(f, total, flags, blank, runs, values, n);
}

#define DEFINE_MARK(V, NAME, O, SIZE)                                                                        \
    INLINE void mark_in_##NAME##_##SIZE(const V *values, const uint8_t *RESTRICT flags,                      \
                                        const uint8_t *RESTRICT blank, size_t n, V limit, O mark, O *out) {  \
        ELEMENTWISE                                                                                          \
        for (size_t i = 0; i < n; i++) {                                                                     \
            const V v = values[i] < 0 ? 0 : values[i] > limit ? limit : values[i];                           \
            out[i] = (flags[i] & INVALID) | (blank ? blank[i] : 0) ? mark : (O)v;                            \
        }                                                                                                    \
    }                                                                                                        \
                                                                                                             \
    static CLONES void mark_##NAME##_##SIZE(const void *values, const uint8_t *flags, const uint8_t *blank,  \
                                            size_t n, uint64_t limit, uint64_t mark, void *out) {            \
        if (blank)                                                                                           \
            mark_in_##NAME##_##SIZE(values, flags, blank, n, (V)limit, (O)mark, out);                        \
        else                                                                                                 \
            mark_in_##NAME##_##SIZE(values, flags, NULL, n, (V)limit, (O)mark, out);                         \
    }

DEFINE_MARK(uint16_t, u2, uint16_t, o2)
DEFINE_MARK(uint32_t, u4, uint16_t, o2)
DEFINE_MARK(int16_t, i2, uint16_t, o2)
DEFINE_MARK(int32_t, i4, uint16_t, o2)
DEFINE_MARK(uint16_t, u2, uint32_t, o4)
DEFINE_MARK(uint32_t, u4, uint32_t, o4)
DEFINE_MARK(int16_t, i2, uint32_t, o4)
DEFINE_MARK(int32_t, i4, uint32_t, o4)

typedef void (*mark_function)(const void *, const uint8_t *, const uint8_t *, size_t, uint64_t, uint64_t, void *);

/* Signed outputs share the code of unsigned ones: `limit` fits either, the mark comes as its bits. */
static void mark_image(int value_size, int is_signed, int narrow_out, const void *values, const uint8_t *flags,
                       const uint8_t *blank, size_t n, uint64_t limit, uint64_t mark, void *out) {
    static const mark_function functions[2][2][2] = {{{mark_u4_o4, mark_u4_o2}, {mark_i4_o4, mark_i4_o2}},
                                                     {{mark_u2_o4, mark_u2_o2}, {mark_i2_o4, mark_i2_o2}}};
    functions[value_size == 2][is_signed][narrow_out](values, flags, blank, n, limit, mark, out);
}

#endif
