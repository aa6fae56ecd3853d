/* The compiled kernels behind bnl_mpi.pixels.kernels: this file unpacks and checks Python arguments.
 *
 * Arrays come through the buffer protocol, C-contiguous and in native byte order; every size that the
 * loops rely on is checked here, so that no call from Python can make them leave their buffers.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "csrc/background.h"
#include "csrc/byteoffset.h"
#include "csrc/chunks.h"
#include "csrc/compare.h"
#include "csrc/crc32.h"
#include "csrc/gaps.h"
#include "csrc/hcompress.h"
#include "csrc/imagechunk.h"
#include "csrc/leveling.h"
#include "csrc/reduce.h"
#include "csrc/spots.h"

typedef struct {
    Py_buffer view;
    int held;
} array;

static void array_drop(array *a) {
    if (a->held) PyBuffer_Release(&a->view);
    a->held = 0;
}

/* 'u', 'i' or 'f' for a native numeric format, else 0. */
static char kind_of(const char *format) {
    if (!format) return 'u';
    if (*format == '@' || *format == '=') format++;
    if (*format == 0 || format[1] != 0) return 0;
    if (strchr("BHILQN?", *format)) return 'u';
    if (strchr("bhilqn", *format)) return 'i';
    return strchr("efd", *format) ? 'f' : 0;
}

/* For PyArg_ParseTuple's O&: a whole number from 0 to 2^64-1; "K" would wrap what doesn't fit. */
static int whole_number(PyObject *object, void *to) {
    const unsigned long long value = PyLong_AsUnsignedLongLong(object);
    if (value == (unsigned long long)-1 && PyErr_Occurred()) return 0;
    *(unsigned long long *)to = value;
    return 1;
}

/* A side of 0 or beyond 31 bits is nobody's picture. */
static int sides_fit(Py_ssize_t ny, Py_ssize_t nx, const char *name) {
    if (ny >= 1 && nx >= 1 && ny <= INT32_MAX && nx <= INT32_MAX) return 1;
    PyErr_Format(PyExc_ValueError, "%s has shape (%zd, %zd): sides are 1 to 2147483647", name, ny, nx);
    return 0;
}

/* Holds `object`'s buffer if it is an array of `ndim` axes (any if 0) and a kind in `kinds`. */
static int array_take(array *a, PyObject *object, const char *name, int ndim, const char *kinds, int writable) {
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, &a->view, flags) < 0) return 0;
    a->held = 1;
    const char kind = kind_of(a->view.format);
    if (kind == 0 || !strchr(kinds, kind)) {
        PyErr_Format(PyExc_TypeError, "%s has elements of format '%s', which this kernel can't take", name,
                     a->view.format);
        return 0;
    }
    if (ndim && a->view.ndim != ndim) {
        PyErr_Format(PyExc_ValueError, "%s has %d axes, not %d", name, a->view.ndim, ndim);
        return 0;
    }
    if (a->view.len == 0) {
        PyErr_Format(PyExc_ValueError, "%s is empty", name);
        return 0;
    }
    return ndim != 2 || sides_fit(a->view.shape[0], a->view.shape[1], name);
}

static int item_size_in(const array *a, const char *name, int first, int second, int third) {
    const Py_ssize_t size = a->view.itemsize;
    if (size == first || size == second || size == third) return 1;
    PyErr_Format(PyExc_TypeError, "%s has elements of %zd bytes, which this kernel can't take", name, size);
    return 0;
}

static int has_shape(const array *a, const char *name, Py_ssize_t ny, Py_ssize_t nx) {
    if (a->view.shape[0] == ny && a->view.shape[1] == nx) return 1;
    PyErr_Format(PyExc_ValueError, "%s has shape (%zd, %zd), not (%zd, %zd)", name, a->view.shape[0],
                 a->view.shape[1], ny, nx);
    return 0;
}

/* What accumulate, bslz4_reduce and bslz4_image share: mask, total and flags that go with frames of (ny, nx). */
typedef struct {
    array runs, mask, total, flags;
    reduction r;
} sums;

static void sums_drop(sums *s) {
    array_drop(&s->mask);
    array_drop(&s->runs);
    array_drop(&s->total);
    array_drop(&s->flags);
}

/* Whether an object is None, or becomes what `runs_of_mask` makes for images of (oy, ...). */
static int runs_take(array *a, PyObject *object, Py_ssize_t oy, size_t n_runs) {
    return object == Py_None || (array_take(a, object, "runs", 2, "u", 0) && item_size_in(a, "runs", 1, 1, 1) &&
                                 has_shape(a, "runs", oy, (Py_ssize_t)n_runs));
}

/* Whether an object is None, or the (runs, pixels) that pack_mask makes of a mask (ny, nx). */
static int mask_take(sums *s, PyObject *object, Py_ssize_t ny, Py_ssize_t nx, size_t b) {
    PyObject *runs, *mask;
    const size_t n_runs = runs_of((size_t)nx, b);
    if (object == Py_None) return 1;
    if (!PyTuple_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "the mask isn't packed");
        return 0;
    }
    if (!PyArg_ParseTuple(object, "OO", &runs, &mask) ||
        !runs_take(&s->runs, runs, (ny + (Py_ssize_t)b - 1) / (Py_ssize_t)b, n_runs) ||
        !array_take(&s->mask, mask, "the packed mask", 1, "u", 0) || !item_size_in(&s->mask, "the packed mask", 1, 1, 1))
        return 0;
    /* One byte more, for there are no empty arrays. */
    if (s->runs.held && packed_bytes(s->runs.view.buf, (size_t)ny, n_runs, b) + 1 == (size_t)s->mask.view.len) return 1;
    PyErr_SetString(PyExc_ValueError, "the packed mask isn't of these runs");
    return 0;
}

/* `flag_rows`: flags are of so many output rows; 0: of all. */
static int sums_take(sums *s, PyObject *mask, PyObject *total, PyObject *flags, Py_ssize_t ny, Py_ssize_t nx,
                     int itemsize, int binning, unsigned long long top, unsigned long long low, int first,
                     Py_ssize_t flag_rows) {
    if (binning < 1 || binning > MAX_BINNING) {
        PyErr_Format(PyExc_ValueError, "binning is %d, not 1 to %d", binning, MAX_BINNING);
        return 0;
    }
    const Py_ssize_t oy = (ny + binning - 1) / binning, ox = (nx + binning - 1) / binning;
    if (!mask_take(s, mask, ny, nx, (size_t)binning)) return 0;
    if (!(array_take(&s->total, total, "total", 2, "u", 1) && item_size_in(&s->total, "total", 4, 8, 8) &&
          has_shape(&s->total, "total", oy, ox)))
        return 0;
    if (!(array_take(&s->flags, flags, "flags", 2, "u", 1) && item_size_in(&s->flags, "flags", 1, 1, 1) &&
          has_shape(&s->flags, "flags", flag_rows ? flag_rows : oy, ox)))
        return 0;
    const unsigned long long greatest = itemsize == 1 ? UINT8_MAX : itemsize == 2 ? UINT16_MAX : UINT32_MAX;
    if (top >= greatest || low > top + 1) {
        PyErr_SetString(PyExc_ValueError, "the bounds of valid values don't fit the frame's type");
        return 0;
    }
    s->r = (reduction){.ny = (size_t)ny, .nx = (size_t)nx, .ox = (size_t)ox, .b = (size_t)binning,
                       .itemsize = itemsize, .wide = s->total.view.itemsize == 8, .first = first,
                       .top = top, .low = low, .mask = s->mask.held ? s->mask.view.buf : NULL,
                       .runs = s->runs.held ? s->runs.view.buf : NULL, .n_runs = runs_of((size_t)nx, (size_t)binning),
                       .flag_rows = (size_t)flag_rows, .total = s->total.view.buf, .flags = s->flags.view.buf};
    return 1;
}

