/* What makes an output image of a sum, and the marks on what a codec gave back.
 *
 * Runs without a scale in which no pixel is cut, invalid or saturated are the rule, and only change their type.
 */
#ifndef BNL_FINISH_H
#define BNL_FINISH_H

#include "common.h"

enum { INVALID = 1, SATURATED = 2 };

/* Pixels that are looked at together. */
#define RUN 128

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

/* Where the pixels of an output row go. */
typedef struct {
    finishing *f;
    const uint8_t *blank, *runs; /* of the row; either may be NULL */
    int value_size;
    void *values;
} row_ending;

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

/* Whether `blank` is 0 in n outputs from j on, which run over no more than two of its runs. */
INLINE int is_unblanked(const row_ending *e, size_t j, size_t n) {
    return !e->blank || (e->runs && !e->runs[j / RUN] && !e->runs[(j + n - 1) / RUN]) || none_set(e->blank + j, n);
}

/* The pixels `from` to `to` - 1 of a row, of whose sums and flags the first are given. */
INLINE void finish_part(row_ending *e, int wide, const void *total, const uint8_t *flags, size_t from, size_t to) {
    if (from == to) return;
    finish_pixels(e->f, wide, (const uint8_t *)total + from * (wide ? 8 : 4), flags + from,
                  e->blank ? e->blank + from : NULL, e->runs && from % RUN == 0 ? e->runs + from / RUN : NULL,
                  e->value_size, (uint8_t *)e->values + from * (size_t)e->value_size, to - from);
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
