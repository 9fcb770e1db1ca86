/* Colour: rows of planar floats in 0 .. 1. */
#pragma once

#include "pass.h"

static const float RED = 0.2989f, GREEN = 0.587f, BLUE = 0.114f;

INLINE float unit_range(float value) {
    value = value < 0 ? 0 : value;
    return value > 1 ? 1 : value;
}

/* One channel of HSV back to RGB, the hue in sixths of a turn. */
INLINE float hue_channel(float hue, float most, float chroma) {
    float k = hue - 6 * floorf(hue * (1.0f / 6));
    float ramp = k < 4 - k ? k : 4 - k;
    return most - chroma * unit_range(ramp);
}

/* As in kernels/colors.py. */
INLINE void turn_hue(float *restrict red, float *restrict green, float *restrict blue, int64_t num,
                     float turns) {
#pragma omp simd
    for (int64_t x = 0; x < num; x++) {
        float r = red[x], g = green[x], b = blue[x];
        float most = r > g ? r : g, least = r < g ? r : g;
        most = most > b ? most : b;
        least = least < b ? least : b;
        float chroma = most - least, inverse = chroma > 0 ? 1 / chroma : 0;
        float from_red = (g - b) * inverse, from_green = 2 + (b - r) * inverse;
        float from_blue = 4 + (r - g) * inverse;
        float hue = most == r ? from_red : most == g ? from_green : from_blue;
        hue += 6 * turns;
        red[x] = hue_channel(hue + 5, most, chroma);
        green[x] = hue_channel(hue + 3, most, chroma);
        blue[x] = hue_channel(hue + 1, most, chroma);
    }
}

INLINE float gray_sum(const float *restrict row, int64_t stride, int64_t num, int64_t channels) {
    float sum = 0;
    if (channels == 3) {
        const float *restrict green = row + stride, *restrict blue = green + stride;
#pragma omp simd reduction(+ : sum)
        for (int64_t x = 0; x < num; x++) sum += RED * row[x] + GREEN * green[x] + BLUE * blue[x];
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t x = 0; x < num; x++) sum += row[x];
    }
    return sum;
}

INLINE void recolor_row(const Pass *pass, float *row, int64_t stride, int64_t num, int32_t code,
                        float factor, float mean) {
    int64_t channels = pass->channels;
    int is_rgb = channels == 3;
    float *restrict red = row, *restrict green = row + stride, *restrict blue = row + 2 * stride;
    if (code == HUE) {
        if (is_rgb) turn_hue(red, green, blue, num, factor);
        return;
    }
    if (code == SATURATION) {
        if (!is_rgb) return;
#pragma omp simd
        for (int64_t x = 0; x < num; x++) {
            float gray = (1 - factor) * (RED * red[x] + GREEN * green[x] + BLUE * blue[x]);
            red[x] = unit_range(factor * red[x] + gray);
            green[x] = unit_range(factor * green[x] + gray);
            blue[x] = unit_range(factor * blue[x] + gray);
        }
        return;
    }
    if (code == GRAYSCALE) {
        if (!is_rgb) return;
#pragma omp simd
        for (int64_t x = 0; x < num; x++)
            red[x] = green[x] = blue[x] = RED * red[x] + GREEN * green[x] + BLUE * blue[x];
        return;
    }
    for (int64_t c = 0; c < channels; c++) {
        float *restrict value = row + c * stride;
        if (code == BRIGHTNESS) {
#pragma omp simd
            for (int64_t x = 0; x < num; x++) value[x] = unit_range(factor * value[x]);
        } else if (code == CONTRAST) {
            float offset = (1 - factor) * mean;
#pragma omp simd
            for (int64_t x = 0; x < num; x++) value[x] = unit_range(factor * value[x] + offset);
        } else if (code == INVERT) {
#pragma omp simd
            for (int64_t x = 0; x < num; x++) value[x] = 1 - value[x];
        } else if (code == POSTERIZE) {
#pragma omp simd
            for (int64_t x = 0; x < num; x++) {
                float level = floorf(value[x] * factor + 1e-5f);
                level = level < factor - 1 ? level : factor - 1;
                value[x] = level > 0 ? level / factor : 0;
            }
        } else if (code == SOLARIZE) {
#pragma omp simd
            for (int64_t x = 0; x < num; x++)
                value[x] = value[x] >= factor ? 1 - value[x] : value[x];
        }
    }
}
