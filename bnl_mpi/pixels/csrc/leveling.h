/* Kept regions stay, all else becomes its level: what background_find left makes the new image.
 *
 * Levels are made a row at a time, whenever they are needed: a row lies in the cache, those of an image don't. The new
 * image goes row by row where the old one was, or into a chunk.
 */
#ifndef BNL_LEVELING_H
#define BNL_LEVELING_H

#include "background.h"
#include "imagechunk.h"

typedef struct {
    uint64_t sum_before, sum_after, n_kept;
} background_sums;

/* What becomes of a pixel: it gets its rounded level, is moved by what rounding does to it; or is the level dithered, or
 * stays. Dithered is what lies around a disc where the level is low, so that nothing can be taken from most pixels:
 * there kept pixels stay. */
enum { ROUNDED, MOVED, OTHER, N_FATES };

/* Where the fractions of a fate's levels are counted; nobody asks for those of the last. */
enum { MOVED_BINS = MOVED * LEVEL_ONE, OTHER_BINS = OTHER * LEVEL_ONE };

/* What a stretch is: all background, all absent, or else. What is around discs is background too where levels make no
 * difference. */
enum { ALL_PLAIN, ALL_ABSENT, MIXED };

/* A mixed stretch, whose sums fit 32 bits: such lie scattered in the image, but here one after the other. Bits of its
 * pixels: what is kept; background around discs; absent, which is all beyond a row's end. */
typedef struct {
    uint32_t level[STRETCH];
    uint16_t values[STRETCH];
    uint32_t at, n; /* its first pixel in the image; how many there are */
    uint32_t kept, near, absent;
} mixed_stretch;

static const uint32_t PIXEL_BITS[STRETCH] = {
    1u << 0,  1u << 1,  1u << 2,  1u << 3,  1u << 4,  1u << 5,  1u << 6,  1u << 7,  1u << 8,  1u << 9,  1u << 10,
    1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15, 1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20, 1u << 21,
    1u << 22, 1u << 23, 1u << 24, 1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 1u << 30, 1u << 31};

/* All bits if pixel i has one in `word`, else none: without branches, so that loops over pixels are vectorised. */
INLINE uint32_t all_if_in(uint32_t word, size_t i) { return ALL_IF(uint32_t, (word & PIXEL_BITS[i]) != 0); }

/* Of a mixed stretch's pixel i: all bits of one of these are set, or of none where it is to be rounded. */
typedef struct {
    uint32_t moved, dithered, stays;
} fate;

INLINE fate fate_of(const mixed_stretch *m, size_t i, uint32_t low) {
    const uint32_t is_low = ALL_IF(uint32_t, m->level[i] < low), kept = all_if_in(m->kept, i);
    return (fate){.moved = kept & ~is_low, .dithered = all_if_in(m->near, i) & is_low, .stays = kept & is_low};
}

/* Histograms of the levels' fractions, by fate, in two halves; whole levels of what is rounded and of what is moved;
 * counts that are kept, and that dithering replaces. */
typedef struct {
    uint32_t n_of[OTHER_BINS + STRETCH], more[OTHER_BINS + STRETCH];
    uint64_t whole[2], kept, dithered;
} level_sums;

/* Levels up to this one fit 16 bits with what rounding adds to them. */
enum { NARROW = UINT16_MAX - LEVEL_ONE };

/* What the passes over an image share. */
typedef struct {
    const background *b;
    cell_grid g;
    uint32_t low;            /* below this level kept pixels stay */
    uint32_t *cells, *level; /* a row's means and levels */
    uint16_t *means_u2, *cells_u2, *level_u2; /* all means, a row's, and its levels, where rows are narrow */
    uint8_t *narrow;         /* of each row of cells: whether all means fit, and neighbours don't differ much */
    uint8_t *kinds;          /* of each row and stretch */
    mixed_stretch *mixed;
    size_t n_mixed;
    level_sums sums;
} leveling;

