/* Crops and flips without colours, straight into the result: what small images are given. */
#pragma once

#include "shift.h"
#include "write.h"

/* Whether a pass of whole pixels does no more than that, from bytes into planes of floats. */
INLINE int copies(const Reader *reader) {
    const Pass *pass = reader->pass;
    return reader->is_shuffled && reader->fills_zeros && reader->machine.copy &&
           pass->num_operations == 0 && pass->out_type == FLOAT32 && pass->out_stride[2] == 1 &&
           !pass->streams;
}

/* What shift_row and write_row do, in the same bits. */
INLINE int copy_image(const Reader *reader, int64_t n, const double *matrix, const double *visible) {
    const Pass *pass = reader->pass;
    const Source *source = &reader->source;
    int64_t num = reader->width, channels = 3;
    for (int64_t y = 0; y < reader->height; y++) {
        float *to = (float *)result_of(pass, n) + y * pass->out_stride[1];
        int64_t v = shown_row(reader, matrix, visible, y);
        prefetch_row(source, matrix[4] < 0 ? v - AHEAD : v + AHEAD, 0, source->width);
        reader->machine.copy(&reader->shuffles, v < 0 ? NULL : source->base + v * source->row,
                             reader->pixels.limit, pass->scale, pass->shift, to,
                             pass->out_stride[0], num);
        for (int64_t c = 0; c < channels && pass->num_rectangles; c++)
            ERASE(float, AS_IT_IS, to[c * pass->out_stride[0] + x]);
    }
    return 1;
}