static PyObject *accumulate(PyObject *self, PyObject *args) {
    PyObject *frame_object, *mask, *total, *flags, *result = NULL;
    int binning, first;
    unsigned long long top, low;
    array frame = {.held = 0};
    sums s = {.r = {0}};
    (void)self;
    if (!PyArg_ParseTuple(args, "OOiOOO&O&p", &frame_object, &mask, &binning, &total, &flags, whole_number, &top,
                          whole_number, &low, &first))
        return NULL;
    if (array_take(&frame, frame_object, "frame", 2, "ui", 0) && item_size_in(&frame, "frame", 1, 2, 4) &&
        sums_take(&s, mask, total, flags, frame.view.shape[0], frame.view.shape[1], (int)frame.view.itemsize,
                  binning, top, low, first, 0)) {
        const uint8_t *pixels = frame.view.buf;
        const size_t step = s.r.b * s.r.nx * (size_t)s.r.itemsize;
        Py_BEGIN_ALLOW_THREADS
        for (size_t row = 0; row * s.r.b < s.r.ny; row++) {
            const void *rows = pixels + row * step;
            reduce_row(&s.r, row, &rows, 1, NULL);
        }
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    sums_drop(&s);
    array_drop(&frame);
    return result;
}

/* What finish, bslz4_reduce and bslz4_image share: how an image of (ny, nx) is made of its sums. */
typedef struct {
    array blank, runs, values;
    size_t n_runs;
    finishing f;
} ending;

static void ending_drop(ending *e) {
    array_drop(&e->blank);
    array_drop(&e->runs);
    array_drop(&e->values);
}

/* `value_rows`: the values are of so many rows of the image. */
static int ending_take(ending *e, PyObject *words, Py_ssize_t ny, Py_ssize_t nx, Py_ssize_t value_rows) {
    PyObject *blank, *values, *runs;
    unsigned long long satval, limit;
    long long invalid;
    double scale;
    int mark_saturated;
    if (!PyTuple_Check(words)) {
        PyErr_SetString(PyExc_TypeError, "the ending isn't a tuple");
        return 0;
    }
    if (!PyArg_ParseTuple(words, "OO&dO&pOLO", &blank, whole_number, &satval, &scale, whole_number, &limit, &mark_saturated,
                          &values, &invalid, &runs))
        return 0;
    if (!(array_take(&e->values, values, "values", 2, "ui", 1) && item_size_in(&e->values, "values", 2, 4, 4) &&
          has_shape(&e->values, "values", value_rows, nx)))
        return 0;
    e->n_runs = runs_of((size_t)nx, 1);
    if (!runs_take(&e->runs, runs, ny, e->n_runs)) return 0;
    if (blank != Py_None && !(array_take(&e->blank, blank, "blank", 2, "u", 0) &&
                              item_size_in(&e->blank, "blank", 1, 1, 1) && has_shape(&e->blank, "blank", ny, nx)))
        return 0;
    const int is_signed = kind_of(e->values.view.format) == 'i';
    const uint64_t greatest = (e->values.view.itemsize == 2 ? UINT16_MAX : UINT32_MAX) >> is_signed;
    if (limit > greatest || !(scale >= 0) || scale > DBL_MAX || invalid > (int64_t)greatest ||
        invalid < (is_signed ? -(int64_t)greatest - 1 : 0)) {
        PyErr_SetString(PyExc_ValueError, "limit or mark doesn't fit the type of values, or scale isn't a number of 0 or more");
        return 0;
    }
    e->f = (finishing){.satval = satval, .limit = limit, .scale = scale, .over = mark_saturated ? SATURATED : 0,
                       .invalid = (uint32_t)invalid};
    finishing_prepare(&e->f);
    return 1;
}

/* How row `row` of the image is made, into `values`. */
static row_ending ending_of_row(ending *e, size_t row, void *values) {
    const size_t nx = (size_t)e->values.view.shape[1], next = row + 1;
    const uint8_t *blank = e->blank.held ? e->blank.view.buf : NULL, *runs = e->runs.held ? e->runs.view.buf : NULL;
    if (blank && runs && next < (size_t)e->blank.view.shape[0])
        prefetch_runs(blank + next * nx, runs + next * e->n_runs, e->n_runs, nx, 1, RUN);
    return (row_ending){.f = &e->f, .blank = blank ? blank + row * nx : NULL, .runs = runs ? runs + row * e->n_runs : NULL,
                        .value_size = (int)e->values.view.itemsize, .values = values};
}

static PyObject *ending_counts(const ending *e) {
    return Py_BuildValue("KK", (unsigned long long)e->f.n_clipped, (unsigned long long)e->f.n_invalid);
}

/* The rows of a frame that come next out of a chunk: some are decoded already, as blocks don't end with rows. */
typedef struct {
    chunk_reader reader;
    Py_buffer chunk;
    uint8_t *pixels;
    size_t have, done; /* elements: decoded and not used yet; before them, used */
} frame_rows;

static int frame_rows_open(frame_rows *f, block_memory *memory, const reduction *r) {
    const size_t size = (size_t)r->itemsize, n = r->ny * r->nx;
    if (!chunk_open(&f->reader, memory, f->chunk.buf, (size_t)f->chunk.len, n, size)) return 0;
    const size_t block = f->reader.block < n ? f->reader.block : n;
    f->pixels = lines_hold((r->b * r->nx + block) * size + LINE_BYTES + LZ4_SLACK);
    if (!f->pixels) f->reader.fault = "can't be decoded: out of memory";
    return f->pixels != NULL;
}

/* The next `need` elements, or NULL on a fault. Those left over move to where the next block begins a cache line. */
static const uint8_t *frame_rows_next(frame_rows *f, size_t need) {
    const size_t size = f->reader.size;
    if (f->have < need) {
        const uint8_t *const left = f->pixels + f->done * size;
        f->done = (LINE_BYTES - f->have * size % LINE_BYTES) % LINE_BYTES / size;
        memmove(f->pixels + f->done * size, left, f->have * size);
    }
    while (f->have < need) {
        const size_t n = chunk_next(&f->reader, f->pixels + (f->done + f->have) * size);
        if (n == 0) return NULL;
        f->have += n;
    }
    const uint8_t *rows = f->pixels + f->done * size;
    f->done += need;
    f->have -= need;
    return rows;
}

/* What the functions of the background share. */
typedef struct {
    array values, means, indices, room;
    background b;
    pyramid p;
    uint8_t *passes;
} background_arrays;

static void background_drop(background_arrays *a) {
    array_drop(&a->values);
    array_drop(&a->means);
    array_drop(&a->indices);
    array_drop(&a->room);
}

/* Sides of an image and of its cells; returns 0 with an exception set. */
static int background_open(background *b, Py_ssize_t ny, Py_ssize_t nx, unsigned int cell_bits) {
    if (!sides_fit(ny, nx, "image")) return 0;
    if (cell_bits > 3 || (unsigned long long)ny * (unsigned long long)nx > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "cells are of 1 to 8 pixels, images of 2147483647 at most");
        return 0;
    }
    *b = (background){.ny = (size_t)ny, .nx = (size_t)nx, .cell_bits = cell_bits};
    return 1;
}

static int means_take(array *means, PyObject *object, const background *b, int writable) {
    return array_take(means, object, "means", 2, "u", writable) && item_size_in(means, "means", 4, 4, 4) &&
           has_shape(means, "means", (Py_ssize_t)cells_along(b->ny, b->cell_bits),
                     (Py_ssize_t)cells_along(b->nx, b->cell_bits));
}

