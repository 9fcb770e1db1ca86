/* What reads a row of the result, planar, before any colour: the state of shift.h, resize.h, warp.h. */
#pragma once

#include "source.h"
#include "taps.h"

typedef struct {
    const Pass *pass;
    Source source;
    Machine machine;
    int64_t width, height, stride; /* of the result, and of a row of one channel */
    /* resize */
    Taps down, across;
    int64_t seen_from, seen_num; /* columns of the source that are read */
    int is_packed;  /* three channels of bytes, gathered as whole pixels */
    int is_direct;  /* ... where they lie */
    Pixels pixels;
    int is_shuffled; /* ... whose taps are picked out of vectors: across_avx512 */
    Shuffles shuffles;
    float *ring;     /* rows of the source, resampled across */
    int64_t ring_rows, next;
    uint32_t *gathered;
    float *loaded;
    /* shift */
    int64_t x_low, x_high; /* columns that show the image */
    int fills_zeros;       /* where no column does */
    int32_t *column;       /* the offset of the pixel each column shows */
    /* warp */
    float matrix[9];
    int32_t shown[4];
} Reader;

INLINE void fill_columns(const Pass *pass, float *row, int64_t stride, int64_t from, int64_t to) {
    for (int64_t c = 0; c < pass->channels; c++) {
        float fill = pass->padding[c], *restrict plane = row + c * stride;
#pragma omp simd
        for (int64_t x = from; x < to; x++) plane[x] = fill;
    }
}

/* Sets is_shuffled, from the tables of the taps of a row; 0 when there was no memory. */
INLINE int begin_shuffles(Reader *reader, Scratch *scratch, const int32_t *offset,
                          const float *weight, int64_t taps) {
    int64_t stride = reader->stride, groups = stride / 16;
    int32_t *start = room(scratch, SHUFFLES, (size_t)(groups + taps * stride) * 4);
    if (!start) return 0;
    uint32_t *order = (uint32_t *)start + groups;
    reader->is_shuffled = plan_shuffles(offset, stride, taps, start, order);
    reader->shuffles = (Shuffles){groups, taps, start, order, weight, stride};
    return 1;
}
