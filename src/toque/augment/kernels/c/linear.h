/* Colour as one matrix for each image.
 *
 * Every operation of the chain has a 3 x 4 matrix, but for a turn of the hue: that gets the matrix which
 * comes nearest to it on a grid of the picture's own pixels, taken through the chain so far. The grid
 * also gives the mean that a contrast needs. kernels/linear.py.
 */
#pragma once

#include "color.h"
#include "source.h"
#include "taps.h"

enum { GRID = 16, SAMPLES = GRID * GRID };
static const double RIDGE = 1e-3; /* how much of a rotation about gray is mixed in, for each sample */

/* The source pixels under a grid over the result: into[c * SAMPLES + i], in 0 .. 1. */
INLINE void sample_grid(const Pass *pass, int64_t n, const Source *source, float *into) {
    double m[9], visible[4];
    take(pass, pass->matrix, n, 9, m);
    take(pass, pass->visible, n, 4, visible);
    int64_t low_v = whole(floor(visible[0]), 0, source->height - 1);
    int64_t low_u = whole(floor(visible[1]), 0, source->width - 1);
    int64_t last_v = whole(ceil(visible[2]), low_v + 1, source->height) - 1;
    int64_t last_u = whole(ceil(visible[3]), low_u + 1, source->width) - 1;
    for (int64_t i = 0; i < SAMPLES; i++) {
        double x = ((double)(i % GRID) + 0.5) * (double)pass->width / GRID;
        double y = ((double)(i / GRID) + 0.5) * (double)pass->height / GRID;
        double depth = m[6] * x + m[7] * y + m[8];
        double across = floor((m[0] * x + m[1] * y + m[2]) / depth + 1e-6);
        double down = floor((m[3] * x + m[4] * y + m[5]) / depth + 1e-6);
        /* Clamped as integers: whatever the coordinate, also no number, nothing leaves the source. */
        int64_t u = (int64_t)whole(across, low_u, last_u), v = (int64_t)whole(down, low_v, last_v);
        u = u < low_u ? low_u : u > last_u ? last_u : u;
        v = v < low_v ? low_v : v > last_v ? last_v : v;
        const uint8_t *at = source->base + v * source->row + u * source->pixel;
        for (int64_t c = 0; c < source->channels; c++, at += source->channel) {
            float value = (float)*at * (1.0f / 255);
            if (source->type == FLOAT32) memcpy(&value, at, 4);
            into[c * SAMPLES + i] = value;
        }
    }
}

/* mixing := the matrix of one more operation (rows of 3 and a constant), after what it was. */
INLINE void append(double mixing[3][4], const double operation[3][4]) {
    double before[3][4];
    memcpy(before, mixing, sizeof before);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++)
            mixing[i][j] = operation[i][0] * before[0][j] + operation[i][1] * before[1][j] +
                           operation[i][2] * before[2][j] + (j == 3 ? operation[i][3] : 0);
}

/* The least-squares matrix from colours to others, drawn a little towards `usual`. */
INLINE void fit(const float *from, const float *to, const double usual[3][4], double result[3][4]) {
    double square[4][4], product[3][4];
    for (int j = 0; j < 4; j++) {
        for (int i = 0; i <= j; i++) {
            const float *a = from + i * SAMPLES, *b = from + j * SAMPLES; /* row 3 is all ones */
            double sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t x = 0; x < SAMPLES; x++) sum += (double)a[x] * (double)b[x];
            square[i][j] = square[j][i] = sum + (i == j ? RIDGE * SAMPLES : 0);
        }
        for (int i = 0; i < 3; i++) {
            const float *a = to + i * SAMPLES, *b = from + j * SAMPLES;
            double sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t x = 0; x < SAMPLES; x++) sum += (double)a[x] * (double)b[x];
            product[i][j] = sum + RIDGE * SAMPLES * usual[i][j];
        }
    }
    /* result * square = product; square is positive definite, so no pivots are needed. */
    for (int k = 0; k < 4; k++) {
        for (int i = k + 1; i < 4; i++) {
            double part = square[k][i] / square[k][k];
            for (int j = k; j < 4; j++) square[j][i] -= part * square[j][k];
            for (int j = 0; j < 3; j++) product[j][i] -= part * product[j][k];
        }
    }
    for (int j = 0; j < 3; j++)
        for (int k = 3; k >= 0; k--) {
            double value = product[j][k];
            for (int i = k + 1; i < 4; i++) value -= result[j][i] * square[i][k];
            result[j][k] = value / square[k][k];
        }
}

