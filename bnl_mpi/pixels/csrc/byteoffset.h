/* CBF's byte-offset compression, from the description in CBFlib's manual.
 *
 * Each pixel is stored as its difference to the one before, in one byte; the byte -128 says that two bytes follow,
 * -32768 in these that four follow, and -2^31 in those that eight follow, all little-endian.
 */
#ifndef BNL_BYTEOFFSET_H
#define BNL_BYTEOFFSET_H

#include "common.h"

/* Bytes that a pixel takes at most. */
#define BYTE_OFFSET_MOST 15

/* Reads one difference; returns how many bytes it took, 0 if the input ends in it. */
INLINE size_t byte_offset_step(const uint8_t *in, size_t n, uint32_t *value) {
    int8_t one;
    int16_t two;
    int32_t four;
    if (UNLIKELY(n < 1)) return 0;
    memcpy(&one, in, 1);
    if (LIKELY(one != INT8_MIN)) return *value += (uint32_t)(int32_t)one, 1;
    if (UNLIKELY(n < 3)) return 0;
    memcpy(&two, in + 1, 2);
    if (LIKELY(two != INT16_MIN)) return *value += (uint32_t)(int32_t)two, 3;
    if (UNLIKELY(n < 7)) return 0;
    memcpy(&four, in + 3, 4);
    if (LIKELY(four != INT32_MIN)) return *value += (uint32_t)four, 7;
    if (UNLIKELY(n < 15)) return 0;
    uint32_t low;
    memcpy(&low, in + 7, 4);
    return *value += low, 15;
}

/* Decodes until `n_out` pixels are there or the input ends; tells the pixels made and the bytes taken. */
static void byte_offset_decode(const uint8_t *in, size_t n_in, uint32_t *out, size_t n_out, size_t *made,
                               size_t *taken) {
    size_t at = 0, i = 0;
    uint32_t value = 0;
    while (i < n_out) {
        /* Eight single bytes at once, as long as none of them is -128: nearly all of a weak image. */
        while (n_out - i >= 8 && n_in - at >= 8) {
            uint64_t word;
            memcpy(&word, in + at, 8);
            word ^= 0x8080808080808080u;
            if ((word - 0x0101010101010101u) & ~word & 0x8080808080808080u) break;
            for (int k = 0; k < 8; k++) {
                value += (uint32_t)(int32_t)(int8_t)in[at + k];
                out[i + k] = value;
            }
            i += 8;
            at += 8;
        }
        if (i == n_out) break;
        const size_t step = byte_offset_step(in + at, n_in - at, &value);
        if (step == 0) break;
        at += step;
        out[i++] = value;
    }
    *made = i;
    *taken = at;
}

/* Encodes `n` pixels; `out` has room for BYTE_OFFSET_MOST bytes each.  Returns the bytes made. */
static size_t byte_offset_encode(const int32_t *in, size_t n, uint8_t *out) {
    uint8_t *to = out;
    int32_t before = 0;
    for (size_t i = 0; i < n; i++) {
        const int64_t step = (int64_t)in[i] - before;
        before = in[i];
        if (LIKELY(step >= -127 && step <= 127)) {
            *to++ = (uint8_t)step;
            continue;
        }
        *to++ = 0x80;
        const int16_t two = step >= -32767 && step <= 32767 ? (int16_t)step : INT16_MIN;
        memcpy(to, &two, 2);
        to += 2;
        if (two != INT16_MIN) continue;
        const int32_t four = step >= -2147483647 && step <= 2147483647 ? (int32_t)step : INT32_MIN;
        memcpy(to, &four, 4);
        to += 4;
        if (four != INT32_MIN) continue;
        memcpy(to, &step, 8);
        to += 8;
    }
    return (size_t)(to - out);
}

#endif
