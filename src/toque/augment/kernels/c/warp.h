/* Reading through any matrix. */
#pragma once

#include "resize.h"

/* What a row of a warp needs, an array as long as the row each: where the pair of pixels above and the
 * pair below begin, the weights of the four, and the pixels. */
typedef struct {
    int32_t *offset[2];
    float *weight[2][2];
    float *covered;
    uint32_t *first[2], *second[2];
} WarpRow;

/* Four pixels of bytes, or the two above, weighted. */
INLINE void blend(const WarpRow *taps, int num_rows, float *restrict red, float *restrict green,
                  float *restrict blue, int64_t num) {
    const float *restrict w00 = taps->weight[0][0], *restrict w01 = taps->weight[0][1];
    const float *restrict w10 = taps->weight[1][0], *restrict w11 = taps->weight[1][1];
    const uint32_t *restrict p00 = taps->first[0], *restrict p01 = taps->second[0];
    const uint32_t *restrict p10 = taps->first[1], *restrict p11 = taps->second[1];
    const float unit = 1.0f / 255;
    if (num_rows == 1) {
#pragma omp simd
        for (int64_t x = 0; x < num; x++) {
            red[x] = unit * (w00[x] * byte(p00[x], 0) + w01[x] * byte(p01[x], 0));
            green[x] = unit * (w00[x] * byte(p00[x], 8) + w01[x] * byte(p01[x], 8));
            blue[x] = unit * (w00[x] * byte(p00[x], 16) + w01[x] * byte(p01[x], 16));
        }
        return;
    }
#pragma omp simd
    for (int64_t x = 0; x < num; x++) {
        float a = unit * w00[x], b = unit * w01[x], c = unit * w10[x], d = unit * w11[x];
        red[x] = a * byte(p00[x], 0) + b * byte(p01[x], 0) + c * byte(p10[x], 0) +
                 d * byte(p11[x], 0);
        green[x] = a * byte(p00[x], 8) + b * byte(p01[x], 8) + c * byte(p10[x], 8) +
                   d * byte(p11[x], 8);
        blue[x] = a * byte(p00[x], 16) + b * byte(p01[x], 16) + c * byte(p10[x], 16) +
                  d * byte(p11[x], 16);
    }
}

/* As blend, of one channel of floats. */
INLINE void blend_plane(const WarpRow *taps, int num_rows, float *restrict plane, int64_t num) {
    const float *restrict w00 = taps->weight[0][0], *restrict w01 = taps->weight[0][1];
    const float *restrict w10 = taps->weight[1][0], *restrict w11 = taps->weight[1][1];
    const float *restrict p00 = (float *)taps->first[0], *restrict p01 = (float *)taps->second[0];
    const float *restrict p10 = (float *)taps->first[1], *restrict p11 = (float *)taps->second[1];
#pragma omp simd
    for (int64_t x = 0; x < num; x++) plane[x] = w00[x] * p00[x] + w01[x] * p01[x];
    if (num_rows == 1) return;
#pragma omp simd
    for (int64_t x = 0; x < num; x++) plane[x] += w10[x] * p10[x] + w11[x] * p11[x];
}

INLINE void begin_warp(Reader *reader, const double *matrix, const double *visible) {
    for (int i = 0; i < 9; i++) reader->matrix[i] = (float)matrix[i];
    int64_t size[4] = {reader->source.height, reader->source.width, reader->source.height,
                       reader->source.width};
    for (int i = 0; i < 4; i++) reader->shown[i] = (int32_t)whole(ceil(visible[i] - 0.5), 0, size[i]);
}

INLINE float within(float value, float low, float high) {
    value = value > low ? value : low; /* also for what is no number */
    return value < high ? value : high;
}

/* Offsets (v * row + u * pixel) and weights for row y of the result. What is not visible has weight 0,
 * and `covered` is what the weights add up to. A pair never begins in the last column, so that both its
 * pixels lie in the image: there, and left of the image, the weights move to the other of the two. */