/* Turns about the gray axis: what a hue is drawn to where the colours do not say. */
INLINE void rotation(double turns, double result[3][4]) {
    double angle = 6.283185307179586 * turns, cosine = cos(angle), third = (1 - cosine) / 3;
    double side = sin(angle) / 1.7320508075688772;
    double rows[3][4] = {{cosine + third, third - side, third + side, 0},
                         {third + side, cosine + third, third - side, 0},
                         {third - side, third + side, cosine + third, 0}};
    memcpy(result, rows, sizeof rows);
}

INLINE int fit_colors(const Pass *pass, int64_t n, const Source *source, Scratch *scratch,
                      double mixing[3][4]) {
    int64_t channels = pass->channels, area = (channels < 3 ? 3 : channels) * SAMPLES;
    float *from = room(scratch, SAMPLED, (size_t)(2 * area + 2 * SAMPLES) * 4);
    if (!from) return 0;
    float *to = from + area + SAMPLES;
    sample_grid(pass, n, source, from);
    double gray[3] = {RED, GREEN, BLUE}, one[3][4] = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}};
    memcpy(mixing, one, sizeof one);
    for (int64_t k = 0; k < pass->num_operations; k++) {
        int32_t code = pass->codes[n * pass->num_operations + k];
        float factor = pass->factors[n * pass->num_operations + k], mean = 0;
        if (code == NONE || (channels != 3 && (code == HUE || code == SATURATION || code == GRAYSCALE)))
            continue;
        if (code == CONTRAST) mean = gray_sum(from, SAMPLES, SAMPLES, channels) / SAMPLES;
        memcpy(to, from, (size_t)(channels * SAMPLES) * 4);
        recolor_row(pass, to, SAMPLES, SAMPLES, code, factor, mean);
        double step[3][4], scale = code == INVERT ? -1 : code == GRAYSCALE ? 0 : (double)factor;
        double constant = code == INVERT ? 1 : code == CONTRAST ? (1 - scale) * (double)mean : 0;
        double mixed = code == SATURATION || code == GRAYSCALE ? 1 - scale : 0;
        for (int i = 0; i < 3; i++) {
            for (int j = 0; j < 3; j++) step[i][j] = mixed * gray[j] + (i == j ? scale : 0);
            step[i][3] = constant;
        }
        if (code == HUE) {
            double usual[3][4];
            rotation((double)factor, usual);
            for (int64_t x = 0; x < SAMPLES; x++) from[3 * SAMPLES + x] = 1;
            fit(from, to, usual, step);
        }
        append(mixing, step);
        memcpy(from, to, (size_t)(channels * SAMPLES) * 4);
    }
    return 1;
}

/* The colours of one row through the matrix, then into 0 .. 1. */
INLINE void mix_row(int64_t channels, float *row, int64_t stride, int64_t num,
                    const double mixing[3][4]) {
    if (channels != 3) {
        float scale = (float)mixing[0][0], constant = (float)mixing[0][3];
#pragma omp simd
        for (int64_t x = 0; x < channels * stride; x++) row[x] = unit_range(scale * row[x] + constant);
        return;
    }
    float m[3][4];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) m[i][j] = (float)mixing[i][j];
    float *restrict red = row, *restrict green = row + stride, *restrict blue = green + stride;
#pragma omp simd
    for (int64_t x = 0; x < num; x++) {
        float r = red[x], g = green[x], b = blue[x];
        red[x] = unit_range(m[0][0] * r + m[0][1] * g + m[0][2] * b + m[0][3]);
        green[x] = unit_range(m[1][0] * r + m[1][1] * g + m[1][2] * b + m[1][3]);
        blue[x] = unit_range(m[2][0] * r + m[2][1] * g + m[2][2] * b + m[2][3]);
    }
}
