/* Tables: which source rows or columns make up each row or column of a resize. */
#pragma once

#include "pass.h"

typedef struct {
    int64_t num, most, stride; /* results, taps of each, distance between taps in the tables */
    int64_t low, high;         /* results low .. high - 1 are visible, the others get the padding */
    int32_t *first, *end;      /* of the source, for each result */
    float *weight;             /* weight[k * stride + i] */
    int32_t *offset;           /* offset[k * stride + i]: first + k, kept inside the source */
} Taps;

INLINE double filter(int64_t resample, double distance) {
    double a = fabs(distance);
    if (resample == NEAREST) return 1.0;
    if (resample == BILINEAR) return a < 1 ? 1 - a : 0.0;
    double near = (1.5 * a - 2.5) * a * a + 1, far = ((2.5 - 0.5 * a) * a - 4) * a + 2;
    return a < 1 ? near : a < 2 ? far : 0.0;
}

INLINE int64_t whole(double value, int64_t low, int64_t high) {
    if (!(value > (double)low)) return low;
    return value < (double)high ? (int64_t)value : high;
}

/* step and start: result centre i lies at step * (i + 0.5) + start in the source. */
INLINE int make_taps(Scratch *scratch, int buffer, int64_t resample, double step, double start,
                     int64_t num, int64_t source_size, const double seen[2], const double readable[2],
                     Taps *taps) {
    double stretch = resample == NEAREST || fabs(step) < 1 ? 1.0 : fabs(step);
    double support = (resample == BICUBIC ? 2.0 : 1.0) * stretch;
    int64_t low = whole(floor(readable[0] + 1e-6), 0, source_size - 1);
    int64_t high = whole(ceil(readable[1] - 1e-6), low + 1, source_size);
    int64_t most = resample == NEAREST ? 1 : whole(2 * support + 2, 1, high - low);
    int64_t stride = padded(num);
    size_t cells = (size_t)(most * stride);
    char *at = room(scratch, buffer, (size_t)stride * 24 + cells * 8);
    if (!at) return 0;
    double *restrict centre = (double *)at, *restrict total = centre + stride;
    int32_t *restrict first = (int32_t *)(total + stride), *restrict end = first + stride;
    float *restrict weight = (float *)(end + stride);
    int32_t *restrict offset = (int32_t *)(weight + cells);
    double dlow = (double)low, dhigh = (double)high;
#pragma omp simd
    for (int64_t i = 0; i < stride; i++) {
        double c = step * ((double)i + 0.5) + start, from, to;
        if (resample == NEAREST) {
            from = floor(c + 1e-9);
            from = from > dhigh - 1 ? dhigh - 1 : from;
            from = from < dlow ? dlow : from;
            to = from + 1;
        } else {
            from = floor(c - support + 0.5);
            from = from < dlow ? dlow : from > dhigh ? dhigh : from;
            to = floor(c + support + 0.5);
            to = to > dhigh ? dhigh : to < dlow ? dlow : to;
        }
        centre[i] = c;
        total[i] = 0;
        /* Clamped as integers: whatever the coordinate, also no number, nothing leaves the source. */
        int32_t begin = (int32_t)from, stop = (int32_t)to;
        begin = begin < (int32_t)low ? (int32_t)low : begin;
        begin = begin > (int32_t)high ? (int32_t)high : begin;
        stop = stop < begin ? begin : stop;
        first[i] = begin;
        stop = stop > (int32_t)high ? (int32_t)high : stop;
        end[i] = stop - begin > (int32_t)most ? begin + (int32_t)most : stop;
    }
    /* As many as any of them has, which is often two less than there was room for. */
    int32_t longest = 1;
#pragma omp simd reduction(max : longest)
    for (int64_t i = 0; i < stride; i++)
        longest = longest > end[i] - first[i] ? longest : end[i] - first[i];
    most = longest;
    for (int64_t k = 0; k < most; k++) {
        float *restrict w = weight + k * stride;
        int32_t *restrict o = offset + k * stride;
#pragma omp simd
        for (int64_t i = 0; i < stride; i++) {
            int32_t at_k = first[i] + (int32_t)k;
            double value = filter(resample, ((double)at_k + 0.5 - centre[i]) / stretch);
            value = at_k < end[i] ? value : 0.0;
            total[i] += value;
            w[i] = (float)value;
            o[i] = at_k < (int32_t)high ? at_k : (int32_t)high - 1;
        }
    }
    taps->low = num;
    taps->high = 0;
    for (int64_t i = 0; i < stride; i++) {
        int visible = i < num && centre[i] > seen[0] && centre[i] < seen[1] && total[i] != 0;
        if (visible && taps->low == num) taps->low = i;
        if (visible) taps->high = i + 1;
        total[i] = visible ? 1 / total[i] : 0;
    }
    for (int64_t k = 0; k < most; k++) {
        float *restrict w = weight + k * stride;
#pragma omp simd
        for (int64_t i = 0; i < stride; i++) w[i] = (float)(w[i] * total[i]);
    }
    taps->num = num;
    taps->most = most;
    taps->stride = stride;
    taps->first = first;
    taps->end = end;
    taps->weight = weight;
    taps->offset = offset;
    return 1;
}