INLINE void warp_taps(const Reader *reader, int64_t y, int32_t row, int32_t pixel, WarpRow *taps) {
    const float *m = reader->matrix;
    const Source *source = &reader->source;
    float top = (float)reader->shown[0], left = (float)reader->shown[1];
    float bottom = (float)reader->shown[2], right = (float)reader->shown[3];
    float last_v = (float)(source->height - 1), last_u = (float)(source->width - 1);
    float last_pair = source->width > 1 ? last_u - 1 : 0;
    int nearest = reader->pass->resample == NEAREST;
    float half = nearest ? 0.0f : 0.5f, fraction = nearest ? 0.0f : 1.0f, down = (float)y + 0.5f;
    float u_0 = m[1] * down + m[2], v_0 = m[4] * down + m[5], d_0 = m[7] * down + m[8];
    int32_t *restrict above = taps->offset[0], *restrict below = taps->offset[1];
    float *restrict w00 = taps->weight[0][0], *restrict w01 = taps->weight[0][1];
    float *restrict w10 = taps->weight[1][0], *restrict w11 = taps->weight[1][1];
    float *restrict covered = taps->covered;
    float *restrict us = w00, *restrict vs = w01; /* coordinates first, weights in their place later */
#pragma omp simd
    for (int64_t x = 0; x < reader->width; x++) {
        float across = (float)(int32_t)x + 0.5f;
        us[x] = m[0] * across + u_0;
        vs[x] = m[3] * across + v_0;
    }
    if (m[6] != 0 || m[7] != 0 || m[8] != 1) { /* a perspective */
#pragma omp simd
        for (int64_t x = 0; x < reader->width; x++) {
            float d = m[6] * ((float)(int32_t)x + 0.5f) + d_0;
            us[x] /= d;
            vs[x] /= d;
        }
    }
#pragma omp simd
    for (int64_t x = 0; x < reader->width; x++) {
        float u = within(us[x] - half, -2, last_u + 1), v = within(vs[x] - half, -2, last_v + 1);
        float u0 = floorf(u), v0 = floorf(v), u1 = u0 + 1, v1 = v0 + 1;
        float u_part = fraction * (u - u0), v_part = fraction * (v - v0);
        float wu0 = (u0 >= left) & (u0 < right) ? 1 - u_part : 0.0f;
        float wu1 = (u1 >= left) & (u1 < right) ? u_part : 0.0f;
        float wv0 = (v0 >= top) & (v0 < bottom) ? 1 - v_part : 0.0f;
        float wv1 = (v1 >= top) & (v1 < bottom) ? v_part : 0.0f;
        float begin = within(u0, 0, last_pair);
        float first = u0 == begin ? wu0 : u1 == begin ? wu1 : 0.0f;
        float second = u0 == begin ? wu1 : u0 == begin + 1 ? wu0 : 0.0f;
        int32_t column = (int32_t)begin * pixel;
        above[x] = (int32_t)within(v0, 0, last_v) * row + column;
        below[x] = (int32_t)within(v1, 0, last_v) * row + column;
        w00[x] = wv0 * first;
        w01[x] = wv0 * second;
        w10[x] = wv1 * first;
        w11[x] = wv1 * second;
        covered[x] = (wu0 + wu1) * (wv0 + wv1);
    }
}

INLINE int warp_row(Reader *reader, Scratch *scratch, int64_t y, float *restrict into) {
    const Pass *pass = reader->pass;
    int64_t width = reader->width, stride = reader->stride, channels = pass->channels;
    float *at = room(scratch, WARPED, (size_t)(stride * 44));
    if (!at) return 0;
    WarpRow taps = {{(int32_t *)at, (int32_t *)at + stride},
                    {{at + 2 * stride, at + 3 * stride}, {at + 4 * stride, at + 5 * stride}},
                    at + 6 * stride,
                    {(uint32_t *)at + 7 * stride, (uint32_t *)at + 8 * stride},
                    {(uint32_t *)at + 9 * stride, (uint32_t *)at + 10 * stride}};
    const Pixels *pixels = &reader->pixels;
    warp_taps(reader, y, (int32_t)pixels->row, (int32_t)pixels->pixel, &taps);
    int num_rows = pass->resample == NEAREST ? 1 : 2;
    if (reader->is_packed) {
        int64_t last = pixels->limit - pixels->base - 8;
        int32_t limit = last < INT32_MAX ? (int32_t)last : INT32_MAX;
        for (int k = 0; k < num_rows; k++) {
            const int32_t *restrict offset = taps.offset[k];
            int32_t beyond = 0;
#pragma omp simd reduction(| : beyond)
            for (int64_t x = 0; x < width; x++) beyond |= offset[x] > limit;
            if (beyond)
                gather_pairs_near_the_end(pixels, offset, taps.first[k], taps.second[k], width);
            else
                reader->machine.gather_pairs(pixels->base, offset, pixels->pixel, taps.first[k],
                                             taps.second[k], width);
        }
        blend(&taps, num_rows, into, into + stride, into + 2 * stride, width);
    }
    for (int64_t c = 0; c < channels && !reader->is_packed; c++) {
        float *restrict plane = into + c * stride;
        for (int k = 0; k < num_rows; k++)
            reader->machine.gather_pairs(pixels->base + c * pixels->row * reader->source.height,
                                         taps.offset[k], 4, taps.first[k], taps.second[k], width);
        blend_plane(&taps, num_rows, plane, width);
    }
    for (int64_t c = 0; c < channels; c++) {
        float fill = pass->padding[c], *restrict plane = into + c * stride;
        const float *restrict covered = taps.covered;
        if (fill == 0) continue;
#pragma omp simd
        for (int64_t x = 0; x < width; x++) plane[x] += (1 - covered[x]) * fill;
    }
    return 1;
}

