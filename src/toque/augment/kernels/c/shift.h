/* Reading whole pixels: crops, flips and borders. */
#pragma once

#include "reader.h"

INLINE int64_t bring_inside(int64_t index, int64_t low, int64_t high, int64_t mode) {
    int64_t length = high - low, turn;
    if (index >= low && index < high) return index;
    if (mode == CONSTANT || length < 1) return -1;
    if (mode == EDGE) return index < low ? low : high - 1;
    int64_t period = mode == SYMMETRIC ? 2 * length : 2 * length - 2;
    if (period < 1) return low;
    turn = (index - low) % period;
    turn += turn < 0 ? period : 0;
    int64_t back = mode == SYMMETRIC ? period - 1 - turn : period - turn;
    return low + (turn < length ? turn : back);
}

/* The source column or row of result i; matrix entries are whole numbers here. */
INLINE int64_t shifted(double step, double start, int64_t i) {
    return (int64_t)floor(step * ((double)i + 0.5) + start);
}

INLINE int begin_shift(Reader *reader, Scratch *scratch, const double *matrix,
                       const double *visible) {
    const Source *source = &reader->source;
    int64_t low = (int64_t)rint(visible[1]), high = (int64_t)rint(visible[3]);
    reader->is_packed = reader->is_direct = direct_pixels(source, &reader->pixels);
    reader->gathered = room(scratch, PACKED, (size_t)(reader->stride * 4));
    reader->column = room(scratch, TAPS_X, (size_t)(reader->stride * 8));
    reader->loaded = room(scratch, LOADED, (size_t)(padded(source->width) * 4 * source->channels));
    if (!reader->gathered || !reader->column || !reader->loaded) return 0;
    reader->fills_zeros = 1;
    for (int64_t c = 0; c < source->channels; c++)
        reader->fills_zeros &= reader->pass->padding[c] == 0;
    float *weight = (float *)(reader->column + reader->stride);
    reader->x_low = reader->width;
    reader->x_high = 0;
    for (int64_t x = 0; x < reader->stride; x++) {
        int64_t u = bring_inside(shifted(matrix[0], matrix[2], x), low, high,
                                 reader->pass->padding_mode);
        int is_inside = u >= 0 && u < source->width && x < reader->width;
        if (is_inside && reader->x_low == reader->width) reader->x_low = x;
        if (is_inside) reader->x_high = x + 1;
        u = u < 0 ? 0 : u < source->width ? u : source->width - 1;
        reader->column[x] = (int32_t)u * (reader->is_direct ? 3 : 4);
        weight[x] = is_inside ? 1.0f / 255 : 0;
    }
    /* Columns outside go with their neighbours, so that what is read lies close together. */
    for (int64_t x = 0; x < reader->x_low && reader->x_low < reader->x_high; x++)
        reader->column[x] = reader->column[reader->x_low];
    for (int64_t x = reader->x_high; x < reader->stride && x > 0; x++)
        reader->column[x] = reader->column[x - 1];
    if (reader->is_direct && reader->machine.across) /* a resize with one tap */
        return begin_shuffles(reader, scratch, reader->column, weight, 1);
    return 1;
}

/* The source row of row y, -1 for none. */
INLINE int64_t shown_row(const Reader *reader, const double *matrix, const double *visible,
                         int64_t y) {
    int64_t v = bring_inside(shifted(matrix[4], matrix[5], y), (int64_t)rint(visible[0]),
                             (int64_t)rint(visible[2]), reader->pass->padding_mode);
    return v < reader->source.height && reader->x_high > reader->x_low ? v : -1;
}

INLINE void shift_row(Reader *reader, const double *matrix, const double *visible, int64_t y,
                      float *restrict into) {
    const Pass *pass = reader->pass;
    const Source *source = &reader->source;
    int64_t stride = reader->stride, low = reader->x_low, high = reader->x_high;
    int64_t v = shown_row(reader, matrix, visible, y);
    if (v < 0) {
        fill_columns(pass, into, stride, 0, reader->width);
        return;
    }
    prefetch_row(source, matrix[4] < 0 ? v - AHEAD : v + AHEAD, 0, source->width);
    float *restrict red = into, *restrict green = into + stride, *restrict blue = green + stride;
    const uint8_t *base = reader->is_direct ? reader->pixels.base + v * reader->pixels.row : NULL;
    if (reader->is_shuffled) {
        reader->machine.across(&reader->shuffles, base, reader->pixels.limit, red, green, blue);
    } else if (reader->is_direct) {
        if (v == source->height - 1)
            gather_near_the_end(&reader->pixels, base, reader->column, reader->gathered, stride);
        else
            reader->machine.gather(base, reader->column, reader->gathered, stride,
                                   reader->pixels.limit);
        const uint32_t *restrict pixel = reader->gathered;
#pragma omp simd
        for (int64_t x = 0; x < stride; x++) {
            red[x] = (float)(int32_t)(pixel[x] & 255) * (1.0f / 255);
            green[x] = (float)(int32_t)(pixel[x] >> 8 & 255) * (1.0f / 255);
            blue[x] = (float)(int32_t)(pixel[x] >> 16 & 255) * (1.0f / 255);
        }
    } else {
        int64_t wide = padded(source->width);
        load_row(source, v, 0, source->width, reader->loaded, wide);
        for (int64_t c = 0; c < source->channels; c++)
            reader->machine.gather((const uint8_t *)(reader->loaded + c * wide), reader->column,
                                   (uint32_t *)(into + c * stride), stride,
                                   (const uint8_t *)(reader->loaded + (c + 1) * wide));
    }
    /* Weights of 0 have left zeros there. Short stores into a row that is then read in long ones would
     * have to reach the cache first, behind all that is on its way out. */
    if (reader->is_shuffled && reader->fills_zeros) return;
    if (low > 0) fill_columns(pass, into, stride, 0, low);
    if (high < reader->width) fill_columns(pass, into, stride, high, reader->width);
}