/* (values, means, indices, room, cell_bits, limit), of which the indices have room for all pixels. */
static int background_take(background_arrays *a, PyObject *words) {
    PyObject *values, *means, *indices, *room;
    unsigned int cell_bits;
    unsigned long limit;
    if (!PyArg_ParseTuple(words, "OOOOIk", &values, &means, &indices, &room, &cell_bits, &limit) ||
        !array_take(&a->values, values, "values", 2, "u", 1) || !item_size_in(&a->values, "values", 2, 2, 2))
        return 0;
    const Py_ssize_t ny = a->values.view.shape[0], nx = a->values.view.shape[1];
    if (!background_open(&a->b, ny, nx, cell_bits) || !means_take(&a->means, means, &a->b, 1) || !array_take(&a->indices, indices, "indices", 1, "u", 1) ||
        !item_size_in(&a->indices, "indices", 4, 4, 4) || !array_take(&a->room, room, "room", 1, "f", 1))
        return 0;
    if ((size_t)a->room.view.len < background_open_room(&a->b, &a->p, &a->passes, NULL, NULL)) {
        PyErr_SetString(PyExc_ValueError, "the room is too small");
        return 0;
    }
    background_open_room(&a->b, &a->p, &a->passes, a->means.view.buf, a->room.view.buf);
    if (limit > UINT16_MAX || a->indices.view.shape[0] < ny * nx) {
        PyErr_SetString(PyExc_ValueError, "the limit is above 65535, or there is room for too few indices");
        return 0;
    }
    a->b.limit = (uint32_t)limit;
    a->b.values = a->values.view.buf;
    a->b.centres = a->indices.view.buf;
    return 1;
}

/* Where row `row` of the image is to be written: in its chunk, or the tile that it is coded in, or all of it. */
static void *row_room(const ending *e, const image_chunk *c, size_t row) {
    const size_t bytes = (size_t)e->values.view.shape[1] * (size_t)e->values.view.itemsize;
    if (!c) return (uint8_t *)e->values.view.buf + row * bytes;
    return c->codes ? (uint8_t *)c->values + row % c->tile_rows * bytes : image_room(c);
}

/* The row is there: it goes into the chunk, or into the tile that does. Returns 0 if memory ran out. */
static int row_done(image_chunk *c, const ending *e, const reduction *r, size_t row) {
    if (c && c->codes) return image_values_done(c, r, e->blank.held ? e->blank.view.buf : NULL, row);
    if (c) image_row_done(c);
    return 1;
}

/* Words as for background_find, for the image that `e` makes of what `r` sums: its rows are pooled as they come. */
static int pooling_take(background_arrays *to, PyObject *words, const ending *e, const reduction *r) {
    if (!background_take(to, words)) return 0;
    const Py_buffer *values = &e->values.view;
    if (!values->buf || to->b.values != values->buf || to->values.view.len != values->len || r->flag_rows) {
        PyErr_SetString(PyExc_ValueError, "what is pooled is the image that is made");
        return 0;
    }
    to->b.flags = r->flags;
    return 1;
}

/* Sums the chunks' frames one output row at a time, and makes that row's pixels if there is an ending: so
 * neither frames nor, where these frames are all, sums are ever in memory; nor the image, where it becomes a chunk.
 * Returns the number of the frame that has a fault, or n; n + 1 if memory ran out. `rows`: room for n. */
static size_t reduce_chunks(frame_rows *frames, size_t n, const void **rows, reduction *r, ending *e,
                            image_chunk *c, background_arrays *to) {
    block_memory memory = {0};
    size_t bad = n;
    for (size_t k = 0; k < n && bad == n; k++)
        if (!frame_rows_open(&frames[k], &memory, r)) bad = k;
    for (size_t row = 0; row * r->b < r->ny && bad == n; row++) {
        for (size_t k = 0; k < n && bad == n; k++)
            if (!(rows[k] = frame_rows_next(&frames[k], rows_of(r, row) * r->nx))) bad = k;
        if (bad < n) break;
        if (!e) {
            reduce_row(r, row, rows, n, NULL);
            continue;
        }
        row_ending how = ending_of_row(e, row, row_room(e, c, row));
        reduce_row(r, row, rows, n, &how);
        if (!row_done(c, e, r, row)) bad = n + 1;
        if (to) pool_with(&to->b, &to->p, row);
    }
    for (size_t k = 0; k < n; k++) free(frames[k].pixels);
    block_memory_drop(&memory);
    return bad;
}

/* Raises ValueError(message), or where `number` isn't negative ValueError(message, number of the chunk). */
static PyObject *chunk_fault(const char *fault, size_t block, Py_ssize_t number) {
    PyObject *words = NULL, *message = PyUnicode_FromFormat("the compressed chunk %s (block %zu)", fault, block);
    if (message) words = number < 0 ? Py_BuildValue("(N)", message) : Py_BuildValue("(Nn)", message, number);
    if (words) {
        PyErr_SetObject(PyExc_ValueError, words);
        Py_DECREF(words);
    }
    return NULL;
}

/* The arguments that bslz4_reduce and bslz4_image share, and what they hold. */
typedef struct {
    frame_rows *frames;
    const void **rows; /* of the frames, those in hand */
    Py_ssize_t n, held;
    sums s;
    ending e;
    void *row;
} reducing;

static void reducing_drop(reducing *g) {
    while (g->held > 0) PyBuffer_Release(&g->frames[--g->held].chunk);
    free(g->frames);
    free(g->rows);
    free(g->row);
    ending_drop(&g->e);
    sums_drop(&g->s);
}

/* (chunks, (ny, nx), itemsize, mask, binning, total, flags, top, low, first), and the ending or None.
 * `ring`: where these frames are all, flags are of so many rows, as are the ending's values; 0: of all. */
static int reducing_take(reducing *g, PyObject *words, PyObject *end, Py_ssize_t ring) {
    PyObject *chunks, *mask, *total, *flags;
    Py_ssize_t ny, nx;
    int itemsize, binning, first;
    unsigned long long top, low;
    if (!PyArg_ParseTuple(words, "O!(nn)iOiOOO&O&p", &PyTuple_Type, &chunks, &ny, &nx, &itemsize, &mask, &binning,
                          &total, &flags, whole_number, &top, whole_number, &low, &first) ||
        !sides_fit(ny, nx, "frame"))
        return 0;
    g->n = PyTuple_GET_SIZE(chunks);
    if (g->n < 1 || (itemsize != 1 && itemsize != 2 && itemsize != 4)) {
        PyErr_SetString(PyExc_ValueError, "there is at least one frame, of pixels of 1, 2 or 4 bytes");
        return 0;
    }
    g->frames = calloc((size_t)g->n, sizeof *g->frames);
    g->rows = calloc((size_t)g->n, sizeof *g->rows);
    if (!g->frames || !g->rows) {
        PyErr_NoMemory();
        return 0;
    }
    for (; g->held < g->n; g->held++)
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(chunks, g->held), &g->frames[g->held].chunk, PyBUF_SIMPLE) < 0) return 0;
    if (!sums_take(&g->s, mask, total, flags, ny, nx, itemsize, binning, top, low, first, first ? ring : 0)) return 0;
    if (end == Py_None) return 1;
    const Py_ssize_t oy = g->s.total.view.shape[0];
    if (!ending_take(&g->e, end, oy, g->s.total.view.shape[1], ring ? ring : oy)) return 0;
    if (first) {
        g->row = malloc(g->s.r.ox * (g->s.r.wide ? 8 : 4));
        if (!g->row) {
            PyErr_NoMemory();
            return 0;
        }
        g->s.r.total = g->row;
        g->s.r.one_row = 1;
    }
    return 1;
}

/* Runs it; returns 0 with an exception set where a chunk has a fault. */
static int reducing_run(reducing *g, ending *e, image_chunk *c, background_arrays *to) {
    size_t bad;
    Py_BEGIN_ALLOW_THREADS
    bad = reduce_chunks(g->frames, (size_t)g->n, g->rows, &g->s.r, e, c, to);
    Py_END_ALLOW_THREADS
    if (bad == (size_t)g->n) return 1;
    if (bad > (size_t)g->n)
        PyErr_NoMemory();
    else
        chunk_fault(g->frames[bad].reader.fault, g->frames[bad].reader.n_done, (Py_ssize_t)bad);
    return 0;
}