/* An image's passes in `room`, whose bytes it returns; it may be NULL. */
static size_t leveling_open(leveling **l, const background *b, uint32_t *means, uint8_t *room) {
    const size_t cells = cells_along(b->nx, b->cell_bits), n = b->ny * b->n_stretches;
    size_t used = 0;
    *l = from_room(room, &used, sizeof **l);
    leveling made = {.b = b, .g = {.ny = cells_along(b->ny, b->cell_bits), .nx = cells, .mean = means}};
    made.cells = from_room(room, &used, (cells + 1) * sizeof *made.cells);
    made.level = from_room(room, &used, b->nx * sizeof *made.level);
    made.means_u2 = from_room(room, &used, made.g.ny * cells * sizeof *made.means_u2);
    made.cells_u2 = from_room(room, &used, (cells + 1) * sizeof *made.cells_u2);
    made.level_u2 = from_room(room, &used, (cells + 1) * ((size_t)1 << b->cell_bits) * sizeof *made.level_u2);
    made.narrow = from_room(room, &used, made.g.ny);
    made.kinds = from_room(room, &used, n);
    made.mixed = from_room(room, &used, n * sizeof *made.mixed);
    if (room) **l = made;
    return used;
}

/* Means of a row of cells in 16 bits, and whether these, and their differences from those to the right and below, are so
 * small that levels between them are made in 16 bits. */
INLINE uint8_t narrow_row(const uint32_t *RESTRICT mean, const uint32_t *RESTRICT below, size_t nx, uint32_t most_apart,
                          uint16_t *RESTRICT out) {
    uint32_t wide = 0;
    for (size_t x = 0; x < nx; x++) {
        wide |= ALL_IF(uint32_t, mean[x] > NARROW) | ALL_IF(uint32_t, below[x] - mean[x] + most_apart > 2 * most_apart);
        out[x] = (uint16_t)mean[x];
    }
    for (size_t x = 0; x + 1 < nx; x++) wide |= ALL_IF(uint32_t, mean[x + 1] - mean[x] + most_apart > 2 * most_apart);
    return !wide;
}

static CLONES void narrow_rows(leveling *l) {
    const cell_grid *g = &l->g;
    /* What is added to a mean, (2 c - 1) / 2 c of a difference at most, is a number of 16 bits and a sign times 2 c; one
     * less, for what lies between two rows is rounded. */
    const uint32_t most_apart = (1u << (14 - l->b->cell_bits)) - 2;
    for (size_t y = 0; y < g->ny; y++) {
        const uint32_t *mean = g->mean + y * g->nx;
        l->narrow[y] = narrow_row(mean, y + 1 < g->ny ? mean + g->nx : mean, g->nx, most_apart, l->means_u2 + y * g->nx);
    }
}

/* A row's levels, as level_row makes them, in 16 bits; w / 2 c of the way from a to d. */
INLINE uint16_t between(uint16_t a, uint16_t d, uint32_t w, unsigned bits) {
    const int16_t apart = (int16_t)(d - a), part = (int16_t)((int32_t)w * apart + (1 << (bits - 1)));
    return (uint16_t)(a + (part >> bits));
}

INLINE void level_row_u2(const background *b, const cell_grid *g, const uint16_t *means, size_t y,
                         uint16_t *RESTRICT cells, uint16_t *RESTRICT out, size_t c) {
    const unsigned bits = b->cell_bits + 1;
    const ptrdiff_t at = (ptrdiff_t)(2 * y + 1) - (ptrdiff_t)c;
    const size_t top = at < 0 ? 0 : (size_t)at >> bits, below = top + 1 < g->ny ? top + 1 : top;
    const uint32_t part = at < 0 ? 0 : (uint32_t)at & (2 * (uint32_t)c - 1);
    const uint16_t *RESTRICT upper = means + top * g->nx, *RESTRICT lower = means + below * g->nx;
    for (size_t x = 0; x < g->nx; x++) cells[x] = between(upper[x], lower[x], part, bits);
    cells[g->nx] = cells[g->nx - 1];
    for (size_t x = 0; x < c / 2; x++) out[x] = cells[0];
    out += c / 2;
    for (size_t x = 0; x < g->nx; x++)
        for (size_t k = 0; k < c; k++) out[x * c + k] = between(cells[x], cells[x + 1], (uint32_t)(2 * k + (c > 1)), bits);
}

static CLONES void levels_of_row_u2(const background *b, const cell_grid *g, const uint16_t *means, size_t y,
                                    uint16_t *cells, uint16_t *out) {
    switch (b->cell_bits) {
    case 3: level_row_u2(b, g, means, y, cells, out, 8); break;
    case 2: level_row_u2(b, g, means, y, cells, out, 4); break;
    case 1: level_row_u2(b, g, means, y, cells, out, 2); break;
    default: level_row_u2(b, g, means, y, cells, out, 1);
    }
}

