/* Writing: normalise, cast, erase. */
#pragma once

#include "machine.h"

INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

INLINE uint16_t to_bfloat16(float value) {
    uint32_t bits = bits_of(value);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Round to nearest even, also below the least normal number; beyond the largest becomes infinite. */
INLINE uint16_t to_float16(float value) {
    uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    float small, magnitude;
    memcpy(&magnitude, &bits, 4);
    small = magnitude + 0.5f; /* aligns the mantissa of a subnormal half with a float's last bits */
    uint32_t subnormal = bits_of(small) - 0x3f000000;
    uint32_t normal = (bits + 0xfff + (bits >> 13 & 1) - 0x38000000) >> 13;
    uint32_t half = bits < 0x38800000 ? subnormal : normal;
    return (uint16_t)(sign | (bits >= 0x47800000 ? 0x7c00 : half));
}

INLINE uint8_t to_uint8(float value) {
    value = value < 0 ? 0 : value * 255;
    return (uint8_t)(int32_t)rintf(value > 255 ? 255 : value);
}

#define AS_IT_IS(value) (value)

/* The rectangles over one channel of a row. */
#define ERASE(TYPE, CONVERT, PIXEL)                                                                 \
    for (int64_t e = 0; e < pass->num_rectangles; e++) {                                            \
        const int64_t *box = pass->rectangles + (n * pass->num_rectangles + e) * 4;                 \
        if (y < box[0] || y >= box[0] + box[2]) continue;                                           \
        int64_t left = box[1] < 0 ? 0 : box[1], right = box[1] + box[3];                            \
        right = right < num ? right : num;                                                          \
        TYPE fill = CONVERT(pass->fills[e * channels + c]);                                         \
        for (int64_t x = left; x < right; x++) PIXEL = fill;                                        \
    }

/* Each output type and layout its own loop: the compiler makes vector stores of the plain ones. */
#define WRITE(TYPE, CONVERT)                                                                        \
    do {                                                                                            \
        TYPE *to = (TYPE *)out + start;                                                       \
        if (step == 1) {                                                                            \
            for (int64_t c = 0; c < channels; c++) {                                                \
                TYPE *restrict plane = to + c * pass->out_stride[0];                                \
                const float *restrict from = row + c * stride;                                      \
                float scale = pass->scale[c], shift = pass->shift[c];                               \
                _Pragma("omp simd") for (int64_t x = 0; x < num; x++)                               \
                    plane[x] = CONVERT(from[x] * scale + shift);                                    \
            }                                                                                       \
        } else if (step == 3 && channels == 3 && pass->out_stride[0] == 1) {                        \
            const float *restrict red = row, *restrict green = row + stride;                        \
            const float *restrict blue = green + stride;                                            \
            float scale[3] = {pass->scale[0], pass->scale[1], pass->scale[2]};                      \
            float shift[3] = {pass->shift[0], pass->shift[1], pass->shift[2]};                      \
            TYPE *restrict pixel = to;                                                              \
            _Pragma("omp simd") for (int64_t x = 0; x < num; x++) {                                 \
                pixel[3 * x] = CONVERT(red[x] * scale[0] + shift[0]);                               \
                pixel[3 * x + 1] = CONVERT(green[x] * scale[1] + shift[1]);                         \
                pixel[3 * x + 2] = CONVERT(blue[x] * scale[2] + shift[2]);                          \
            }                                                                                       \
        } else {                                                                                    \
            for (int64_t c = 0; c < channels; c++)                                                  \
                for (int64_t x = 0; x < num; x++)                                                   \
                    to[c * pass->out_stride[0] + x * step] =                                        \
                        CONVERT(row[c * stride + x] * pass->scale[c] + pass->shift[c]);             \
        }                                                                                           \
        for (int64_t c = 0; c < channels; c++)                                                      \
            ERASE(TYPE, CONVERT, to[c * pass->out_stride[0] + x * step]);                           \
    } while (0)

/* Changes `row`. */
INLINE void write_row(const Pass *pass, int64_t n, int64_t y, float *row, int64_t stride,
                      Store store) {
    int64_t num = pass->width, channels = pass->channels, step = pass->out_stride[2];
    int64_t start = y * pass->out_stride[1];
    void *out = result_of(pass, n);
    float *aligned = (float *)out + start;
    if (pass->streams && (uintptr_t)aligned % 64 == 0) {
        int is_erased = 0;
        for (int64_t e = 0; e < pass->num_rectangles; e++) {
            const int64_t *box = pass->rectangles + (n * pass->num_rectangles + e) * 4;
            is_erased |= y >= box[0] && y < box[0] + box[2];
        }
        for (int64_t c = 0; c < channels; c++) {
            float *restrict value = row + c * stride, *to = aligned + c * pass->out_stride[0];
            float scale = pass->scale[c], shift = pass->shift[c];
            if (is_erased) {
#pragma omp simd
                for (int64_t x = 0; x < num; x++) value[x] = value[x] * scale + shift;
                ERASE(float, AS_IT_IS, value[x]);
                scale = 1;
                shift = -0.0f; /* which also leaves zeros their sign */
            }
            store(to, value, scale, shift, num);
        }
    } else if (pass->out_type == FLOAT32)
        WRITE(float, AS_IT_IS);
    else if (pass->out_type == BFLOAT16)
        WRITE(uint16_t, to_bfloat16);
    else if (pass->out_type == FLOAT16)
        WRITE(uint16_t, to_float16);
    else
        WRITE(uint8_t, to_uint8);
}