static PyObject *bslz4_reduce(PyObject *self, PyObject *args) {
    PyObject *words, *end, *pool, *result = NULL;
    reducing g = {.n = 0};
    background_arrays to = {.b = {0}};
    (void)self;
    if (!PyArg_ParseTuple(args, "O!OO", &PyTuple_Type, &words, &end, &pool)) return NULL;
    const int ends = end != Py_None, pools = pool != Py_None;
    if (reducing_take(&g, words, end, 0) && (!pools || pooling_take(&to, pool, &g.e, &g.s.r)) &&
        reducing_run(&g, ends ? &g.e : NULL, NULL, pools ? &to : NULL))
        result = Py_BuildValue("KKn", (unsigned long long)g.e.f.n_clipped, (unsigned long long)g.e.f.n_invalid,
                               (Py_ssize_t)to.b.n_centres);
    reducing_drop(&g);
    background_drop(&to);
    return result;
}

#ifdef BNL_CRC32
/* The elements' buffers of an image that becomes a chunk: the stage, and room for the chunk. */
static int image_take(image_chunk *c, array *stage, array *room, PyObject *stage_object, PyObject *room_object,
                      size_t ny, size_t nx) {
    if (!array_take(stage, stage_object, "stage", 1, "ui", 1) || !item_size_in(stage, "stage", 2, 4, 4) ||
        !array_take(room, room_object, "room", 1, "u", 1) || !item_size_in(room, "room", 1, 1, 1))
        return 0;
    const size_t size = (size_t)stage->view.itemsize, n = ny * nx;
    if ((size_t)stage->view.shape[0] < stage_size(nx, size) || (size_t)room->view.len < bslz4_bound(n, size)) {
        PyErr_SetString(PyExc_ValueError, "the stage or the room is too small");
        return 0;
    }
    *c = (image_chunk){.stage = stage->view.buf, .ny = ny, .nx = nx, .narrow_out = size == 2};
    if (chunk_writer_open(&c->writer, n, size, room->view.buf)) return 1;
    PyErr_NoMemory();
    return 0;
}

/* HCompress's (scale, limit, mark) for tiles of as many rows as the ending's values have. */
static int image_codes(image_chunk *c, PyObject *coding, const ending *e, const array *stage) {
    unsigned long long limit;
    long long scale, mark;
    const int is_signed = kind_of(stage->view.format) == 'i';
    const uint64_t greatest = (stage->view.itemsize == 2 ? UINT16_MAX : UINT32_MAX) >> is_signed;
    if (!PyArg_ParseTuple(coding, "LO&L", &scale, whole_number, &limit, &mark)) return 0;
    const int is_wide = e->values.view.itemsize == 4;
    if (kind_of(e->values.view.format) != (is_wide ? 'i' : 'u') || scale < 0 || scale > INT32_MAX || limit > greatest ||
        mark > (int64_t)greatest || mark < (is_signed ? -(int64_t)greatest - 1 : 0)) {
        PyErr_SetString(PyExc_ValueError,
                        "HCompress takes uint16 or int32, a scale of 0 to 2147483647, and what fits the stage");
        return 0;
    }
    c->codes = 1;
    c->tile_rows = (size_t)e->values.view.shape[0];
    c->values = e->values.view.buf;
    c->value_size = is_wide ? 4 : 2;
    c->limit = limit;
    c->mark = (uint64_t)mark;
    if (hc_memory_hold(&c->memory, c->tile_rows < c->ny ? c->tile_rows : c->ny, c->nx, scale)) return 1;
    PyErr_NoMemory();
    return 0;
}

static PyObject *bslz4_image(PyObject *self, PyObject *args) {
    PyObject *words, *end, *coding, *stage_object, *room_object, *result = NULL;
    Py_ssize_t ring;
    array stage = {.held = 0}, room = {.held = 0};
    reducing g = {.n = 0};
    image_chunk c = {.codes = 0};
    (void)self;
    if (!PyArg_ParseTuple(args, "O!OnOOO", &PyTuple_Type, &words, &end, &ring, &coding, &stage_object, &room_object))
        return NULL;
    if (ring < 1 || end == Py_None) {
        PyErr_SetString(PyExc_ValueError, "there is an ending, of at least one row at a time");
        return NULL;
    }
    if (!reducing_take(&g, words, end, ring) ||
        !image_take(&c, &stage, &room, stage_object, room_object, (size_t)g.s.total.view.shape[0], g.s.r.ox))
        goto done;
    if (coding != Py_None ? !image_codes(&c, coding, &g.e, &stage) : g.e.values.view.itemsize != stage.view.itemsize) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "values are of the stage's type where nothing codes them");
        goto done;
    }
    if (reducing_run(&g, &g.e, &c, NULL)) {
        image_flush(&c, c.have);
        result = Py_BuildValue("KKnIdd", (unsigned long long)g.e.f.n_clipped, (unsigned long long)g.e.f.n_invalid,
                               (Py_ssize_t)(c.writer.to - c.writer.start), (unsigned int)c.crc, c.coding, c.encoding);
    }
done:
    hc_memory_drop(&c.memory);
    chunk_writer_drop(&c.writer);
    array_drop(&stage);
    array_drop(&room);
    reducing_drop(&g);
    return result;
}
#endif

/* A mask (ny, nx) and its runs for a binning, whose arrays are the caller's to drop. */
static int runs_and_mask(PyObject *args, array *mask, array *runs, PyObject **more, int *binning) {
    PyObject *objects[2];
    if (!(more ? PyArg_ParseTuple(args, "OiOO", &objects[0], binning, &objects[1], more)
               : PyArg_ParseTuple(args, "OiO", &objects[0], binning, &objects[1])))
        return 0;
    if (*binning < 1 || *binning > MAX_BINNING) {
        PyErr_Format(PyExc_ValueError, "binning is %d, not 1 to %d", *binning, MAX_BINNING);
        return 0;
    }
    if (!array_take(mask, objects[0], "mask", 2, "u", 0) || !item_size_in(mask, "mask", 1, 1, 1)) return 0;
    const Py_ssize_t ny = mask->view.shape[0], nx = mask->view.shape[1];
    return array_take(runs, objects[1], "runs", 2, "u", 1) && item_size_in(runs, "runs", 1, 1, 1) &&
           has_shape(runs, "runs", (ny + *binning - 1) / *binning, (Py_ssize_t)runs_of((size_t)nx, (size_t)*binning));
}

static PyObject *mask_runs(PyObject *self, PyObject *args) {
    PyObject *result = NULL;
    array mask = {.held = 0}, runs = {.held = 0};
    int binning;
    (void)self;
    if (runs_and_mask(args, &mask, &runs, NULL, &binning)) {
        size_t bytes;
        Py_BEGIN_ALLOW_THREADS
        bytes = runs_of_mask(mask.view.buf, (size_t)mask.view.shape[0], (size_t)mask.view.shape[1], (size_t)binning,
                             runs.view.buf);
        Py_END_ALLOW_THREADS
        result = PyLong_FromSize_t(bytes);
    }
    array_drop(&runs);
    array_drop(&mask);
    return result;
}

static PyObject *pack_mask_(PyObject *self, PyObject *args) {
    PyObject *packed_object, *result = NULL;
    array mask = {.held = 0}, runs = {.held = 0}, packed = {.held = 0};
    int binning;
    (void)self;
    if (runs_and_mask(args, &mask, &runs, &packed_object, &binning) &&
        array_take(&packed, packed_object, "packed", 1, "u", 1) && item_size_in(&packed, "packed", 1, 1, 1)) {
        const size_t ny = (size_t)mask.view.shape[0], nx = (size_t)mask.view.shape[1], b = (size_t)binning;
        if (packed_bytes(runs.view.buf, ny, runs_of(nx, b), b) > (size_t)packed.view.len) {
            PyErr_SetString(PyExc_ValueError, "there is no room for the packed mask");
        } else {
            pack_mask(mask.view.buf, ny, nx, b, runs.view.buf, packed.view.buf);
            result = Py_NewRef(Py_None);
        }
    }
    array_drop(&packed);
    array_drop(&runs);
    array_drop(&mask);
    return result;
}