/* Makes row y's levels: in level_u2, which is returned, or in level, and NULL is. */
static const uint16_t *make_levels(leveling *l, size_t y) {
    const size_t c = (size_t)1 << l->b->cell_bits, top = 2 * y + 1 < c ? 0 : (2 * y + 1 - c) / (2 * c);
    if (l->narrow[top] && (top + 1 == l->g.ny || l->narrow[top + 1])) {
        levels_of_row_u2(l->b, &l->g, l->means_u2, y, l->cells_u2, l->level_u2);
        return l->level_u2;
    }
    levels_of_row(l->b, &l->g, y, l->cells, l->level, 0, l->g.nx);
    return NULL;
}

/* What a row's stretches are; mixed ones are listed, as yet without what is in them. Whether all are absent. */
INLINE int kinds_of_row(leveling *l, size_t y, uint8_t *kinds) {
    const background *b = l->b;
    const size_t first = word_of(b, y, 0), beyond = b->n_stretches * STRETCH - b->nx;
    int all_absent = 1;
    for (size_t k = 0; k < b->n_stretches; k++) {
        const uint32_t absent = b->absent[first + k], most = ~UINT32_C(0) >> (k + 1 < b->n_stretches ? 0 : beyond);
        kinds[k] = ALL_PLAIN;
        if (absent == most) {
            kinds[k] = ALL_ABSENT;
            continue;
        }
        all_absent = 0;
        if (!(b->kept[first + k] | absent | b->around[first + k])) continue;
        mixed_stretch *const m = &l->mixed[l->n_mixed++];
        m->at = (uint32_t)(y * b->nx + k * STRETCH);
        m->n = (uint32_t)(STRETCH - (k + 1 < b->n_stretches ? 0 : beyond));
        kinds[k] = MIXED;
        PREFETCH(b->values + m->at);
    }
    return all_absent;
}

INLINE void take_mixed(const mixed_stretch *m, uint32_t low, uint32_t *RESTRICT bins, level_sums *sums) {
    uint32_t whole[2] = {0, 0}, kept = 0, dithered = 0;
    for (size_t i = 0; i < STRETCH; i++) {
        /* What is absent is rounded, but counts nowhere: as if it stayed. */
        const uint32_t level = m->level[i], absent = all_if_in(m->absent, i);
        const fate f = fate_of(m, i, low);
        const uint32_t other = f.dithered | f.stays | absent;
        /* A bin for each of the others, lest they wait for one another. */
        bins[i] = (other & (OTHER_BINS | (uint32_t)i)) | (~other & ((f.moved & MOVED_BINS) | (level & (LEVEL_ONE - 1))));
        whole[ROUNDED] += (level >> LEVEL_BITS) & ~(f.moved | other);
        whole[MOVED] += (level >> LEVEL_BITS) & f.moved;
        kept += m->values[i] & (f.moved | f.stays);
        dithered += m->values[i] & f.dithered;
    }
    sums->whole[ROUNDED] += whole[ROUNDED];
    sums->whole[MOVED] += whole[MOVED];
    sums->kept += kept;
    sums->dithered += dithered;
    for (size_t i = 0; i < STRETCH; i += 2) {
        sums->n_of[bins[i]]++;
        sums->more[bins[i + 1]]++;
    }
}

/* Pixels whose whole counts, up to 16 each, are added in 16 bits. */
enum { ADDED = 2048 };

