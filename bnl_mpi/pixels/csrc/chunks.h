/* Chunks of HDF5 filters 32008 (bitshuffle + LZ4) and 32004 (LZ4).
 *
 * Both begin with the uncompressed size (8 bytes) and the uncompressed size of a block (4 bytes), then for
 * each block its stored size (4 bytes) and its data; all numbers are big-endian. In 32008 the last block is
 * cut to a multiple of 8 elements and the elements left over follow as they are. In 32004 a block whose
 * stored size is its own size is not compressed. Bytes after the last block are ignored, as the filters do.
 */
#ifndef BNL_CHUNKS_H
#define BNL_CHUNKS_H

#include "bitshuffle.h"
#include "lz4.h"

#define HEADER 12

/* What bitshuffle calls its default: blocks of 8 KiB. */
#define BLOCK_BYTES 8192

/* Memory for one block; chunks that are decoded in turn share it, so that it stays in the cache. */
typedef struct {
    uint8_t *rows, *planes;
    size_t n_bytes;
} block_memory;

static void block_memory_drop(block_memory *m) {
    free(m->rows);
    free(m->planes);
}

static int block_memory_hold(block_memory *m, size_t n_bytes) {
    if (m->rows && m->n_bytes >= n_bytes) return 1;
    block_memory_drop(m);
    m->n_bytes = n_bytes;
    m->rows = lines_hold(n_bytes + LZ4_SLACK);
    m->planes = lines_hold(n_bytes + LZ4_SLACK);
    return m->rows && m->planes;
}

typedef struct {
    const uint8_t *next, *end;
    size_t size;            /* of an element */
    size_t block;           /* elements a block */
    size_t left;            /* elements not yet decoded */
    size_t n_done;          /* blocks decoded, for messages */
    block_memory *memory;
    const char *fault;
} chunk_reader;

static int chunk_open(chunk_reader *c, block_memory *memory, const uint8_t *chunk, size_t n, size_t n_elements,
                      size_t size) {
    memset(c, 0, sizeof *c);
    c->memory = memory;
    c->size = size;
    c->left = n_elements;
    if (n < HEADER) {
        c->fault = "is shorter than its 12-byte header";
        return 0;
    }
    if (load_be64(chunk) != (uint64_t)n_elements * size) {
        c->fault = "holds another number of bytes than the frame";
        return 0;
    }
    size_t block = load_be32(chunk + 8) / size;
    if (load_be32(chunk + 8) == 0) block = BLOCK_BYTES / size;
    if (block == 0 || block % 8 || load_be32(chunk + 8) % size) {
        c->fault = "has a block size that isn't a multiple of 8 elements";
        return 0;
    }
    c->next = chunk + HEADER;
    c->end = chunk + n;
    c->block = block;
    if (block > n_elements) block = n_elements; /* a corrupt header can't ask for more memory than the frame */
    if (!block_memory_hold(memory, block * size)) c->fault = "can't be decoded: out of memory";
    return !c->fault;
}

/* Decodes the next block to `out`; returns its number of elements, 0 at the end or on a fault. */
static size_t chunk_next(chunk_reader *c, uint8_t *out) {
    if (c->left == 0) return 0;
    size_t n = c->left < c->block ? c->left & ~(size_t)7 : c->block;
    if (n == 0) {
        n = c->left;
        if ((size_t)(c->end - c->next) < n * c->size) {
            c->fault = "is cut short in its last elements";
            return 0;
        }
        memcpy(out, c->next, n * c->size);
        c->next += n * c->size;
        c->left = 0;
        return n;
    }
    if (c->end - c->next < 4) {
        c->fault = "is cut short before a block";
        return 0;
    }
    const size_t stored = load_be32(c->next);
    c->next += 4;
    if (stored > (size_t)(c->end - c->next)) {
        c->fault = "is cut short within a block";
        return 0;
    }
    if (lz4_decode_block(c->next, stored, c->memory->rows, n * c->size, LZ4_SLACK) != (ptrdiff_t)(n * c->size)) {
        c->fault = "has a corrupt block";
        return 0;
    }
    c->next += stored;
    c->left -= n;
    c->n_done++;
    bit_unshuffle(c->memory->rows, n, c->size, c->memory->planes, out);
    return n;
}

