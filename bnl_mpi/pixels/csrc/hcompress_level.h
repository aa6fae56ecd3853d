/* One level of the H-transform, for the integer type T; see hcompress.h. Casts let vectors stay as narrow as T. */

#define SIGN(x) ((T)((T)(x) >> (sizeof(T) * 8 - 1)))

/* A multiple of the step. Where this is a power of two, halves of negative numbers need one more to be rounded up. */
INLINE T HC(hc_quantise)(T x, hc_step q, int divides) {
    return divides ? HC(hc_divide)(x, q) : (T)((x + (T)q.half + (SIGN(x) & (q.scale > 1))) & -(T)q.scale);
}

#define QUANTISE(x) HC(hc_quantise)(x, q, divides)

/* The sum loses two bits, a difference along one axis one: the others' low bits tell them again. Ties go
 * away from zero. At level k both are k bits higher. */
INLINE T HC(hc_round_sum)(T h, T bit) { return (T)((h + 2 * bit + SIGN(h)) & (-4 * bit)); }
INLINE T HC(hc_round_diff)(T h, T bit) { return (T)((h + (bit & ~SIGN(h))) & (-2 * bit)); }

INLINE void HC(hc_forward)(const T *RESTRICT in, size_t ny, size_t nx, T *RESTRICT sum, T *RESTRICT dx,
                           T *RESTRICT dy, T *RESTRICT dc, int k, hc_step q, int divides) {
    const size_t wide = (nx + 1) / 2, full = nx / 2;
    const T bit = (T)1 << k;
    const int shift = k > 0; /* every level but the first halves its sums */
    const int up = 1 - shift;
    for (size_t i = 0; i < ny / 2; i++, sum += wide, dx += wide, dy += full, dc += full) {
        const T *above = in + 2 * i * nx, *below = above + nx;
        for (size_t j = 0; j < full; j++) {
            const T sum0 = (T)(above[2 * j] + above[2 * j + 1]), sum1 = (T)(below[2 * j] + below[2 * j + 1]);
            const T dif0 = (T)(above[2 * j + 1] - above[2 * j]), dif1 = (T)(below[2 * j + 1] - below[2 * j]);
            sum[j] = HC(hc_round_sum)((T)(sum1 + sum0) >> shift, bit);
            dx[j] = QUANTISE(HC(hc_round_diff)((T)(sum1 - sum0) >> shift, bit));
            dy[j] = QUANTISE(HC(hc_round_diff)((T)(dif1 + dif0) >> shift, bit));
            dc[j] = QUANTISE((T)(dif1 - dif0) >> shift);
        }
        if (nx & 1) {
            sum[full] = HC(hc_round_sum)((below[nx - 1] + above[nx - 1]) * (1 << up), bit);
            dx[full] = QUANTISE(HC(hc_round_diff)((below[nx - 1] - above[nx - 1]) * (1 << up), bit));
        }
    }
    if (ny & 1) {
        const T *last = in + (ny - 1) * nx;
        for (size_t j = 0; j < full; j++) {
            sum[j] = HC(hc_round_sum)((last[2 * j + 1] + last[2 * j]) * (1 << up), bit);
            dy[j] = QUANTISE(HC(hc_round_diff)((last[2 * j + 1] - last[2 * j]) * (1 << up), bit));
        }
        if (nx & 1) sum[full] = HC(hc_round_sum)(last[nx - 1] * (2 << up), bit);
    }
}

/* What quantising left of a difference is brought back to the multiples that the forward rounding made. */
INLINE T HC(hc_snap)(T h, T bit) { return (T)((h + (bit >> 1) + (bit > 1 ? SIGN(h) : 0)) & -bit); }

INLINE T HC(hc_towards_zero)(T h, T by) { return (T)(h - ((by ^ SIGN(h)) - SIGN(h))); }

INLINE void HC(hc_inverse)(T *RESTRICT out, size_t ny, size_t nx, const T *RESTRICT sum, const T *RESTRICT dx,
                           const T *RESTRICT dy, const T *RESTRICT dc, int k) {
    const size_t wide = (nx + 1) / 2, full = nx / 2;
    const T bit0 = (T)1 << k, bit1 = (T)2 << k;
    const int shift = k > 0 ? 1 : 2;
    for (size_t i = 0; i < ny / 2; i++, sum += wide, dx += wide, dy += full, dc += full) {
        T *above = out + 2 * i * nx, *below = above + nx;
        for (size_t j = 0; j < full; j++) {
            const T hc = HC(hc_snap)(dc[j], bit0);
            const T low0 = (T)(hc & bit0);
            const T hx = HC(hc_towards_zero)(HC(hc_snap)(dx[j], bit1), low0);
            const T hy = HC(hc_towards_zero)(HC(hc_snap)(dy[j], bit1), low0);
            const T low1 = (T)((hc ^ hx ^ hy) & bit1);
            /* a negative sum takes the second bit the other way, unless the first is set */
            const T turn = low0 ? 0 : SIGN(sum[j]);
            const T h0 = (T)(sum[j] + low0 - ((low1 ^ turn) - turn));
            const T a = (T)(h0 + hx), b = (T)(h0 - hx), c = (T)(hy + hc), d = (T)(hy - hc);
            below[2 * j + 1] = (T)(a + c) >> shift;
            below[2 * j] = (T)(a - c) >> shift;
            above[2 * j + 1] = (T)(b + d) >> shift;
            above[2 * j] = (T)(b - d) >> shift;
        }
        if (nx & 1) {
            const T hx = HC(hc_snap)(dx[full], bit1);
            const T h0 = HC(hc_towards_zero)(sum[full], hx & bit1);
            below[nx - 1] = (h0 + hx) >> shift;
            above[nx - 1] = (h0 - hx) >> shift;
        }
    }
    if (ny & 1) {
        T *last = out + (ny - 1) * nx;
        for (size_t j = 0; j < full; j++) {
            const T hy = HC(hc_snap)(dy[j], bit1);
            const T h0 = HC(hc_towards_zero)(sum[j], hy & bit1);
            last[2 * j + 1] = (h0 + hy) >> shift;
            last[2 * j] = (h0 - hy) >> shift;
        }
        if (nx & 1) last[nx - 1] = sum[full] >> shift;
    }
}

#undef SIGN
#undef QUANTISE