typedef const char *(*decode_function)(const uint8_t *chunk, size_t n, uint8_t *out, size_t n_bytes, size_t size,
                                       size_t *block);

static PyObject *decode_with(decode_function decode, PyObject *args) {
    PyObject *out_object, *result = NULL;
    Py_buffer chunk;
    array out = {.held = 0};
    if (!PyArg_ParseTuple(args, "y*O", &chunk, &out_object)) return NULL;
    if (array_take(&out, out_object, "out", 0, "uif", 1)) {
        const char *fault;
        size_t block;
        Py_BEGIN_ALLOW_THREADS
        fault = decode(chunk.buf, (size_t)chunk.len, out.view.buf, (size_t)out.view.len,
                       (size_t)out.view.itemsize, &block);
        Py_END_ALLOW_THREADS
        result = fault ? chunk_fault(fault, block, -1) : Py_NewRef(Py_None);
    }
    array_drop(&out);
    PyBuffer_Release(&chunk);
    return result;
}

static PyObject *bslz4_decode(PyObject *self, PyObject *args) {
    (void)self;
    return decode_with(bslz4_chunk_decode, args);
}

static PyObject *lz4_decode(PyObject *self, PyObject *args) {
    (void)self;
    return decode_with(lz4_chunk_decode, args);
}

static PyObject *bslz4_encode(PyObject *self, PyObject *args) {
    PyObject *objects[2], *result = NULL;
    array in = {.held = 0}, room = {.held = 0};
    (void)self;
    if (!PyArg_ParseTuple(args, "OO", &objects[0], &objects[1])) return NULL;
    if (array_take(&in, objects[0], "array", 0, "uif", 0) && array_take(&room, objects[1], "room", 1, "u", 1) &&
        item_size_in(&room, "room", 1, 1, 1)) {
        const size_t size = (size_t)in.view.itemsize, n = (size_t)in.view.len / size;
        size_t made;
        if ((size_t)room.view.len < bslz4_bound(n, size)) {
            PyErr_SetString(PyExc_ValueError, "the room is too small");
        } else {
            Py_BEGIN_ALLOW_THREADS
            made = bslz4_chunk_encode(in.view.buf, n, size, room.view.buf);
            Py_END_ALLOW_THREADS
            result = made ? PyLong_FromSize_t(made) : PyErr_NoMemory();
        }
    }
    array_drop(&room);
    array_drop(&in);
    return result;
}

static PyObject *bslz4_bound_(PyObject *self, PyObject *args) {
    Py_ssize_t n, size;
    (void)self;
    if (!PyArg_ParseTuple(args, "nn", &n, &size)) return NULL;
    if (n < 0 || size < 1 || size > 8) {
        PyErr_SetString(PyExc_ValueError, "elements are of 1 to 8 bytes");
        return NULL;
    }
    return PyLong_FromSize_t(bslz4_bound((size_t)n, (size_t)size));
}

static PyObject *byte_offset_decode_(PyObject *self, PyObject *args) {
    PyObject *out_object, *result = NULL;
    Py_buffer data;
    array out = {.held = 0};
    (void)self;
    if (!PyArg_ParseTuple(args, "y*O", &data, &out_object)) return NULL;
    if (array_take(&out, out_object, "out", 0, "ui", 1) && item_size_in(&out, "out", 4, 4, 4)) {
        size_t made, taken;
        Py_BEGIN_ALLOW_THREADS
        byte_offset_decode(data.buf, (size_t)data.len, out.view.buf, (size_t)out.view.len / 4, &made, &taken);
        Py_END_ALLOW_THREADS
        result = Py_BuildValue("nn", (Py_ssize_t)made, (Py_ssize_t)taken);
    }
    array_drop(&out);
    PyBuffer_Release(&data);
    return result;
}

static PyObject *byte_offset_encode_(PyObject *self, PyObject *object) {
    PyObject *result = NULL;
    array in = {.held = 0};
    (void)self;
    if (array_take(&in, object, "array", 0, "i", 0) && item_size_in(&in, "array", 4, 4, 4)) {
        const size_t n = (size_t)in.view.len / 4;
        result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(n * BYTE_OFFSET_MOST));
        if (result) {
            uint8_t *to = (uint8_t *)PyBytes_AS_STRING(result);
            size_t made;
            Py_BEGIN_ALLOW_THREADS
            made = byte_offset_encode(in.view.buf, n, to);
            Py_END_ALLOW_THREADS
            _PyBytes_Resize(&result, (Py_ssize_t)made);
        }
    }
    array_drop(&in);
    return result;
}

static PyObject *finish(PyObject *self, PyObject *args) {
    PyObject *total_object, *flags_object, *words, *result = NULL;
    array total = {.held = 0}, flags = {.held = 0};
    ending e = {.f = {0}};
    (void)self;
    if (!PyArg_ParseTuple(args, "OOO", &total_object, &flags_object, &words)) return NULL;
    if (array_take(&total, total_object, "total", 2, "u", 0) && item_size_in(&total, "total", 4, 8, 8) &&
        array_take(&flags, flags_object, "flags", 2, "u", 0) && item_size_in(&flags, "flags", 1, 1, 1) &&
        has_shape(&flags, "flags", total.view.shape[0], total.view.shape[1]) &&
        ending_take(&e, words, total.view.shape[0], total.view.shape[1], total.view.shape[0])) {
        const size_t ny = (size_t)total.view.shape[0], nx = (size_t)total.view.shape[1];
        const reduction r = {.wide = total.view.itemsize == 8, .ox = nx, .total = total.view.buf,
                             .flags = flags.view.buf};
        Py_BEGIN_ALLOW_THREADS
        for (size_t row = 0; row < ny; row++) {
            row_ending how = ending_of_row(&e, row, row_room(&e, NULL, row));
            finish_part(&how, r.wide, row_total(&r, row), row_flags(&r, row), 0, nx);
        }
        Py_END_ALLOW_THREADS
        result = ending_counts(&e);
    }
    ending_drop(&e);
    array_drop(&flags);
    array_drop(&total);
    return result;
}

static PyObject *mark(PyObject *self, PyObject *args) {
    PyObject *objects[4], *result = NULL;
    array values = {.held = 0}, flags = {.held = 0}, blank = {.held = 0}, out = {.held = 0};
    unsigned long long limit;
    long long value;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOOO&LO", &objects[0], &objects[1], &objects[2], whole_number, &limit, &value,
                          &objects[3]))
        return NULL;
    if (!(array_take(&values, objects[0], "values", 2, "ui", 0) && item_size_in(&values, "values", 2, 4, 4) &&
          array_take(&flags, objects[1], "flags", 2, "u", 0) && item_size_in(&flags, "flags", 1, 1, 1) &&
          array_take(&out, objects[3], "out", 2, "ui", 1) && item_size_in(&out, "out", 2, 4, 4)))
        goto done;
    const Py_ssize_t ny = values.view.shape[0], nx = values.view.shape[1];
    if (!(has_shape(&flags, "flags", ny, nx) && has_shape(&out, "out", ny, nx))) goto done;
    if (objects[2] != Py_None && !(array_take(&blank, objects[2], "blank", 2, "u", 0) &&
                                   item_size_in(&blank, "blank", 1, 1, 1) && has_shape(&blank, "blank", ny, nx)))
        goto done;
    const int narrow_out = out.view.itemsize == 2, signed_out = kind_of(out.view.format) == 'i';
    const int narrow = values.view.itemsize == 2, is_signed = kind_of(values.view.format) == 'i';
    const uint64_t greatest = ((narrow_out ? UINT16_MAX : UINT32_MAX) >> signed_out);
    const uint64_t top_value = (narrow ? UINT16_MAX : UINT32_MAX) >> is_signed;
    if (limit > greatest || value < (signed_out ? -(int64_t)greatest - 1 : 0) || value > (int64_t)greatest) {
        PyErr_SetString(PyExc_ValueError, "limit or mark doesn't fit the type of out");
        goto done;
    }
    if (limit > top_value) limit = top_value;
    const size_t n = (size_t)ny * (size_t)nx;
    const uint8_t *blanks = blank.held ? blank.view.buf : NULL;
    Py_BEGIN_ALLOW_THREADS
    mark_image((int)values.view.itemsize, is_signed, narrow_out, values.view.buf, flags.view.buf, blanks, n, limit,
               (uint64_t)value, out.view.buf);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    array_drop(&values);
    array_drop(&flags);
    array_drop(&blank);
    array_drop(&out);
    return result;
}

