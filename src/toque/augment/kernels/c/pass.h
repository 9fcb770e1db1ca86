/* What Python hands over, and the scratch of one call. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* ---- What Python hands over; kernels/cpu.py has the same fields in the same order. ---- */

enum { SHIFT, RESIZE, WARP };
enum { NEAREST, BILINEAR, BICUBIC };
enum { CONSTANT, EDGE, REFLECT, SYMMETRIC };
enum { FLOAT32, UINT8, BFLOAT16, FLOAT16 };
enum { NONE, BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAYSCALE, INVERT, POSTERIZE, SOLARIZE };

typedef struct {
    int64_t channels, source_type, kind, resample, padding_mode;
    int64_t num_operations, linear, num_rectangles, batch;
    int64_t height, width, out_type, streams;
    int64_t source_step;             /* 6, or 0 where all pictures are alike */
    int64_t image_step, out_step;    /* from a picture to the next, and a result: in bytes */
    int64_t out_stride[3];           /* channel, row, pixel: in elements */
    const int64_t *source;           /* address, height, width, and bytes to the next channel, row, pixel */
    const int64_t *rows;             /* B: which pictures and results are meant; NULL: all */
    const double *matrix;            /* 9 x B: result -> source */
    const double *visible;           /* (top, left, bottom, right) x B */
    const double *readable;          /* (top, left, bottom, right) x B */
    const double *reduction;         /* (y, x) x B: what a resize before a warp divides by; else NULL */
    const float *padding;            /* C, in 0 .. 1 */
    const int32_t *codes;            /* B x operations */
    const float *factors;            /* B x operations */
    const float *scale, *shift;      /* C */
    const int64_t *rectangles;       /* B x E x (top, left, height, width) */
    const float *fills;              /* E x C */
    void *out;
} Pass;


typedef struct {
    const uint8_t *base;
    int64_t height, width, channel, row, pixel; /* strides in bytes */
    int64_t channels, type;
} Source;

/* Picture n of this call, and where its result goes. */
INLINE int64_t row_of(const Pass *pass, int64_t n) { return pass->rows ? pass->rows[n] : n; }
INLINE Source source_of(const Pass *pass, int64_t n) {
    const int64_t *at = pass->source + pass->source_step * row_of(pass, n);
    const uint8_t *base = (const uint8_t *)(intptr_t)at[0] + pass->image_step * row_of(pass, n);
    return (Source){base, at[1], at[2], at[3], at[4], at[5], pass->channels, pass->source_type};
}
/* The numbers of picture n in a table of columns. */
INLINE void take(const Pass *pass, const double *table, int64_t n, int64_t num, double *into) {
    for (int64_t k = 0; k < num; k++) into[k] = table[k * pass->batch + n];
}
INLINE void *result_of(const Pass *pass, int64_t n) {
    return (uint8_t *)pass->out + pass->out_step * row_of(pass, n);
}

/* ---- Scratch: a few buffers that grow and are used again for the next image. ---- */

enum { TAPS_Y, TAPS_X, RING, ROW, LOADED, PLANE, PLANES, PACKED, WARPED, SAMPLED, SHUFFLES, NUM_BUFFERS };

typedef struct {
    void *at[NUM_BUFFERS];
    size_t size[NUM_BUFFERS];
} Scratch;

static void *room(Scratch *scratch, int which, size_t bytes) {
    if (bytes > scratch->size[which]) {
        free(scratch->at[which]);
        size_t rounded = (bytes + 127) / 64 * 64; /* at least 64 bytes of slack */
        scratch->at[which] = aligned_alloc(64, rounded);
        scratch->size[which] = scratch->at[which] ? rounded - 64 : 0;
    }
    return scratch->at[which];
}

/* Row buffers are planar, each channel padded to a multiple of 16 floats. */
INLINE int64_t padded(int64_t n) { return (n + 15) & ~(int64_t)15; }
