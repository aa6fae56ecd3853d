/* From the rows of an image, as they come, to its chunk: nowhere is the image whole.
 *
 * Rows are gathered until they make some blocks, which are encoded and taken into the checksum while they lie in the
 * cache. Under HCompress a tile of rows goes through it first.
 */
#ifndef BNL_IMAGECHUNK_H
#define BNL_IMAGECHUNK_H

#include <time.h>

#include "chunks.h"
#include "crc32.h"
#include "hcompress.h"
#include "reduce.h"

#define BLOCKS_AT_ONCE 4

typedef struct {
    chunk_writer writer;
    uint8_t *stage;       /* room for BLOCKS_AT_ONCE blocks and a row */
    size_t ny, nx, have;  /* `have` elements of the stage are waiting */
    uint32_t crc;         /* of the image's elements so far */
    int codes;            /* whether values go through HCompress */
    hc_memory memory;
    size_t tile_rows;
    void *values;         /* (tile_rows, nx) values of the tile in hand, uint16 or int32; without HCompress unused */
    int value_size;
    int narrow_out;       /* elements are of 2 bytes, else of 4 */
    uint64_t limit, mark; /* of the elements */
    double coding, encoding; /* seconds */
} image_chunk;

/* Elements that the stage has room for. */
static size_t stage_size(size_t nx, size_t size) { return BLOCKS_AT_ONCE * (BLOCK_BYTES / size) + nx; }

static double seconds_now(void) {
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Where the next row's elements are to be written. */
static void *image_room(const image_chunk *c) { return c->stage + c->have * c->writer.size; }

static void image_flush(image_chunk *c, size_t n) {
    const double begin = seconds_now();
    const size_t size = c->writer.size;
    c->crc = crc32_more(c->crc, c->stage, n * size);
    chunk_put(&c->writer, c->stage, n);
    c->have -= n;
    memmove(c->stage, c->stage + n * size, c->have * size);
    c->encoding += seconds_now() - begin;
}

/* The room of a row is filled. */
static void image_row_done(image_chunk *c) {
    c->have += c->nx;
    if (c->have >= BLOCKS_AT_ONCE * c->writer.block) image_flush(c, c->have - c->have % c->writer.block);
}

/* What HCompress makes of the tile in hand, signed values of *size bytes; NULL if memory ran out. */
static const uint8_t *image_tile(image_chunk *c, size_t n_rows, int *size) {
    if (c->value_size == 2) return hc_tile_u2(&c->memory, c->values, n_rows, size);
    *size = 4;
    return hc_tile(&c->memory, c->values, n_rows) ? c->values : NULL;
}

/* Values of output row `row` are there: where it ends a tile, this is coded. Returns 0 if memory ran out. */
static int image_values_done(image_chunk *c, const reduction *r, const uint8_t *blank, size_t row) {
    const size_t n_rows = row % c->tile_rows + 1, first = row + 1 - n_rows;
    if (n_rows < c->tile_rows && row + 1 < c->ny) return 1;
    const double begin = seconds_now(), before = c->encoding;
    int size;
    const uint8_t *values = image_tile(c, n_rows, &size);
    if (!values) return 0;
    const uint64_t most = size == 2 ? INT16_MAX : INT32_MAX, limit = c->limit < most ? c->limit : most;
    for (size_t k = 0; k < n_rows; k++) {
        mark_image(size, 1, c->narrow_out, values + k * c->nx * (size_t)size, row_flags(r, first + k),
                   blank ? blank + (first + k) * c->nx : NULL, c->nx, limit, c->mark, image_room(c));
        image_row_done(c);
    }
    c->coding += seconds_now() - begin - (c->encoding - before);
    return 1;
}

#endif
