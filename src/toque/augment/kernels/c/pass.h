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
    int64_t num_operations, linear, num_rectangles;
    int64_t height, width, out_type, streams;
    int64_t out_stride[3];           /* channel, row, pixel: in elements */
    const int64_t *image;            /* B addresses */
    const int64_t *source_size;      /* B x (height, width) */
    const int64_t *source_stride;    /* B x (channel, row, pixel): in bytes */
    const double *matrix;            /* B x 9: result -> source */
    const double *visible;           /* B x (top, left, bottom, right) */
    const double *readable;          /* B x (top, left, bottom, right) */
    const double *reduction;         /* B x (y, x): for a warp, what a resize before it divides by */
    const float *padding;            /* C, in 0 .. 1 */
    const int32_t *codes;            /* B x operations */
    const float *factors;            /* B x operations */
    const float *scale, *shift;      /* C */
    const int64_t *rectangles;       /* B x E x (top, left, height, width) */
    const float *fills;              /* E x C */
    const int64_t *out;              /* B addresses */
} Pass;

typedef struct {
    const uint8_t *base;
    int64_t height, width, channel, row, pixel; /* strides in bytes */
    int64_t channels, type;
} Source;

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