/* Filter 32008 into `out` of n_bytes, elements of `size`; returns the fault, in block `*block`, or NULL. */
static const char *bslz4_chunk_decode(const uint8_t *chunk, size_t n, uint8_t *out, size_t n_bytes, size_t size,
                                      size_t *block) {
    block_memory memory = {0};
    chunk_reader c;
    if (chunk_open(&c, &memory, chunk, n, n_bytes / size, size))
        for (size_t made; (made = chunk_next(&c, out)) > 0;) out += made * size;
    block_memory_drop(&memory);
    *block = c.n_done;
    return c.fault;
}

/* The same of filter 32004, to which elements are nothing. */
static const char *lz4_chunk_decode(const uint8_t *chunk, size_t n, uint8_t *out, size_t n_bytes, size_t size,
                                    size_t *block) {
    const uint8_t *next = chunk + HEADER, *const end = chunk + n;
    (void)size;
    *block = 0;
    if (n < HEADER) return "is shorter than its 12-byte header";
    if (load_be64(chunk) != n_bytes) return "holds another number of bytes than the frame";
    const size_t step = load_be32(chunk + 8);
    if (step == 0 && n_bytes) return "has blocks of 0 bytes";
    for (size_t done = 0; done < n_bytes; ++*block) {
        const size_t size = n_bytes - done < step ? n_bytes - done : step;
        if (end - next < 4) return "is cut short before a block";
        const size_t stored = load_be32(next);
        next += 4;
        if (stored > (size_t)(end - next)) return "is cut short within a block";
        if (stored == size)
            memcpy(out + done, next, size);
        else if (lz4_decode_block(next, stored, out + done, size, 0) != (ptrdiff_t)size)
            return "has a corrupt block";
        next += stored;
        done += size;
    }
    return NULL;
}

static size_t bslz4_bound(size_t n_elements, size_t size) {
    const size_t block = BLOCK_BYTES / size / 8 * 8 * size, n_bytes = n_elements * size;
    return HEADER + (n_bytes / block + 1) * (4 + lz4_bound(block)) + 8 * size + 2 * LZ4_SLACK;
}

/* A chunk of filter 32008 in the making. */
typedef struct {
    uint8_t *start, *to;
    size_t size, block; /* bytes of an element, elements of a block */
    uint8_t *rows, *planes;
    uint16_t *table;
} chunk_writer;

static void chunk_writer_drop(chunk_writer *w) {
    free(w->rows);
    free(w->planes);
    free(w->table);
}

/* Begins a chunk of n elements in `out` of bslz4_bound bytes; returns 0 if memory ran out. */
static int chunk_writer_open(chunk_writer *w, size_t n_elements, size_t size, uint8_t *out) {
    *w = (chunk_writer){.start = out, .to = out + HEADER, .size = size, .block = BLOCK_BYTES / size / 8 * 8,
                        .rows = lines_hold(BLOCK_BYTES + LZ4_SLACK), .planes = lines_hold(BLOCK_BYTES + LZ4_SLACK),
                        .table = malloc(sizeof(uint16_t) << LZ4_HASH_BITS)};
    store_be32(out, (uint32_t)((uint64_t)n_elements * size >> 32));
    store_be32(out + 4, (uint32_t)(n_elements * size));
    store_be32(out + 8, (uint32_t)(w->block * size));
    return w->rows && w->planes && w->table;
}

/* The next n elements: whole blocks, but for the chunk's last ones. */
static void chunk_put(chunk_writer *w, const uint8_t *in, size_t n_elements) {
    const size_t size = w->size;
    while (n_elements >= 8) {
        const size_t n = n_elements < w->block ? n_elements & ~(size_t)7 : w->block;
        bit_shuffle(in, n, size, w->planes, w->rows);
        const size_t stored = lz4_encode_block(w->rows, n * size, w->to + 4, w->table);
        store_be32(w->to, (uint32_t)stored);
        w->to += 4 + stored;
        in += n * size;
        n_elements -= n;
    }
    memcpy(w->to, in, n_elements * size);
    w->to += n_elements * size;
}

/* Filter 32008 into `out` of bslz4_bound bytes; returns the bytes made, 0 if memory ran out. */
static size_t bslz4_chunk_encode(const uint8_t *in, size_t n_elements, size_t size, uint8_t *out) {
    chunk_writer w;
    const int ok = chunk_writer_open(&w, n_elements, size, out);
    if (ok) chunk_put(&w, in, n_elements);
    chunk_writer_drop(&w);
    return ok ? (size_t)(w.to - out) : 0;
}

#endif