static PyObject *hcompress_roundtrip(PyObject *self, PyObject *args) {
    PyObject *object, *result = NULL;
    array image = {.held = 0};
    long long scale;
    Py_ssize_t tile_rows;
    (void)self;
    if (!PyArg_ParseTuple(args, "OLn", &object, &scale, &tile_rows)) return NULL;
    if (!array_take(&image, object, "image", 2, "i", 1) || !item_size_in(&image, "image", 4, 4, 4)) goto done;
    if (tile_rows < 1 || scale < 0 || scale > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "scale is 0 to 2147483647, a tile has at least one row");
        goto done;
    }
    int ok;
    Py_BEGIN_ALLOW_THREADS
    ok = hc_roundtrip(image.view.buf, (size_t)image.view.shape[0], (size_t)image.view.shape[1], (size_t)tile_rows,
                      scale);
    Py_END_ALLOW_THREADS
    result = ok ? Py_NewRef(Py_None) : PyErr_NoMemory();
done:
    array_drop(&image);
    return result;
}

static PyObject *compare(PyObject *self, PyObject *args) {
    PyObject *objects[2], *result = NULL;
    array a = {.held = 0}, b = {.held = 0};
    (void)self;
    if (!PyArg_ParseTuple(args, "OO", &objects[0], &objects[1])) return NULL;
    if (array_take(&a, objects[0], "image", 2, "u", 0) && item_size_in(&a, "image", 2, 2, 2) &&
        array_take(&b, objects[1], "decoded", 2, "u", 0) && item_size_in(&b, "decoded", 2, 2, 2) &&
        has_shape(&b, "decoded", a.view.shape[0], a.view.shape[1])) {
        uint32_t greatest;
        uint64_t squares;
        Py_BEGIN_ALLOW_THREADS
        compare_u2(a.view.buf, b.view.buf, (size_t)a.view.len / 2, &greatest, &squares);
        Py_END_ALLOW_THREADS
        result = Py_BuildValue("IK", greatest, (unsigned long long)squares);
    }
    array_drop(&a);
    array_drop(&b);
    return result;
}

static PyObject *fill_gaps(PyObject *self, PyObject *args) {
    PyObject *objects[3], *result = NULL;
    array values = {.held = 0}, pixels = {.held = 0}, distances = {.held = 0};
    int ok;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOO", &objects[0], &objects[1], &objects[2])) return NULL;
    if (!(array_take(&values, objects[0], "values", 2, "ui", 1) && item_size_in(&values, "values", 2, 4, 4) &&
          array_take(&pixels, objects[1], "pixels", 1, "u", 0) && item_size_in(&pixels, "pixels", 4, 4, 4) &&
          array_take(&distances, objects[2], "distances", 2, "u", 0) && item_size_in(&distances, "distances", 2, 2, 2)))
        goto done;
    const Py_ssize_t n = pixels.view.shape[0];
    const size_t ny = (size_t)values.view.shape[0], nx = (size_t)values.view.shape[1];
    const int narrow = values.view.itemsize == 2;
    if (narrow != (kind_of(values.view.format) == 'u')) {
        PyErr_SetString(PyExc_TypeError, "values are uint16 or int32");
        goto done;
    }
    if (!has_shape(&distances, "distances", n, DIRECTIONS)) goto done;
    Py_BEGIN_ALLOW_THREADS
    ok = narrow ? fill_gaps_u2(values.view.buf, ny, nx, pixels.view.buf, distances.view.buf, (size_t)n)
                : fill_gaps_i4(values.view.buf, ny, nx, pixels.view.buf, distances.view.buf, (size_t)n);
    Py_END_ALLOW_THREADS
    if (ok)
        result = Py_NewRef(Py_None);
    else
        PyErr_SetString(PyExc_ValueError, "a pixel, or where it looks, is outside the image");
done:
    array_drop(&values);
    array_drop(&pixels);
    array_drop(&distances);
    return result;
}

static PyObject *gap_distances_(PyObject *self, PyObject *args) {
    PyObject *objects[2], *result = NULL;
    array invalid = {.held = 0}, distances = {.held = 0};
    size_t *last = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "OO", &objects[0], &objects[1])) return NULL;
    if (!(array_take(&invalid, objects[0], "invalid", 2, "u", 0) && item_size_in(&invalid, "invalid", 1, 1, 1) &&
          array_take(&distances, objects[1], "distances", 2, "u", 1) && item_size_in(&distances, "distances", 2, 2, 2)))
        goto done;
    const size_t ny = (size_t)invalid.view.shape[0], nx = (size_t)invalid.view.shape[1];
    const uint8_t *pixels = invalid.view.buf;
    size_t n = 0;
    for (size_t i = 0; i < ny * nx; i++) n += pixels[i] != 0;
    if (!has_shape(&distances, "distances", (Py_ssize_t)n, DIRECTIONS)) goto done;
    if (ny > UINT16_MAX || nx > UINT16_MAX) {
        PyErr_SetString(PyExc_ValueError, "the image is too large");
        goto done;
    }
    last = malloc(nx * sizeof *last);
    if (!last) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    gap_distances(pixels, ny, nx, n, distances.view.buf, last);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    free(last);
    array_drop(&invalid);
    array_drop(&distances);
    return result;
}

static PyObject *strong_pixels(PyObject *self, PyObject *args) {
    PyObject *objects[3], *result = NULL;
    array frame = {.held = 0}, mask = {.held = 0}, strong = {.held = 0};
    unsigned long long top;
    int kernel, min_count;
    double nsigma_b, nsigma_s, threshold;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOKiidddO", &objects[0], &objects[1], &top, &kernel, &min_count, &nsigma_b,
                          &nsigma_s, &threshold, &objects[2]))
        return NULL;
    if (!(array_take(&frame, objects[0], "frame", 2, "u", 0) && item_size_in(&frame, "frame", 1, 2, 4) &&
          array_take(&strong, objects[2], "strong", 2, "u", 1) && item_size_in(&strong, "strong", 1, 1, 1)))
        goto done;
    const Py_ssize_t ny = frame.view.shape[0], nx = frame.view.shape[1];
    if (!has_shape(&strong, "strong", ny, nx)) goto done;
    if (objects[1] != Py_None && !(array_take(&mask, objects[1], "mask", 2, "u", 0) &&
                                   item_size_in(&mask, "mask", 1, 1, 1) && has_shape(&mask, "mask", ny, nx)))
        goto done;
    if (kernel < 1 || kernel > SPOT_LARGEST_KERNEL || min_count < 2) {
        PyErr_Format(PyExc_ValueError, "the kernel's size is 1 to %d, min_count at least 2", SPOT_LARGEST_KERNEL);
        goto done;
    }
    const dispersion d = {.ny = (size_t)ny, .nx = (size_t)nx, .itemsize = (int)frame.view.itemsize, .top = top,
                          .frame = frame.view.buf, .mask = mask.held ? mask.view.buf : NULL, .k = (size_t)kernel,
                          .min_count = (uint32_t)min_count, .nsigma_b = nsigma_b, .nsigma_s = nsigma_s,
                          .threshold = threshold};
    int64_t found;
    Py_BEGIN_ALLOW_THREADS
    found = find_strong(&d, strong.view.buf);
    Py_END_ALLOW_THREADS
    result = found < 0 ? PyErr_NoMemory() : PyLong_FromLongLong(found);
