/* Summing and binning of frames, and what makes an output image of a sum.
 *
 * A frame is reduced one output row at a time. Its b input rows are first cleaned (flagged and invalid
 * contributions become 0) into a buffer that stays in the first-level cache, then added up. Signed
 * frames go through the unsigned code: read as unsigned, negative numbers lie above `top`.
 */
#ifndef BNL_REDUCE_H
#define BNL_REDUCE_H

#include "common.h"

enum { INVALID = 1, SATURATED = 2 };

/* Flags are rare, so they're looked for only in runs of this many columns where some value calls for one. */
#define RUN 128

typedef struct {
    size_t ny, nx, ox;   /* frame rows, frame columns, output columns */
    size_t b;
    int itemsize;        /* of the frame: 1, 2, 4 */
    int wide;            /* total is uint64, else uint32 */
    int first;           /* overwrite total and flags */
    uint64_t top, low;   /* greatest valid value; smallest value that sets a flag */
    const uint8_t *mask; /* (ny, nx) or NULL */
    void *total;
    uint8_t *flags;
    uint8_t *hot;        /* one byte a run */
    void *clean;         /* b == 1, 2: that many rows of ox*b cleaned values; else one */
    void *column;        /* ox*b column sums, of the type of total */
} reduction;

/* All bits set if a condition holds: what a vector comparison gives. */
#define ALL_IF(T, condition) ((T) - (T)(condition))

#define DEFINE_CLEAN(T, NAME)                                                                                \
    INLINE int clean_in_##NAME(const T *RESTRICT src, const uint8_t *RESTRICT mask, T *RESTRICT dst,         \
                               uint8_t *RESTRICT hot, size_t n, T top, T low) {                              \
        T any = 0;                                                                                           \
        for (size_t start = 0; start < n; start += RUN) {                                                    \
            const size_t stop = start + RUN < n ? start + RUN : n;                                           \
            T some = 0;                                                                                      \
            for (size_t i = start; i < stop; i++) {                                                          \
                const T v = src[i], keep = mask ? ALL_IF(T, mask[i] == 0) : (T)-1;                           \
                dst[i] = v & keep & ALL_IF(T, v <= top);                                                     \
                some |= keep & ALL_IF(T, v >= low);                                                          \
            }                                                                                                \
            hot[start / RUN] = some != 0;                                                                    \
            any |= some;                                                                                     \
        }                                                                                                    \
        return any != 0;                                                                                     \
    }                                                                                                        \
                                                                                                             \
    static CLONES int clean_##NAME(const T *src, const uint8_t *mask, T *dst, uint8_t *hot, size_t n, T top, \
                                   T low) {                                                                  \
        return mask ? clean_in_##NAME(src, mask, dst, hot, n, top, low)                                      \
                    : clean_in_##NAME(src, NULL, dst, hot, n, top, low);                                     \
    }                                                                                                        \
    static void flag_##NAME(const reduction *r, const T *src, const uint8_t *mask, uint8_t *flags) {         \
        for (size_t start = 0; start < r->nx; start += RUN) {                                                \
            const size_t stop = start + RUN < r->nx ? start + RUN : r->nx;                                   \
            if (!r->hot[start / RUN]) continue;                                                              \
            size_t j = start / r->b, phase = start % r->b; /* counted on: a division a pixel is slow */      \
            for (size_t i = start; i < stop; i++) {                                                          \
                if (src[i] >= r->low && !(mask && mask[i])) flags[j] |= src[i] > r->top ? INVALID : SATURATED;\
                if (++phase == r->b) {                                                                       \
                    phase = 0;                                                                               \
                    j++;                                                                                     \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
    }

DEFINE_CLEAN(uint8_t, u1)
DEFINE_CLEAN(uint16_t, u2)
DEFINE_CLEAN(uint32_t, u4)

/* A pair of 2-byte pixels is read as one 4-byte word: the sum of its halves needs no shuffling. */
#define DEFINE_PAIRS(A, SUFFIX)                                                                              \
    static CLONES void pairs_##SUFFIX(const uint32_t *RESTRICT above, const uint32_t *RESTRICT below,        \
                                      A *RESTRICT total, size_t n, int first) {                              \
        if (first)                                                                                           \
            for (size_t j = 0; j < n; j++)                                                                   \
                total[j] = (above[j] & 0xffff) + (above[j] >> 16) + (below[j] & 0xffff) + (below[j] >> 16);  \
        else                                                                                                 \
            for (size_t j = 0; j < n; j++)                                                                   \
                total[j] += (above[j] & 0xffff) + (above[j] >> 16) + (below[j] & 0xffff) + (below[j] >> 16); \
    }

DEFINE_PAIRS(uint32_t, w4)
DEFINE_PAIRS(uint64_t, w8)

#define DEFINE_FOLD(A, SUFFIX)                                                                               \
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

DEFINE_FOLD(uint32_t, w4)
DEFINE_FOLD(uint64_t, w8)

#define DEFINE_ADD(T, NAME, A, SUFFIX)                                                                       \
    static CLONES void add_##NAME##_##SUFFIX(const T *RESTRICT clean, A *RESTRICT sum, size_t n, int first) {\
        if (first)                                                                                           \
            for (size_t i = 0; i < n; i++) sum[i] = clean[i];                                                \
        else                                                                                                 \
            for (size_t i = 0; i < n; i++) sum[i] += clean[i];                                               \
    }                                                                                                        \
                                                                                                             \
    static void row_##NAME##_##SUFFIX(const reduction *r, size_t out_row, const T *rows) {                   \
        const size_t b = r->b, nx = r->nx, y0 = out_row * b;                                                 \
        const size_t n_rows = r->ny - y0 < b ? r->ny - y0 : b;                                               \
        A *total = (A *)r->total + out_row * r->ox;                                                          \
        uint8_t *flags = r->flags + out_row * r->ox;                                                         \
        T *clean = r->clean;                                                                                 \
        A *column = r->column;                                                                               \
        const int halves = sizeof(T) == 2 && b == 2;                                                         \
        if (r->first) memset(flags, 0, r->ox);                                                               \
        if (halves && n_rows == 1) memset(clean + r->ox * b, 0, r->ox * b * sizeof(T));                      \
        for (size_t y = 0; y < n_rows; y++) {                                                                \
            const T *src = rows + y * nx;                                                                    \
            const uint8_t *mask = r->mask ? r->mask + (y0 + y) * nx : NULL;                                  \
            T *dst = halves ? clean + y * r->ox * b : clean;                                                 \
            if (clean_##NAME(src, mask, dst, r->hot, nx, (T)r->top, (T)r->low))                              \
                flag_##NAME(r, src, mask, flags);                                                            \
            if (b == 1)                                                                                      \
                add_##NAME##_##SUFFIX(dst, total, nx, r->first);                                             \
            else if (!halves)                                                                                \
                add_##NAME##_##SUFFIX(dst, column, nx, y == 0);                                              \
        }                                                                                                    \
        if (halves)                                                                                          \
            pairs_##SUFFIX(r->clean, (const uint32_t *)r->clean + r->ox, total, r->ox, r->first);            \
        else if (b > 1)                                                                                      \
            fold_##SUFFIX(column, total, r->ox, b, r->first);                                                \
    }