#define DEFINE_PLAIN_LEVELS(T, NAME, AT_ONCE)                                                                \
    /* Neighbours are alike: two histograms, lest each increment waits for the one before. */                \
    INLINE void take_plain_##NAME(const T *level, size_t n, level_sums *sums) {                              \
        size_t i = 0;                                                                                        \
        for (size_t k = 0; k < n; k += AT_ONCE) {                                                            \
            const size_t end = n - k < AT_ONCE ? n : k + AT_ONCE;                                            \
            T whole = 0;                                                                                     \
            for (size_t j = k; j < end; j++) whole = (T)(whole + (level[j] >> LEVEL_BITS));                  \
            sums->whole[ROUNDED] += whole;                                                                   \
        }                                                                                                    \
        for (; i + 1 < n; i += 2) {                                                                          \
            sums->n_of[level[i] & (LEVEL_ONE - 1)]++;                                                        \
            sums->more[level[i + 1] & (LEVEL_ONE - 1)]++;                                                    \
        }                                                                                                    \
        if (i < n) sums->more[level[i] & (LEVEL_ONE - 1)]++;                                                 \
    }                                                                                                        \
                                                                                                             \
    INLINE uint32_t round_plain_##NAME(const T *RESTRICT level, size_t n, uint32_t limit, uint32_t up,       \
                                       uint16_t *RESTRICT out) {                                             \
        const T most = (T)limit, more = (T)up;                                                               \
        uint32_t sum = 0;                                                                                    \
        for (size_t k = 0; k < n; k += AT_ONCE) {                                                            \
            const size_t end = n - k < AT_ONCE ? n : k + AT_ONCE;                                            \
            T after = 0;                                                                                     \
            for (size_t i = k; i < end; i++) {                                                               \
                T whole = (T)((T)(level[i] + more) >> LEVEL_BITS);                                           \
                whole = whole < most ? whole : most;                                                         \
                out[i] = (uint16_t)whole;                                                                    \
                after = (T)(after + whole);                                                                  \
            }                                                                                                \
            sum += after;                                                                                    \
        }                                                                                                    \
        return sum;                                                                                          \
    }

DEFINE_PLAIN_LEVELS(uint32_t, u4, n)
DEFINE_PLAIN_LEVELS(uint16_t, u2, ADDED)

/* Stretches of a row from k on that are of one kind, and whose counts' sum fits 32 bits: where they end. */
INLINE size_t alike(const uint8_t *kinds, size_t k, size_t n) {
    size_t end = k + 1;
    while (end < n && end - k < 2048 && kinds[end] == kinds[k]) end++;
    return end;
}

/* Where stretch k begins, or the row ends. */
INLINE size_t start_of(const background *b, size_t k) { return k * STRETCH < b->nx ? k * STRETCH : b->nx; }

/* Fills in a listed stretch of n pixels, those of word `word`; `level` or, where that isn't NULL, `narrow` is its levels.
 * Whether it is mixed indeed: where nothing but the surroundings of discs is in it, and nothing low, it is as good as
 * plain. */
INLINE int fill_mixed(mixed_stretch *RESTRICT m, const background *b, size_t word, uint32_t low,
                      const uint32_t *RESTRICT level, const uint16_t *RESTRICT narrow, size_t n) {
    const uint32_t kept = b->kept[word], absent = b->absent[word];
    uint32_t least = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        m->level[i] = narrow ? narrow[i] : level[i];
        least = least < m->level[i] ? least : m->level[i];
    }
    if (!(kept | absent) && least >= low) return 0;
    m->kept = kept & ~absent;
    m->near = b->around[word] & ~kept & ~absent;
    m->absent = n == STRETCH ? absent : absent | ~UINT32_C(0) << n;
    memcpy(m->values, b->values + m->at, n * sizeof *m->values);
    return 1;
}

/* Takes row y's mixed stretches, listed from `first` on, into the sums, and off the list what isn't mixed. */
INLINE void take_mixed_row(leveling *l, size_t y, size_t first, uint8_t *kinds, const uint16_t *narrow) {
    const background *b = l->b;
    uint32_t bins[STRETCH];
    size_t n_mixed = first;
    for (size_t k = first; k < l->n_mixed; k++) {
        mixed_stretch *const m = &l->mixed[n_mixed];
        const size_t x = l->mixed[k].at - y * b->nx, n = l->mixed[k].n, word = word_of(b, y, x);
        m->at = l->mixed[k].at;
        m->n = (uint32_t)n;
        const uint16_t *const levels = narrow ? narrow + x : NULL;
        /* A constant length lets the compiler vectorise. */
        const int is_mixed = n == STRETCH ? fill_mixed(m, b, word, l->low, l->level + x, levels, STRETCH)
                                          : fill_mixed(m, b, word, l->low, l->level + x, levels, n);
        kinds[x / STRETCH] = is_mixed ? MIXED : ALL_PLAIN;
        if (!is_mixed) continue;
        take_mixed(m, l->low, bins, &l->sums);
        n_mixed++;
    }
    l->n_mixed = n_mixed;
}