/* The source of a warp as planes of floats, or as 4-byte pixels where three planes of bytes allow it. */
INLINE int pack_source(Reader *reader, Scratch *scratch) {
    const Source *source = &reader->source;
    reader->is_packed = source->type == UINT8 && source->channels == 3;
    if (source->width > 1 && direct_pixels(source, &reader->pixels)) return 1;
    int64_t planes = reader->is_packed ? 1 : source->channels, area = source->width * source->height;
    if (area > INT32_MAX / 4) return 0;
    char *at = room(scratch, PLANES, (size_t)(planes * area + 1) * 4);
    if (!at) return 0;
    memset(at + planes * area * 4, 0, 4); /* the second pixel of a pair in an image one pixel wide */
    for (int64_t v = 0; v < source->height; v++) {
        if (reader->is_packed)
            pack_row(source, v, (uint32_t *)at + v * source->width);
        else
            load_row(source, v, 0, source->width, (float *)at + v * source->width, area);
    }
    reader->pixels = (Pixels){(const uint8_t *)at, source->width * 4, 4, INT32_MAX, 0,
                              (const uint8_t *)at + (planes * area + 1) * 4};
    return 1;
}

/* Before a warp that shrinks the image: the visible part, resized to planes of floats. On return the
 * reader's source is those planes; `matrix` and `visible` are changed to match. */
INLINE int reduce(Reader *reader, Scratch *scratch, const double *reduction, double *matrix,
                  double *visible) {
    double low[2], high[2], step[2];
    int64_t size[2], all[2] = {reader->source.height, reader->source.width};
    for (int i = 0; i < 2; i++) {
        low[i] = (double)whole(floor(visible[i]), 0, all[i] - 1);
        high[i] = (double)whole(ceil(visible[i + 2]), (int64_t)low[i] + 1, all[i]);
        size[i] = (int64_t)ceil((high[i] - low[i]) / reduction[i] - 1e-9);
        size[i] = size[i] < 1 ? 1 : size[i];
        step[i] = (high[i] - low[i]) / (double)size[i];
    }
    Reader smaller = *reader;
    smaller.height = size[0];
    smaller.width = size[1];
    smaller.stride = padded(size[1]);
    double seen[4] = {low[0], low[1], high[0], high[1]};
    double to_source[9] = {step[1], 0, low[1], 0, step[0], low[0], 0, 0, 1};
    if (!begin_resize(&smaller, scratch, to_source, BILINEAR, seen, seen)) return 0;
    int64_t channels = reader->source.channels, stride = smaller.stride;
    float *row = room(scratch, ROW, (size_t)(channels * stride) * 4);
    float *planes = room(scratch, PLANES, (size_t)(channels * size[0] * size[1] + 1) * 4);
    if (!row || !planes) return 0;
    planes[channels * size[0] * size[1]] = 0; /* as in pack_source */
    for (int64_t y = 0; y < size[0]; y++) {
        resize_row(&smaller, y, row);
        for (int64_t c = 0; c < channels; c++)
            memcpy(planes + (c * size[0] + y) * size[1], row + c * stride, (size_t)size[1] * 4);
    }
    /* matrix := inverse of to_source, times matrix */
    for (int i = 0; i < 3; i++) {
        matrix[i] = (matrix[i] - low[1] * matrix[6 + i]) / step[1];
        matrix[3 + i] = (matrix[3 + i] - low[0] * matrix[6 + i]) / step[0];
    }
    visible[0] = visible[1] = 0;
    visible[2] = (double)size[0];
    visible[3] = (double)size[1];
    reader->source = (Source){(const uint8_t *)planes, size[0], size[1], size[0] * size[1] * 4,
                              size[1] * 4, 4, channels, FLOAT32};
    reader->is_packed = 0;
    reader->pixels = (Pixels){(const uint8_t *)planes, size[1] * 4, 4, INT32_MAX, 0,
                              (const uint8_t *)(planes + channels * size[0] * size[1])};
    return 1;
}