done:
    array_drop(&frame);
    array_drop(&mask);
    array_drop(&strong);
    return result;
}

static PyObject *components(PyObject *self, PyObject *args) {
    PyObject *objects[2], *result = NULL;
    array keys = {.held = 0}, labels = {.held = 0};
    Py_ssize_t ny, nx;
    (void)self;
    if (!PyArg_ParseTuple(args, "OnnO", &objects[0], &ny, &nx, &objects[1])) return NULL;
    if (!(array_take(&keys, objects[0], "keys", 1, "i", 0) && item_size_in(&keys, "keys", 8, 8, 8) &&
          array_take(&labels, objects[1], "labels", 1, "i", 1) && item_size_in(&labels, "labels", 4, 4, 4)))
        goto done;
    const Py_ssize_t n = keys.view.shape[0];
    if (labels.view.shape[0] != n || n > INT32_MAX || ny < 1 || nx < 1 || ny > INT32_MAX || nx > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "keys and labels have one length, below 2^31, and a frame has pixels");
        goto done;
    }
    int32_t count;
    Py_BEGIN_ALLOW_THREADS
    count = label_components(keys.view.buf, (int32_t)n, ny, nx, labels.view.buf);
    Py_END_ALLOW_THREADS
    result = PyLong_FromLong(count);
done:
    array_drop(&keys);
    array_drop(&labels);
    return result;
}

/* The weights of neighbouring cells. */
static int weights_take(array *weights, PyObject *object, background *b) {
    uint64_t total = 0;
    if (!array_take(weights, object, "weights", 1, "u", 0) || !item_size_in(weights, "weights", 4, 4, 4)) return 0;
    const size_t taps = (size_t)weights->view.shape[0];
    b->weights = weights->view.buf;
    b->reach = taps / 2;
    int even = taps % 2 == 1;
    for (size_t k = 0; k < taps; k++) {
        total += b->weights[k];
        even &= b->weights[k] == b->weights[taps - 1 - k];
    }
    if (even && taps <= MOST_TAPS && total == 256) return 1;
    PyErr_SetString(PyExc_ValueError, "weights are odd in number, the same from either end, and add up to 256");
    return 0;
}

/* `noted`: of rows that are pooled, how many centres there are; negative: rows are pooled now. */
static PyObject *background_find_py(PyObject *self, PyObject *args) {
    PyObject *words, *flags_object, *weights_object, *result = NULL;
    background_arrays a = {.b = {0}};
    array flags = {.held = 0}, weights = {.held = 0};
    Py_ssize_t noted;
    uint64_t rest;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!OOn", &PyTuple_Type, &words, &flags_object, &weights_object, &noted)) return NULL;
    if (!background_take(&a, words) || !array_take(&flags, flags_object, "flags", 2, "u", 0) ||
        !item_size_in(&flags, "flags", 1, 1, 1) ||
        !has_shape(&flags, "flags", a.values.view.shape[0], a.values.view.shape[1]) ||
        !weights_take(&weights, weights_object, &a.b))
        goto done;
    a.b.flags = flags.view.buf;
    a.b.n_centres = noted > 0 ? (size_t)noted : 0;
    for (size_t k = 0; k < a.b.n_centres; k++)
        if (a.b.n_centres > a.b.ny * a.b.nx || a.b.centres[k] >= a.b.ny * a.b.nx) {
            PyErr_SetString(PyExc_ValueError, "what is noted isn't of this image");
            goto done;
        }
    Py_BEGIN_ALLOW_THREADS
    for (size_t y = 0; noted < 0 && y < a.b.ny; y++) pool_with(&a.b, &a.p, y);
    rest = background_find(&a.b, &a.p);
    Py_END_ALLOW_THREADS
    result = Py_BuildValue("nK", (Py_ssize_t)a.b.n_centres, (unsigned long long)rest);
done:
    background_drop(&a);
    array_drop(&flags);
    array_drop(&weights);
    return result;
}

/* (n, 3) of x, y and r, as for set_disc. */
static int discs_take(array *discs, PyObject *object) {
    return array_take(discs, object, "discs", 2, "i", 0) && item_size_in(discs, "discs", 4, 4, 4) &&
           has_shape(discs, "discs", discs->view.shape[0], 3);
}

static int state_take(array *state, PyObject *object, const background_arrays *a, int writable) {
    return array_take(state, object, "state", 2, "u", writable) && item_size_in(state, "state", 1, 1, 1) &&
           has_shape(state, "state", a->values.view.shape[0], a->values.view.shape[1]);
}

/* `discs`: None where there are none. */
static PyObject *background_begin_py(PyObject *self, PyObject *args) {
    PyObject *words, *always_object, *discs_object, *result = NULL;
    background_arrays a = {.b = {0}};
    array always = {.held = 0}, discs = {.held = 0};
    int is_new;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!OpO", &PyTuple_Type, &words, &always_object, &is_new, &discs_object)) return NULL;
    if (background_take(&a, words) && state_take(&always, always_object, &a, 0) &&
        (discs_object == Py_None || discs_take(&discs, discs_object))) {
        const size_t n_discs = discs.held ? (size_t)discs.view.shape[0] : 0;
        Py_BEGIN_ALLOW_THREADS
        if (is_new) states_pack(&a.b, always.view.buf);
        background_begin(&a.b, discs.view.buf, n_discs);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    background_drop(&a);
    array_drop(&always);
    array_drop(&discs);
    return result;
}

static PyObject *background_state(PyObject *self, PyObject *args) {
    PyObject *words, *object, *result = NULL;
    background_arrays a = {.b = {0}};
    array state = {.held = 0};
    (void)self;
    if (!PyArg_ParseTuple(args, "O!O", &PyTuple_Type, &words, &object)) return NULL;
    if (background_take(&a, words) && state_take(&state, object, &a, 1)) {
        states_unpack(&a.b, state.view.buf);
        result = Py_NewRef(Py_None);
    }
    background_drop(&a);
    array_drop(&state);
    return result;
}

static PyObject *background_room_py(PyObject *self, PyObject *args) {
    Py_ssize_t ny, nx;
    unsigned int cell_bits;
    background b;
    pyramid p;
    uint8_t *passes;
    (void)self;
    if (!PyArg_ParseTuple(args, "nnI", &ny, &nx, &cell_bits) || !background_open(&b, ny, nx, cell_bits)) return NULL;
    return PyLong_FromSize_t(background_open_room(&b, &p, &passes, NULL, NULL));
}

static PyObject *background_levels_py(PyObject *self, PyObject *args) {
    PyObject *objects[2], *result = NULL;
    array means = {.held = 0}, level = {.held = 0};
    unsigned int cell_bits;
    background b;
    (void)self;
    if (!PyArg_ParseTuple(args, "OIO", &objects[0], &cell_bits, &objects[1])) return NULL;
    if (array_take(&level, objects[1], "level", 2, "u", 1) && item_size_in(&level, "level", 4, 4, 4) &&
        background_open(&b, level.view.shape[0], level.view.shape[1], cell_bits) &&
        means_take(&means, objects[0], &b, 0)) {
        uint32_t *cells = malloc((size_t)(means.view.shape[1] + 1) * sizeof *cells);
        if (cells) background_levels(&b, means.view.buf, cells, level.view.buf);
        result = cells ? Py_NewRef(Py_None) : PyErr_NoMemory();
        free(cells);
    }
    array_drop(&means);
    array_drop(&level);
    return result;
}

/* `chunk` may be NULL. */
static void background_applied(background_arrays *a, unsigned long long rest, unsigned long low, image_chunk *chunk,
                               uint16_t mark, background_sums *sums) {
    Py_BEGIN_ALLOW_THREADS
    background_apply(&a->b, a->means.view.buf, rest, low > UINT32_MAX ? UINT32_MAX : (uint32_t)low, chunk, mark, a->passes,
                     sums);
    Py_END_ALLOW_THREADS
}

static PyObject *background_apply_py(PyObject *self, PyObject *args) {
    PyObject *words, *result = NULL;
    background_arrays a = {.b = {0}};
    background_sums sums;
    unsigned long low;
    unsigned long long rest;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!O&k", &PyTuple_Type, &words, whole_number, &rest, &low)) return NULL;
    if (background_take(&a, words)) {
        background_applied(&a, rest, low, NULL, 0, &sums);
        result = Py_BuildValue("KKK", (unsigned long long)sums.sum_before, (unsigned long long)sums.sum_after,
                               (unsigned long long)sums.n_kept);
    }
    background_drop(&a);
    return result;
}

#ifdef BNL_CRC32
static PyObject *background_chunk(PyObject *self, PyObject *args) {
    PyObject *words, *stage_object, *room_object, *result = NULL;
    background_arrays a = {.b = {0}};
    array stage = {.held = 0}, room = {.held = 0};
    image_chunk c = {.codes = 0};
    background_sums sums;
    unsigned long low;
    unsigned long long rest;
    unsigned short mark;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!O&kHOO", &PyTuple_Type, &words, whole_number, &rest, &low, &mark, &stage_object,
                          &room_object))
        return NULL;
    if (!background_take(&a, words) || !image_take(&c, &stage, &room, stage_object, room_object, a.b.ny, a.b.nx))
        goto done;
    if (stage.view.itemsize != 2) {
        PyErr_SetString(PyExc_ValueError, "the stage is of the image's type");
        goto done;
    }
    background_applied(&a, rest, low, &c, mark, &sums);
    result = Py_BuildValue("KKKnId", (unsigned long long)sums.sum_before, (unsigned long long)sums.sum_after,
                           (unsigned long long)sums.n_kept, (Py_ssize_t)(c.writer.to - c.writer.start),
                           (unsigned int)c.crc, c.encoding);
