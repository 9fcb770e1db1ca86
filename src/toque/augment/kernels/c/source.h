/* The source: whole pixels where they lie, or rows loaded as floats. */
#pragma once

#include "machine.h"

/* Pixels of 3 or 4 bytes, red lowest, read 4 bytes at a time. The 4 bytes of the last 3-byte pixel would
 * end outside the image: an offset above `last` stands for that pixel, whose value is kept here. */
typedef struct {
    const uint8_t *base;
    int64_t row, pixel; /* strides in bytes */
    int32_t last;
    uint32_t last_pixel;
    const uint8_t *limit; /* one past the last byte that may be read */
} Pixels;

/* Whether a source can be read like that where it lies. */
INLINE int direct_pixels(const Source *source, Pixels *pixels) {
    int64_t end = (source->height - 1) * source->row + 3 * source->width;
    if (source->type != UINT8 || source->channels != 3 || source->channel != 1 ||
        source->pixel != 3 || source->row < 3 * source->width || end < 4 || end > INT32_MAX)
        return 0;
    const uint8_t *pixel = source->base + end - 3;
    *pixels = (Pixels){source->base, source->row, 3, (int32_t)(end - 4),
                       (uint32_t)pixel[0] | (uint32_t)pixel[1] << 8 | (uint32_t)pixel[2] << 16,
                       source->base + end};
    return 1;
}

static void gather_near_the_end(const Pixels *pixels, const uint8_t *base, const int32_t *offset,
                                uint32_t *into, int64_t num) {
    int64_t last = pixels->last - (base - pixels->base);
    for (int64_t i = 0; i < num; i++) {
        if (offset[i] > last)
            into[i] = pixels->last_pixel;
        else
            memcpy(into + i, base + offset[i], 4);
    }
}

/* As gather_pairs where 8 bytes may end beyond the image: the last 8 bytes are read and shifted. */
static void gather_pairs_near_the_end(const Pixels *pixels, const int32_t *offset, uint32_t *first,
                                      uint32_t *second, int64_t num) {
    int64_t bits = 8 * pixels->pixel, last = pixels->limit - pixels->base - 8;
    uint8_t small[8] = {0}; /* an image of less than 8 bytes */
    const uint8_t *base = pixels->base;
    if (last < 0) {
        memcpy(small, base, (size_t)(last + 8));
        base = small;
        last = 0;
    }
    for (int64_t i = 0; i < num; i++) {
        int64_t at = offset[i] < last ? offset[i] : last;
        uint64_t pair;
        memcpy(&pair, base + at, 8);
        pair >>= 8 * (offset[i] - at);
        first[i] = (uint32_t)pair;
        second[i] = (uint32_t)(pair >> bits);
    }
}

enum { AHEAD = 4 }; /* rows */

/* Asks for the part of a row that will be read some rows later: a batch of sources is larger than the
 * caches, and waiting for it would take longer than everything that is done with it. */
INLINE void prefetch_row(const Source *source, int64_t v, int64_t from, int64_t num) {
    if (v < 0 || v >= source->height) return;
    const uint8_t *row = source->base + v * source->row + from * source->pixel;
    for (int64_t i = 0; i < num * source->pixel; i += 64) __builtin_prefetch(row + i);
}

/* A channel of a 4-byte pixel. */
INLINE float byte(uint32_t pixel, int shift) { return (float)(int32_t)(pixel >> shift & 255); }

/* ---- Loading rows of the source as floats in 0 .. 1. ---- */

/* Columns u0 .. u0 + num - 1 of one row: into[c * stride + i]. */
INLINE void load_row(const Source *source, int64_t v, int64_t u0, int64_t num, float *into,
                     int64_t stride) {
    for (int64_t c = 0; c < source->channels; c++) {
        const uint8_t *from = source->base + c * source->channel + v * source->row + u0 * source->pixel;
        float *restrict row = into + c * stride;
        if (source->type == FLOAT32 && source->pixel == 4) {
            memcpy(row, from, (size_t)num * 4);
        } else if (source->type == FLOAT32) {
            for (int64_t i = 0; i < num; i++) memcpy(row + i, from + i * source->pixel, 4);
        } else if (source->pixel == 1) {
#pragma omp simd
            for (int64_t i = 0; i < num; i++) row[i] = (float)from[i] * (1.0f / 255);
        } else if (source->pixel == 3) {
#pragma omp simd
            for (int64_t i = 0; i < num; i++) row[i] = (float)from[3 * i] * (1.0f / 255);
        } else {
            for (int64_t i = 0; i < num; i++) row[i] = (float)from[i * source->pixel] * (1.0f / 255);
        }
    }
}

/* One row of three planes of bytes as 4-byte pixels. */
INLINE void pack_row(const Source *source, int64_t v, uint32_t *restrict into) {
    const uint8_t *red = source->base + v * source->row;
    const uint8_t *green = red + source->channel, *blue = green + source->channel;
    int64_t step = source->pixel;
    if (step == 1) {
#pragma omp simd
        for (int64_t i = 0; i < source->width; i++)
            into[i] = (uint32_t)red[i] | (uint32_t)green[i] << 8 | (uint32_t)blue[i] << 16;
        return;
    }
    for (int64_t i = 0; i < source->width; i++)
        into[i] = (uint32_t)red[i * step] | (uint32_t)green[i * step] << 8 |
                  (uint32_t)blue[i * step] << 16;
}
