/* A tile's round trip for the integer type T, after the functions for a level of hcompress_level.h. */

/* Forward and back, in place, from level `first` on, whose pixels are given. `work` holds, level after level, the bands
 * dx, dy, dc and the sums; the way back writes a level's pixels where they stood, in the sums of the level before. */
INLINE void HC(hc_levels_by)(T *tile, size_t ny, size_t nx, int first, hc_step q, T *work, int divides) {
    size_t sides[HC_LEVELS + 1][2];
    T *bands[HC_LEVELS + 1], *pixels[HC_LEVELS + 1];
    const int levels = first + hc_levels(ny, nx);
    pixels[first] = tile;
    sides[first][0] = ny;
    sides[first][1] = nx;
    for (int k = first; k < levels; k++) {
        const size_t rows = (sides[k][0] + 1) / 2, columns = (sides[k][1] + 1) / 2, n = rows * columns;
        bands[k] = work;
        pixels[k + 1] = work + 3 * n;
        work += 4 * n;
        sides[k + 1][0] = rows;
        sides[k + 1][1] = columns;
        if (k == 0)
            HC(hc_forward)(pixels[0], ny, nx, pixels[1], bands[0], bands[0] + n, bands[0] + 2 * n, 0, q, divides);
        else
            HC(hc_forward)(pixels[k], sides[k][0], sides[k][1], pixels[k + 1], bands[k], bands[k] + n,
                           bands[k] + 2 * n, k, q, divides);
    }
    T *all = pixels[levels];
    *all = HC(hc_snap)(HC(hc_quantise)(*all, q, divides), (T)2 << levels);
    for (int k = levels - 1; k >= first; k--) {
        const size_t n = sides[k + 1][0] * sides[k + 1][1];
        if (k == 0)
            HC(hc_inverse)(tile, ny, nx, pixels[1], bands[0], bands[0] + n, bands[0] + 2 * n, 0);
        else
            HC(hc_inverse)(pixels[k], sides[k][0], sides[k][1], pixels[k + 1], bands[k], bands[k] + n,
                           bands[k] + 2 * n, k);
    }
}

static CLONES void HC(hc_tile)(T *tile, size_t ny, size_t nx, hc_step q, T *work) {
    if (q.divides)
        HC(hc_levels_by)(tile, ny, nx, 0, q, work, 1);
    else
        HC(hc_levels_by)(tile, ny, nx, 0, q, work, 0);
}