done:
    chunk_writer_drop(&c.writer);
    background_drop(&a);
    array_drop(&stage);
    array_drop(&room);
    return result;
}
#endif

static PyObject *keep_discs(PyObject *self, PyObject *args) {
    PyObject *objects[2], *result = NULL;
    array state = {.held = 0}, discs = {.held = 0};
    int bit;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOi", &objects[0], &objects[1], &bit)) return NULL;
    if (array_take(&state, objects[0], "state", 2, "u", 1) && item_size_in(&state, "state", 1, 1, 1) &&
        discs_take(&discs, objects[1]) && sides_fit(state.view.shape[0], state.view.shape[1], "state")) {
        const size_t ny = (size_t)state.view.shape[0], nx = (size_t)state.view.shape[1];
        const int32_t *disc = discs.view.buf;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t k = 0; k < discs.view.shape[0]; k++, disc += 3)
            set_disc(state.view.buf, ny, nx, disc, (uint8_t)bit);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    array_drop(&discs);
    array_drop(&state);
    return result;
}

#ifdef BNL_CRC32
static PyObject *crc32(PyObject *self, PyObject *object) {
    Py_buffer data;
    uint32_t result;
    (void)self;
    if (PyObject_GetBuffer(object, &data, PyBUF_C_CONTIGUOUS) < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = crc32_of(data.buf, (size_t)data.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(result);
}
#endif

static PyObject *release(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
#if defined(__GLIBC__)
    Py_BEGIN_ALLOW_THREADS
    malloc_trim(0);
    Py_END_ALLOW_THREADS
#endif
    return Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"accumulate", accumulate, METH_VARARGS, "accumulate(frame, mask, binning, total, flags, top, low, first)"},
    {"background_room", background_room_py, METH_VARARGS, "background_room(ny, nx, cell_bits) -> bytes"},
    {"background_begin", background_begin_py, METH_VARARGS,
     "background_begin((values, means, indices, room, cell_bits, limit), always, is_new, discs)"},
    {"background_state", background_state, METH_VARARGS, "background_state((values, ...), state)"},
    {"background_find", background_find_py, METH_VARARGS,
     "background_find((values, ...), flags, weights, noted) -> (n, rest)"},
    {"background_levels", background_levels_py, METH_VARARGS, "background_levels(means, cell_bits, level)"},
    {"background_apply", background_apply_py, METH_VARARGS,
     "background_apply((values, ...), rest, low) -> (before, after, n_kept)"},
#ifdef BNL_CRC32
    {"background_chunk", background_chunk, METH_VARARGS,
     "background_chunk((values, ...), rest, low, mark, stage, to) -> (before, after, n_kept, bytes, crc32, s)"},
#endif
    {"keep_discs", keep_discs, METH_VARARGS, "keep_discs(state, discs, bit)"},
    {"bslz4_reduce", bslz4_reduce, METH_VARARGS,
     "bslz4_reduce((chunks, (ny, nx), itemsize, mask, binning, total, flags, top, low, first), ending, pooling)"},
#ifdef BNL_CRC32
    {"bslz4_image", bslz4_image, METH_VARARGS,
     "bslz4_image(words, ending, rows, (scale, limit, mark), stage, room) -> (clipped, invalid, bytes, crc32, s, s)"},
#endif
    {"mask_runs", mask_runs, METH_VARARGS, "mask_runs(mask, binning, runs) -> bytes of the packed mask"},
    {"pack_mask", pack_mask_, METH_VARARGS, "pack_mask(mask, binning, runs, packed)"},
    {"byte_offset_decode", byte_offset_decode_, METH_VARARGS, "byte_offset_decode(data, out) -> (pixels, bytes)"},
    {"byte_offset_encode", byte_offset_encode_, METH_O, "byte_offset_encode(array) -> bytes"},
    {"bslz4_decode", bslz4_decode, METH_VARARGS, "bslz4_decode(chunk, out)"},
    {"bslz4_encode", bslz4_encode, METH_VARARGS, "bslz4_encode(array, room) -> bytes made"},
    {"bslz4_bound", bslz4_bound_, METH_VARARGS, "bslz4_bound(elements, itemsize) -> bytes"},
    {"lz4_decode", lz4_decode, METH_VARARGS, "lz4_decode(chunk, out)"},
    {"finish", finish, METH_VARARGS,
     "finish(total, flags, (blank, satval, scale, limit, mark_saturated, values, invalid, runs)) -> counts"},
    {"gap_distances", gap_distances_, METH_VARARGS, "gap_distances(invalid, distances)"},
    {"fill_gaps", fill_gaps, METH_VARARGS, "fill_gaps(values, pixels, distances)"},
    {"compare", compare, METH_VARARGS, "compare(image, decoded) -> (greatest, squares)"},
    {"strong_pixels", strong_pixels, METH_VARARGS,
     "strong_pixels(frame, mask, top, kernel, min_count, nsigma_b, nsigma_s, threshold, strong) -> number"},
    {"components", components, METH_VARARGS, "components(keys, ny, nx, labels) -> number"},
    {"release", release, METH_NOARGS, "release()"},
    {"mark", mark, METH_VARARGS, "mark(values, flags, blank, limit, mark, out)"},
#ifdef BNL_CRC32
    {"crc32", crc32, METH_O, "crc32(data) -> int"},
#endif
    {"hcompress_roundtrip", hcompress_roundtrip, METH_VARARGS, "hcompress_roundtrip(image, scale, tile_rows)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "bnl_mpi.pixels._kernels", "Compiled kernels; documented in bnl_mpi.pixels.kernels.", 0, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernels(void) {
    bitshuffle_choose();
    lz4_choose();
    crc32_choose();
    return PyModuleDef_Init(&module);
}