/* Takes all levels into the sums, lists what is mixed, and sets `kinds`. */
static CLONES void take_levels(leveling *l) {
    const background *b = l->b;
    uint8_t *kinds = l->kinds;
    for (size_t y = 0; y < b->ny; y++, kinds += b->n_stretches) {
        const size_t first = l->n_mixed;
        if (kinds_of_row(l, y, kinds)) continue;
        const uint16_t *narrow = make_levels(l, y);
        take_mixed_row(l, y, first, kinds, narrow);
        for (size_t k = 0, end; k < b->n_stretches; k = end) {
            const size_t x = k * STRETCH;
            end = alike(kinds, k, b->n_stretches);
            if (kinds[k] == ALL_PLAIN && narrow)
                take_plain_u2(narrow + x, start_of(b, end) - x, &l->sums);
            else if (kinds[k] == ALL_PLAIN)
                take_plain_u4(l->level + x, start_of(b, end) - x, &l->sums);
        }
    }
    for (size_t k = 0; k < OTHER_BINS; k++) l->sums.n_of[k] += l->sums.more[k];
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

/* A kept pixel on its rounded level is changed by one of two neighbouring integers, by an ordered dither; a saturated
 * one stays. `thresholds`: what is added to levels' fractions before they are cut. Returns the counts of all that isn't
 * to be rounded. */
INLINE uint32_t move_stretch(mixed_stretch *RESTRICT m, const int32_t *RESTRICT thresholds, int32_t limit, uint32_t low,
                             uint32_t up) {
    uint32_t after = 0;
    for (size_t i = 0; i < STRETCH; i++) {
        const fate f = fate_of(m, i, low);
        const int32_t value = m->values[i], at = (int32_t)m->level[i], is_moved = (int32_t)f.moved;
        int32_t whole = (int32_t)((m->level[i] + up) >> LEVEL_BITS);
        whole = whole < limit ? whole : limit;
        int32_t now = value + ((whole * LEVEL_ONE - at + thresholds[i]) >> LEVEL_BITS);
        now = now < 0 ? 0 : now;
        now = now > limit ? limit : now;
        now = value >= limit ? value : now;
        const int32_t spread = (at + thresholds[i]) >> LEVEL_BITS, is_spread = (int32_t)f.dithered;
        const uint32_t new_value = (uint32_t)((now & is_moved) | (spread & is_spread) | (value & ~(is_moved | is_spread)));
        m->values[i] = (uint16_t)new_value;
        after += new_value & (f.moved | f.dithered | f.stays);
    }
    return after;
}

/* How many bits are set. */
INLINE uint32_t number_of(uint32_t bits) {
    bits -= bits >> 1 & UINT32_C(0x55555555);
    bits = (bits & UINT32_C(0x33333333)) + (bits >> 2 & UINT32_C(0x33333333));
    return ((bits + (bits >> 4)) & UINT32_C(0x0f0f0f0f)) * UINT32_C(0x01010101) >> 24;
}

/* What is moved or dithered gets its new value, in the list of what is mixed; what is kept is counted, and noted if
 * `noting`. */
static CLONES void move_kept(leveling *l, uint32_t up, int noting, background_sums *sums) {
    const background *b = l->b;
    int32_t thresholds[4][STRETCH];
    for (size_t y = 0; y < 4; y++)
        for (size_t x = 0; x < STRETCH; x++) thresholds[y][x] = DITHER[y][x & 3] * (LEVEL_ONE / 16) + LEVEL_ONE / 32;
    for (mixed_stretch *m = l->mixed, *end = m + l->n_mixed; m < end; m++) {
        if (!(m->kept | m->near)) continue;
        sums->sum_after += move_stretch(m, thresholds[m->at / b->nx & 3], (int32_t)b->limit, l->low, up);
        if (!noting) {
            sums->n_kept += number_of(m->kept);
            continue;
        }
        for (uint32_t i = 0; m->kept && i < m->n; i++) {
            b->centres[sums->n_kept] = m->at + i;
            sums->n_kept += m->kept >> i & 1;
        }
    }
}

/* Background gets its rounded level, what is absent `mark`, or its level, too, where that is negative. Returns the
 * counts of the background. */
INLINE uint32_t round_mixed(const mixed_stretch *m, uint32_t limit, uint32_t low, uint32_t up, int32_t mark,
                            uint16_t *RESTRICT out) {
    const uint32_t marks = mark < 0 ? 0 : ~0u;
    uint32_t after = 0;
    uint16_t all[STRETCH];
    for (size_t i = 0; i < STRETCH; i++) {
        const fate f = fate_of(m, i, low);
        const uint32_t rounded = ~(f.moved | f.dithered | f.stays);
        const uint32_t absent = all_if_in(m->absent, i), marked = absent & marks;
        uint32_t whole = (m->level[i] + up) >> LEVEL_BITS;
        whole = whole < limit ? whole : limit;
        after += whole & rounded & ~absent;
        all[i] = (uint16_t)(((uint32_t)mark & marked) | (((whole & rounded) | (m->values[i] & ~rounded)) & ~marked));
    }
    if (m->n == STRETCH)
        memcpy(out, all, sizeof all);
    else
        memcpy(out, all, m->n * sizeof *out);
    return after;
}

/* A row as it will be, in `out`; returns the counts of its background. `m`: its first mixed stretch, if any. */
static CLONES uint64_t round_row(leveling *l, size_t y, const mixed_stretch *m, uint32_t up, int32_t mark, uint16_t *out) {
    const background *b = l->b;
    const size_t n_stretches = b->n_stretches;
    const uint8_t *kinds = l->kinds + y * n_stretches;
    uint64_t after = 0;
    size_t n_marked = 0;
    while (mark >= 0 && n_marked < n_stretches && kinds[n_marked] == ALL_ABSENT) n_marked++;
    const uint16_t *narrow = n_marked < n_stretches ? make_levels(l, y) : NULL;
    for (size_t k = 0, end; k < n_stretches; k = end) {
        const size_t x = k * STRETCH;
        end = kinds[k] == MIXED ? k + 1 : alike(kinds, k, n_stretches);
        if (kinds[k] == MIXED) {
            after += round_mixed(m++, b->limit, l->low, up, mark, out + x);
        } else if (kinds[k] == ALL_PLAIN || mark < 0) {
            const size_t n = start_of(b, end) - x;
            const uint32_t counts = narrow ? round_plain_u2(narrow + x, n, b->limit, up, out + x)
                                           : round_plain_u4(l->level + x, n, b->limit, up, out + x);
            after += kinds[k] == ALL_PLAIN ? counts : 0;
        } else {
            for (size_t i = x; i < start_of(b, end); i++) out[i] = (uint16_t)mark;
        }
    }
    return after;
}

/* What becomes of an image is found in `room`, which holds it from its beginning to its end: its bits, what
 * background_find needs, and these passes. Returns the bytes of it; it may be NULL. */
static size_t background_open_room(background *b, pyramid *p, uint8_t **passes, uint32_t *means, uint8_t *room) {
    leveling *l;
    size_t used = states_open(b, room);
    used += pyramid_open(p, b, means, room ? room + used : NULL);
    *passes = room ? room + used : NULL;
    return used + leveling_open(&l, b, means, NULL);
}

/* All that isn't kept, invalid pixels among it, gets its level, rounded; kept pixels stand on it then. The sum of all
 * counts stays. `rest`: as background_find returns it. With a chunk the image goes there, and what is absent gets `mark`;
 * else it goes where it was, and what is kept is listed in place of the centres. `passes`: its room. */
static void background_apply(const background *b, uint32_t *means, uint64_t rest, uint32_t low, image_chunk *chunk,
                             uint16_t mark, uint8_t *passes, background_sums *sums) {
    leveling *l;
    leveling_open(&l, b, means, passes);
    l->low = low;
    memset(sums, 0, sizeof *sums);
    narrow_rows(l);
    take_levels(l);
    const uint64_t moved = (levels_of(&l->sums, MOVED) + LEVEL_ONE / 2) >> LEVEL_BITS;
    const uint32_t up = rounding(&l->sums, 1, rest - l->sums.dithered + moved);
    sums->sum_before = rest + l->sums.kept;
    move_kept(l, up, chunk == NULL, sums);
    const uint64_t left = sums->sum_before > sums->sum_after ? sums->sum_before - sums->sum_after : 0;
    const uint32_t up_rest = rounding(&l->sums, 0, left);
    const mixed_stretch *m = l->mixed, *end = m + l->n_mixed;
    for (size_t y = 0; y < b->ny; y++) {
        while (m < end && m->at < y * b->nx) m++;
        uint16_t *out = chunk ? image_room(chunk) : b->values + y * b->nx;
        sums->sum_after += round_row(l, y, m, up_rest, chunk ? mark : -1, out);
        if (chunk) image_row_done(chunk);
    }
    if (chunk) image_flush(chunk, chunk->have);
}

#endif