DEFINE_ADD(uint8_t, u1, uint32_t, w4)
DEFINE_ADD(uint16_t, u2, uint32_t, w4)
DEFINE_ADD(uint32_t, u4, uint32_t, w4)
DEFINE_ADD(uint8_t, u1, uint64_t, w8)
DEFINE_ADD(uint16_t, u2, uint64_t, w8)
DEFINE_ADD(uint32_t, u4, uint64_t, w8)

/* Buffers are zeroed once: columns nx .. ox*b, beyond the frame's edge, are never written and stay 0. */
static int reduction_open(reduction *r) {
    const size_t width = r->ox * r->b;
    r->hot = calloc(r->nx / RUN + 1, 1);
    r->clean = calloc(2 * width, (size_t)r->itemsize);
    r->column = calloc(width, 8);
    return r->hot && r->clean && r->column;
}

static void reduction_close(reduction *r) {
    free(r->hot);
    free(r->clean);
    free(r->column);
}

/* Adds to output row `out_row` its b rows of the frame (fewer at the bottom edge), contiguous at `rows`. */
static void reduce_row(const reduction *r, size_t out_row, const void *rows) {
    switch (r->itemsize * 2 + r->wide) {
    case 2: row_u1_w4(r, out_row, rows); break;
    case 3: row_u1_w8(r, out_row, rows); break;
    case 4: row_u2_w4(r, out_row, rows); break;
    case 5: row_u2_w8(r, out_row, rows); break;
    case 8: row_u4_w4(r, out_row, rows); break;
    case 9: row_u4_w8(r, out_row, rows); break;
    }
}

/* ---- finish and mark ------------------------------------------------------------------------------ */

