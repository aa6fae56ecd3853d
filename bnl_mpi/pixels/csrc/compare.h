/* How far decoded pixels are from those that were coded. */
#ifndef BNL_COMPARE_H
#define BNL_COMPARE_H

#include "common.h"

/* Largest absolute difference of n 16-bit pixels, and the sum of the squares. */
static CLONES void compare_u2(const uint16_t *a, const uint16_t *b, size_t n, uint32_t *greatest, uint64_t *squares) {
    uint32_t most = 0;
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t d = a[i] > b[i] ? (uint32_t)a[i] - b[i] : (uint32_t)b[i] - a[i];
        most = d > most ? d : most;
        sum += d * d; /* 65535^2 fits 32 bits */
    }
    *greatest = most;
    *squares = sum;
}

#endif