typedef struct {
    size_t n;
    const uint8_t *flags;
    const uint8_t *blank;   /* or NULL */
    uint64_t satval;        /* UINT64_MAX: none */
    uint64_t limit;
    double scale;
    uint8_t over;           /* the flag for which a pixel gets the value `limit`; 0: none */
    uint64_t edge, most;    /* greatest total that isn't cut; the value of those that are */
    uint64_t n_clipped, n_invalid;
} finishing;

#define COUNTED 2048

/* The greatest total whose scaled value, cut to an integer, doesn't exceed the limit. */
static uint64_t greatest_within(double scale, uint64_t limit) {
    const double bound = (double)limit + 1;
    if (scale == 0 || bound / scale >= 9e15) return UINT64_MAX; /* beyond, totals aren't exact as doubles */
    uint64_t v = (uint64_t)(bound / scale);
    while (v > 0 && (double)v * scale >= bound) v--;
    while ((double)(v + 1) * scale < bound) v++;
    return v;
}

/* Totals above `edge` are cut: their value is `most`. So what is left to scale is in range, and where it
 * fits 31 bits, the conversions to double and back have vector instructions. Counters of a vector loop are
 * as narrow as its data; they're emptied after every COUNTED pixels.
 */
#define DEFINE_FINISH(A, SUFFIX, V, NAME)                                                                    \
    INLINE void finish_run_##SUFFIX##_##NAME(finishing *f, const A *RESTRICT total,                          \
                                             const uint32_t *RESTRICT scaled, const uint8_t *RESTRICT flags, \
                                             const uint8_t *RESTRICT blank, V *RESTRICT values, size_t n) {  \
        const A edge = f->edge < (A)-1 ? (A)f->edge : (A)-1;                                                 \
        const uint32_t limit = (uint32_t)f->limit, most = (uint32_t)f->most;                                 \
        const uint8_t over = f->over;                                                                        \
        uint32_t clipped = 0, invalid = 0;                                                                   \
        for (size_t i = 0; i < n; i++) {                                                                     \
            const uint32_t bad = ALL_IF(uint32_t, ((flags[i] & INVALID) | (blank ? blank[i] : 0)) != 0);     \
            const uint32_t saturated = ALL_IF(uint32_t, (flags[i] & over) != 0);                             \
            const uint32_t high = ALL_IF(uint32_t, total[i] > edge);                                         \
            const uint32_t value = (high & most) | (~high & (scaled ? scaled[i] : (uint32_t)total[i]));      \
            values[i] = (V)(~bad & ((saturated & limit) | (~saturated & value)));                            \
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
    static CLONES void finish_##SUFFIX##_##NAME(finishing *f, const void *all, void *out) {                  \
        uint32_t scaled[COUNTED];                                                                            \
        for (size_t i = 0; i < f->n; i += COUNTED) {                                                         \
            const A *total = (const A *)all + i;                                                             \
            V *values = (V *)out + i;                                                                        \
            const uint8_t *flags = f->flags + i, *blank = f->blank ? f->blank + i : NULL;                    \
            const size_t n = f->n - i < COUNTED ? f->n - i : COUNTED;                                        \
            if (f->scale != 1) {                                                                             \
                scale_run_##SUFFIX##_##NAME(f, total, scaled, n);                                            \
                finish_run_##SUFFIX##_##NAME(f, total, scaled, flags, blank, values, n);                     \
            } else if (blank) {                                                                              \
                finish_run_##SUFFIX##_##NAME(f, total, NULL, flags, blank, values, n);                       \
            } else {                                                                                         \
                finish_run_##SUFFIX##_##NAME(f, total, NULL, flags, NULL, values, n);                        \
            }                                                                                                \
        }                                                                                                    \
    }

DEFINE_FINISH(uint32_t, w4, uint16_t, v2)
DEFINE_FINISH(uint32_t, w4, uint32_t, v4)
DEFINE_FINISH(uint64_t, w8, uint16_t, v2)
DEFINE_FINISH(uint64_t, w8, uint32_t, v4)

/* int32 values share the code of uint32: no value exceeds limit, which fits the type. */
static void finish_image(finishing *f, int wide, const void *total, int value_size, void *values) {
    const uint64_t within = greatest_within(f->scale, f->limit);
    f->edge = within < f->satval ? within : f->satval;
    f->most = within < f->satval ? f->limit : (uint64_t)((double)f->satval * f->scale);
    if (wide)
        (value_size == 2 ? finish_w8_v2 : finish_w8_v4)(f, total, values);
    else
        (value_size == 2 ? finish_w4_v2 : finish_w4_v4)(f, total, values);
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
