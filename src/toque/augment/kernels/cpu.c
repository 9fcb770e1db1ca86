/* The pass over the pixels on the CPU: read (shift, resize or warp), colour, normalise, erase, cast.
 *
 * kernels/reference.py defines what every step means; this file does the same, an output row at a time,
 * so that a row stays in the nearest cache from its first step to its last. It is plain C: the loops
 * marked "omp simd" are turned into vector code by the compiler, once for each instruction set below,
 * and the best one the machine has is chosen at run time. The only thing written by hand for each
 * instruction set is the gather of 4-byte words.
 *
 * Memory: nothing is written outside `out` and this call's own scratch; nothing is read outside the
 * images: rows and columns are clamped where the tables are made, and the 4-byte read of a 3-byte
 * pixel is moved back for the last pixel of an image (see Pixels).
 *
 * Letters: B images, C channels, K taps, x and y in the result, u and v in the source.
 */
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
    int64_t num_operations, num_rectangles;
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

enum { TAPS_Y, TAPS_X, RING, ROW, LOADED, PLANE, PLANES, PACKED, WARPED, NUM_BUFFERS };

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

/* ---- The gather: into[i] = the 4 bytes at base + offset[i]. ----
 *
 * Offsets of a resize ascend or descend, and neighbours are close: up to 16 of them lie in one vector,
 * which is loaded once and shuffled. That is several times faster than the machine's own gather, which
 * serves where they lie too far apart or a whole vector would end beyond `limit`. */

typedef void (*Gather)(const uint8_t *base, const int32_t *offset, uint32_t *into, int64_t num,
                       const uint8_t *limit);

static void gather_portable(const uint8_t *base, const int32_t *offset, uint32_t *into, int64_t num,
                            const uint8_t *limit) {
    (void)limit;
    for (int64_t i = 0; i < num; i++) memcpy(into + i, base + offset[i], 4);
}

#ifdef X86
__attribute__((target("avx2"))) static void gather_avx2(const uint8_t *base, const int32_t *offset,
                                                        uint32_t *into, int64_t num,
                                                        const uint8_t *limit) {
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 0, 0, 0,
                                            0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    const __m256i bytes = _mm256_set1_epi32(0x03020100);
    int64_t i = 0;
    for (; i + 8 <= num; i += 8) {
        __m256i at = _mm256_loadu_si256((const __m256i *)(offset + i)), pixels;
        int32_t low = offset[i] < offset[i + 3] ? offset[i] : offset[i + 3];
        int32_t high = offset[i + 4] < offset[i + 7] ? offset[i + 4] : offset[i + 7];
        __m256i start = _mm256_set_m128i(_mm_set1_epi32(high), _mm_set1_epi32(low));
        __m256i from_start = _mm256_sub_epi32(at, start);
        int far = _mm256_movemask_epi8(_mm256_cmpgt_epi32(from_start, _mm256_set1_epi32(12))) |
                  _mm256_movemask_epi8(_mm256_cmpgt_epi32(_mm256_setzero_si256(), from_start));
        if (!far && base + low + 16 <= limit && base + high + 16 <= limit) {
            __m256i loaded =
                _mm256_set_m128i(_mm_loadu_si128((const __m128i *)(base + high)),
                                 _mm_loadu_si128((const __m128i *)(base + low)));
            __m256i order = _mm256_add_epi8(_mm256_shuffle_epi8(from_start, spread), bytes);
            pixels = _mm256_shuffle_epi8(loaded, order);
        } else {
            pixels = _mm256_i32gather_epi32((const int *)base, at, 1);
        }
        _mm256_storeu_si256((__m256i *)(into + i), pixels);
    }
    gather_portable(base, offset + i, into + i, num - i, limit);
}

#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx2,fma,bmi,bmi2"
__attribute__((target(AVX512))) static void gather_avx512(const uint8_t *base, const int32_t *offset,
                                                          uint32_t *into, int64_t num,
                                                          const uint8_t *limit) {
    const __m512i spread = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    const __m512i bytes = _mm512_set1_epi32(0x03020100);
    int64_t i = 0;
    for (; i + 16 <= num; i += 16) {
        __m512i at = _mm512_loadu_si512(offset + i), pixels;
        int32_t low = offset[i] < offset[i + 15] ? offset[i] : offset[i + 15];
        __m512i from_start = _mm512_sub_epi32(at, _mm512_set1_epi32(low));
        if (!_mm512_cmpgt_epu32_mask(from_start, _mm512_set1_epi32(60)) &&
            base + low + 64 <= limit) {
            __m512i order = _mm512_add_epi8(_mm512_shuffle_epi8(from_start, spread), bytes);
            pixels = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(base + low));
        } else {
            pixels = _mm512_i32gather_epi32(at, base, 1);
        }
        _mm512_storeu_si512(into + i, pixels);
    }
    gather_portable(base, offset + i, into + i, num - i, limit);
}
#endif

/* Two neighbouring pixels at once: first[i] and second[i] are the 4 bytes at base + offset[i] and at
 * base + offset[i] + pixel, for pixels of 3 or 4 bytes. Reads 8 bytes. */

typedef void (*GatherPairs)(const uint8_t *base, const int32_t *offset, int64_t pixel,
                            uint32_t *first, uint32_t *second, int64_t num);

static void gather_pairs_portable(const uint8_t *base, const int32_t *offset, int64_t pixel,
                                  uint32_t *first, uint32_t *second, int64_t num) {
    for (int64_t i = 0; i < num; i++) {
        memcpy(first + i, base + offset[i], 4);
        memcpy(second + i, base + offset[i] + pixel, 4);
    }
}

#ifdef X86
__attribute__((target("avx2"))) static void gather_pairs_avx2(const uint8_t *base,
                                                              const int32_t *offset, int64_t pixel,
                                                              uint32_t *first, uint32_t *second,
                                                              int64_t num) {
    const __m256i lower = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    const __m128i bits = _mm_cvtsi32_si128((int)pixel * 8);
    int64_t i = 0;
    for (; i + 4 <= num; i += 4) {
        __m128i at = _mm_loadu_si128((const __m128i *)(offset + i));
        __m256i pair = _mm256_i32gather_epi64((const long long *)base, at, 1);
        __m256i next = _mm256_srl_epi64(pair, bits);
        pair = _mm256_permutevar8x32_epi32(pair, lower);
        next = _mm256_permutevar8x32_epi32(next, lower);
        _mm_storeu_si128((__m128i *)(first + i), _mm256_castsi256_si128(pair));
        _mm_storeu_si128((__m128i *)(second + i), _mm256_castsi256_si128(next));
    }
    gather_pairs_portable(base, offset + i, pixel, first + i, second + i, num - i);
}

__attribute__((target(AVX512))) static void gather_pairs_avx512(const uint8_t *base,
                                                                const int32_t *offset,
                                                                int64_t pixel, uint32_t *first,
                                                                uint32_t *second, int64_t num) {
    const __m128i bits = _mm_cvtsi32_si128((int)pixel * 8);
    int64_t i = 0;
    for (; i + 8 <= num; i += 8) {
        __m256i at = _mm256_loadu_si256((const __m256i *)(offset + i));
        __m512i pair = _mm512_i32gather_epi64(at, base, 1);
        __m512i next = _mm512_srl_epi64(pair, bits);
        _mm256_storeu_si256((__m256i *)(first + i), _mm512_cvtepi64_epi32(pair));
        _mm256_storeu_si256((__m256i *)(second + i), _mm512_cvtepi64_epi32(next));
    }
    gather_pairs_portable(base, offset + i, pixel, first + i, second + i, num - i);
}
#endif

/* ---- The store: num floats to an address that is a multiple of 64, past the caches. ----
 *
 * A batch of results is larger than the caches, and an ordinary store would first read what it is about
 * to overwrite. */

typedef void (*Store)(float *to, const float *from, int64_t num);

static void store_portable(float *to, const float *from, int64_t num) {
    memcpy(to, from, (size_t)num * 4);
}

#ifdef X86
__attribute__((target("avx2"))) static void store_avx2(float *to, const float *from, int64_t num) {
    int64_t i = 0;
    for (; i + 8 <= num; i += 8) _mm256_stream_ps(to + i, _mm256_loadu_ps(from + i));
    memcpy(to + i, from + i, (size_t)(num - i) * 4);
}

__attribute__((target(AVX512))) static void store_avx512(float *to, const float *from, int64_t num) {
    int64_t i = 0;
    for (; i + 16 <= num; i += 16) _mm512_stream_ps(to + i, _mm512_loadu_ps(from + i));
    memcpy(to + i, from + i, (size_t)(num - i) * 4);
}
#endif

/* What is written by hand for an instruction set. */
typedef struct {
    Gather gather;
    GatherPairs gather_pairs;
    Store store;
} Machine;

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

/* As gather_pairs where 8 bytes may end beyond the image: byte by byte. */
static void gather_pairs_near_the_end(const Pixels *pixels, const int32_t *offset, uint32_t *first,
                                      uint32_t *second, int64_t num) {
    for (int64_t i = 0; i < num; i++) {
        const uint8_t *at = pixels->base + offset[i];
        int64_t left = pixels->limit - at;
        uint8_t bytes[8] = {0};
        memcpy(bytes, at, (size_t)(left < 8 ? left : 8));
        memcpy(first + i, bytes, 4);
        memcpy(second + i, bytes + pixels->pixel, 4);
    }
}

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

/* ---- Tables: which source rows or columns make up each row or column of the result. ---- */

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

/* ---- Reading: a row of the result, planar, before any colour. ---- */

typedef struct {
    const Pass *pass;
    Source source;
    Machine machine;
    int64_t width, height, stride; /* of the result, and of a row of one channel */
    /* resize */
    Taps down, across;
    int is_packed;  /* three channels of bytes, gathered as whole pixels */
    int is_direct;  /* ... where they lie */
    Pixels pixels;
    float *ring;     /* rows of the source, resampled across */
    int64_t ring_rows, next;
    uint32_t *gathered;
    float *loaded;
    /* shift */
    int64_t x_low, x_high; /* columns that show the image */
    int32_t *column;       /* the offset of the pixel each column shows */
    /* warp */
    float matrix[9];
    int32_t shown[4];
} Reader;

INLINE void fill_columns(const Pass *pass, float *row, int64_t stride, int64_t from, int64_t to) {
    for (int64_t c = 0; c < pass->channels; c++)
        for (int64_t x = from; x < to; x++) row[c * stride + x] = pass->padding[c];
}

/* -- resize -- */

INLINE int begin_resize(Reader *reader, Scratch *scratch, const double *matrix, int64_t resample,
                        const double *visible, const double *readable) {
    Source *source = &reader->source;
    Taps *down = &reader->down, *across = &reader->across;
    for (int axis = 0; axis < 2; axis++) { /* y, then x */
        double seen[2] = {visible[axis], visible[axis + 2]};
        double read[2] = {readable[axis], readable[axis + 2]};
        if (!make_taps(scratch, axis ? TAPS_X : TAPS_Y, resample, axis ? matrix[0] : matrix[4],
                       axis ? matrix[2] : matrix[5], axis ? reader->width : reader->height,
                       axis ? source->width : source->height, seen, read, axis ? across : down))
            return 0;
    }
    reader->is_packed = source->type == UINT8 && source->channels == 3;
    reader->is_direct = direct_pixels(source, &reader->pixels);
    reader->ring_rows = down->most + 1;
    size_t row = (size_t)(source->channels * reader->stride) * 4;
    reader->ring = room(scratch, RING, row * (size_t)reader->ring_rows);
    reader->gathered = room(scratch, PACKED, (size_t)(across->stride * 8));
    size_t wide = (size_t)padded(source->width);
    reader->loaded = room(scratch, LOADED, wide * 4 * (size_t)source->channels);
    if (!reader->ring || !reader->gathered || !reader->loaded) return 0;
    /* Bytes of whole pixels are weighted as they are: 1 / 255 goes into the weights. */
    float unit = reader->is_packed ? 1.0f / 255 : 1.0f;
    int32_t bytes = reader->is_direct ? 3 : 4;
    for (int64_t i = 0; i < across->most * across->stride; i++) {
        across->weight[i] *= unit;
        across->offset[i] *= bytes;
    }
    reader->next = matrix[4] < 0 ? INT64_MAX : 0;
    return 1;
}

/* One source row resampled across, into its place in the ring. */
INLINE void resample_across(Reader *reader, int64_t v) {
    const Taps *across = &reader->across;
    const Source *source = &reader->source;
    int64_t stride = reader->stride, num = stride; /* whole vectors: the tables are padded */
    float *restrict out = reader->ring + v % reader->ring_rows * source->channels * stride;
    if (reader->is_packed) {
        const uint8_t *base = reader->pixels.base + v * reader->pixels.row;
        if (!reader->is_direct) {
            base = (const uint8_t *)reader->loaded;
            pack_row(source, v, (uint32_t *)reader->loaded);
        }
        const uint8_t *limit =
            reader->is_direct ? reader->pixels.limit : base + 4 * padded(source->width);
        int careful = reader->is_direct && v == source->height - 1;
        uint32_t *restrict pixel = reader->gathered;
        float *restrict red = out, *restrict green = out + stride, *restrict blue = green + stride;
        for (int64_t k = 0; k < across->most; k++) {
            const int32_t *offset = across->offset + k * across->stride;
            const float *restrict weight = across->weight + k * across->stride;
            if (careful)
                gather_near_the_end(&reader->pixels, base, offset, pixel, num);
            else
                reader->machine.gather(base, offset, pixel, num, limit);
            if (k == 0) {
#pragma omp simd
                for (int64_t x = 0; x < num; x++) {
                    red[x] = weight[x] * (float)(int32_t)(pixel[x] & 255);
                    green[x] = weight[x] * (float)(int32_t)(pixel[x] >> 8 & 255);
                    blue[x] = weight[x] * (float)(int32_t)(pixel[x] >> 16 & 255);
                }
            } else {
#pragma omp simd
                for (int64_t x = 0; x < num; x++) {
                    red[x] += weight[x] * (float)(int32_t)(pixel[x] & 255);
                    green[x] += weight[x] * (float)(int32_t)(pixel[x] >> 8 & 255);
                    blue[x] += weight[x] * (float)(int32_t)(pixel[x] >> 16 & 255);
                }
            }
        }
        return;
    }
    int64_t wide = padded(source->width);
    load_row(source, v, 0, source->width, reader->loaded, wide);
    for (int64_t c = 0; c < source->channels; c++) {
        float *restrict row = out + c * stride;
        float *restrict value = (float *)reader->gathered;
        for (int64_t k = 0; k < across->most; k++) {
            const float *restrict weight = across->weight + k * across->stride;
            reader->machine.gather((const uint8_t *)(reader->loaded + c * wide),
                           across->offset + k * across->stride, reader->gathered, num,
                           (const uint8_t *)(reader->loaded + (c + 1) * wide));
            if (k == 0) {
#pragma omp simd
                for (int64_t x = 0; x < num; x++) row[x] = weight[x] * value[x];
            } else {
#pragma omp simd
                for (int64_t x = 0; x < num; x++) row[x] += weight[x] * value[x];
            }
        }
    }
}

INLINE void resize_row(Reader *reader, int64_t y, float *restrict into) {
    const Taps *down = &reader->down;
    const Pass *pass = reader->pass;
    int64_t length = reader->source.channels * reader->stride;
    if (y < down->low || y >= down->high) {
        fill_columns(pass, into, reader->stride, 0, reader->width);
        return;
    }
    /* Rows are asked for in the order of the source, so the ring moves in one direction. */
    if (reader->next == INT64_MAX || reader->next < down->first[y]) reader->next = down->first[y];
    for (; reader->next < down->end[y]; reader->next++) resample_across(reader, reader->next);
    int64_t num = down->end[y] - down->first[y];
    for (int64_t k = 0; k < num; k++) {
        float weight = down->weight[k * down->stride + y];
        int64_t slot = (down->first[y] + k) % reader->ring_rows;
        const float *restrict row = reader->ring + slot * length;
        if (k == 0 && num > 1) {
            float weight_1 = down->weight[down->stride + y];
            const float *restrict row_1 =
                reader->ring + (down->first[y] + 1) % reader->ring_rows * length;
#pragma omp simd
            for (int64_t i = 0; i < length; i++) into[i] = weight * row[i] + weight_1 * row_1[i];
            k = 1;
        } else if (k == 0) {
#pragma omp simd
            for (int64_t i = 0; i < length; i++) into[i] = weight * row[i];
        } else {
#pragma omp simd
            for (int64_t i = 0; i < length; i++) into[i] += weight * row[i];
        }
    }
    if (reader->across.low > 0) fill_columns(pass, into, reader->stride, 0, reader->across.low);
    if (reader->across.high < reader->width)
        fill_columns(pass, into, reader->stride, reader->across.high, reader->width);
}

/* -- shift: whole pixels -- */

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
    reader->column = room(scratch, TAPS_X, (size_t)(reader->stride * 4));
    reader->loaded = room(scratch, LOADED, (size_t)(padded(source->width) * 4 * source->channels));
    if (!reader->gathered || !reader->column || !reader->loaded) return 0;
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
    }
    return 1;
}

INLINE void shift_row(Reader *reader, const double *matrix, const double *visible, int64_t y,
                      float *restrict into) {
    const Pass *pass = reader->pass;
    const Source *source = &reader->source;
    int64_t stride = reader->stride, low = reader->x_low, high = reader->x_high;
    int64_t v = bring_inside(shifted(matrix[4], matrix[5], y), (int64_t)rint(visible[0]),
                             (int64_t)rint(visible[2]), pass->padding_mode);
    if (v < 0 || v >= source->height || high <= low) {
        fill_columns(pass, into, stride, 0, reader->width);
        return;
    }
    if (reader->is_direct) {
        const uint8_t *base = reader->pixels.base + v * reader->pixels.row;
        if (v == source->height - 1)
            gather_near_the_end(&reader->pixels, base, reader->column, reader->gathered, stride);
        else
            reader->machine.gather(base, reader->column, reader->gathered, stride,
                                   reader->pixels.limit);
        const uint32_t *restrict pixel = reader->gathered;
        float *restrict red = into, *restrict green = into + stride, *restrict blue = green + stride;
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
    if (low > 0) fill_columns(pass, into, stride, 0, low);
    if (high < reader->width) fill_columns(pass, into, stride, high, reader->width);
}

/* -- warp -- */

/* What a row of a warp needs, an array as long as the row each: where the pair of pixels above and the
 * pair below begin, and the weights of the four. */
typedef struct {
    int32_t *offset[2];
    float *weight[2][2];
    float *covered;
    uint32_t *first, *second;
} WarpRow;

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
    float *at = room(scratch, WARPED, (size_t)(stride * 36));
    if (!at) return 0;
    WarpRow taps = {{(int32_t *)at, (int32_t *)at + stride},
                    {{at + 2 * stride, at + 3 * stride}, {at + 4 * stride, at + 5 * stride}},
                    at + 6 * stride,
                    (uint32_t *)at + 7 * stride,
                    (uint32_t *)at + 8 * stride};
    const Pixels *pixels = &reader->pixels;
    warp_taps(reader, y, (int32_t)pixels->row, (int32_t)pixels->pixel, &taps);
    int num_rows = pass->resample == NEAREST ? 1 : 2;
    memset(into, 0, (size_t)(channels * stride) * 4);
    for (int k = 0; k < num_rows; k++) {
        const int32_t *restrict offset = taps.offset[k];
        const float *restrict w0 = taps.weight[k][0], *restrict w1 = taps.weight[k][1];
        if (reader->is_packed) {
            int64_t last = pixels->limit - pixels->base - 8;
            int32_t limit = last < INT32_MAX ? (int32_t)last : INT32_MAX, beyond = 0;
#pragma omp simd reduction(| : beyond)
            for (int64_t x = 0; x < width; x++) beyond |= offset[x] > limit;
            if (beyond)
                gather_pairs_near_the_end(pixels, offset, taps.first, taps.second, width);
            else
                reader->machine.gather_pairs(pixels->base, offset, pixels->pixel, taps.first,
                                             taps.second, width);
            const uint32_t *restrict p0 = taps.first, *restrict p1 = taps.second;
            float *restrict red = into, *restrict green = into + stride;
            float *restrict blue = green + stride;
#pragma omp simd
            for (int64_t x = 0; x < width; x++) {
                float a = w0[x] * (1.0f / 255), b = w1[x] * (1.0f / 255);
                red[x] += a * (float)(int32_t)(p0[x] & 255) + b * (float)(int32_t)(p1[x] & 255);
                green[x] += a * (float)(int32_t)(p0[x] >> 8 & 255) +
                            b * (float)(int32_t)(p1[x] >> 8 & 255);
                blue[x] += a * (float)(int32_t)(p0[x] >> 16 & 255) +
                           b * (float)(int32_t)(p1[x] >> 16 & 255);
            }
            continue;
        }
        for (int64_t c = 0; c < channels; c++) {
            float *restrict plane = into + c * stride;
            const float *restrict v0 = (const float *)taps.first;
            const float *restrict v1 = (const float *)taps.second;
            reader->machine.gather_pairs(pixels->base + c * pixels->row * reader->source.height,
                                         offset, 4, taps.first, taps.second, width);
#pragma omp simd
            for (int64_t x = 0; x < width; x++) plane[x] += w0[x] * v0[x] + w1[x] * v1[x];
        }
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

/* ---- Colour: rows of planar floats in 0 .. 1. ---- */

static const float RED = 0.2989f, GREEN = 0.587f, BLUE = 0.114f;

INLINE float unit_range(float value) {
    value = value < 0 ? 0 : value;
    return value > 1 ? 1 : value;
}

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
        /* in sixths of a turn, as in reference._turn_hue */
        float hue = most == r ? from_red : most == g ? from_green : from_blue;
        hue += 6 * turns;
        float shifted_hue[3] = {hue + 5, hue + 3, hue + 1};
        float result[3];
        for (int c = 0; c < 3; c++) {
            float k = shifted_hue[c] - 6 * floorf(shifted_hue[c] * (1.0f / 6));
            float ramp = k < 4 - k ? k : 4 - k;
            result[c] = most - chroma * unit_range(ramp);
        }
        red[x] = result[0];
        green[x] = result[1];
        blue[x] = result[2];
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

/* ---- Writing: normalise, cast, erase. ---- */

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

#define AS_IT_IS(value) (value)

/* Changes `row`. */
INLINE void write_row(const Pass *pass, int64_t n, int64_t y, float *row, int64_t stride,
                      Store store) {
    int64_t num = pass->width, channels = pass->channels, step = pass->out_stride[2];
    int64_t start = y * pass->out_stride[1];
    void *out = (void *)(intptr_t)pass->out[n];
    float *aligned = (float *)out + start;
    if (pass->streams && (uintptr_t)aligned % 64 == 0) {
        for (int64_t c = 0; c < channels; c++) {
            float *restrict value = row + c * stride, scale = pass->scale[c], shift = pass->shift[c];
#pragma omp simd
            for (int64_t x = 0; x < num; x++) value[x] = value[x] * scale + shift;
            ERASE(float, AS_IT_IS, value[x]);
            store(aligned + c * pass->out_stride[0], value, num);
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

/* ---- One image, and all of them. ---- */

INLINE int read_row(Reader *reader, Scratch *scratch, int64_t kind, const double *matrix,
                    const double *visible, int64_t y, float *into) {
    if (kind == SHIFT)
        shift_row(reader, matrix, visible, y, into);
    else if (kind == RESIZE)
        resize_row(reader, y, into);
    else
        return warp_row(reader, scratch, y, into);
    return 1;
}

INLINE int run_image(const Pass *pass, int64_t n, Scratch *scratch, Machine machine) {
    const int64_t *stride = pass->source_stride + 3 * n, *size = pass->source_size + 2 * n;
    Reader reader = {.pass = pass, .machine = machine, .width = pass->width, .height = pass->height};
    reader.stride = padded(pass->width);
    reader.source = (Source){(const uint8_t *)(intptr_t)pass->image[n], size[0], size[1], stride[0],
                             stride[1], stride[2], pass->channels, pass->source_type};
    double matrix[9], visible[4];
    /* A border that continues the image continues what is readable, whatever of it is shown. */
    int continues = pass->kind == SHIFT && pass->padding_mode != CONSTANT;
    memcpy(matrix, pass->matrix + 9 * n, sizeof matrix);
    memcpy(visible, (continues ? pass->readable : pass->visible) + 4 * n, sizeof visible);
    if (pass->kind == SHIFT) {
        if (!begin_shift(&reader, scratch, matrix, visible)) return 0;
    } else if (pass->kind == RESIZE) {
        if (!begin_resize(&reader, scratch, matrix, pass->resample, visible, pass->readable + 4 * n))
            return 0;
    } else {
        const double *reduction = pass->reduction + 2 * n;
        int shrinks = reduction[0] > 1 || reduction[1] > 1;
        if (shrinks ? !reduce(&reader, scratch, reduction, matrix, visible)
                    : !pack_source(&reader, scratch))
            return 0;
        begin_warp(&reader, matrix, visible);
    }
    int64_t area = pass->channels * reader.stride;
    float *row = room(scratch, ROW, (size_t)area * 4);
    if (!row) return 0;
    const int32_t *codes = pass->codes + n * pass->num_operations;
    const float *factors = pass->factors + n * pass->num_operations;
    int64_t num_codes = pass->num_operations;
    int has_contrast = 0;
    for (int64_t k = 0; k < num_codes; k++) has_contrast |= codes[k] == CONTRAST;
    float *picture = has_contrast ? room(scratch, PLANE, (size_t)(area * pass->height) * 4) : NULL;
    if (has_contrast && !picture) return 0;
    int upwards = pass->kind == RESIZE && matrix[4] < 0; /* rows in the order of the source */
    /* A contrast needs the mean of the whole picture, so the rows are gone through once up to the first
     * contrast, then from each contrast up to the next. Without one, a single time. */
    int64_t from = 0, to = 0;
    float mean = 0;
    for (int sweep = 0, more = 1; more; sweep++) {
        from = to;
        to = sweep ? from + 1 : from;
        while (to < num_codes && codes[to] != CONTRAST) to++;
        more = to < num_codes;
        double sum = 0;
        for (int64_t i = 0; i < pass->height; i++) {
            int64_t y = upwards ? pass->height - 1 - i : i;
            float *into = has_contrast ? picture + y * area : row;
            if (!sweep && !read_row(&reader, scratch, pass->kind, matrix, visible, y, into)) return 0;
            for (int64_t k = from; k < to; k++)
                recolor_row(pass, into, reader.stride, pass->width, codes[k], factors[k], mean);
            if (more)
                sum += (double)gray_sum(into, reader.stride, pass->width, pass->channels);
            else
                write_row(pass, n, y, into, reader.stride, machine.store);
        }
        mean = (float)(sum / ((double)pass->height * (double)pass->width));
    }
    return 1;
}

INLINE int run_images(const Pass *pass, int64_t first, int64_t last, Machine machine) {
    Scratch scratch;
    memset(&scratch, 0, sizeof scratch);
    int fine = 1;
    for (int64_t n = first; n < last && fine; n++) fine = run_image(pass, n, &scratch, machine);
    for (int i = 0; i < NUM_BUFFERS; i++) free(scratch.at[i]);
    return fine;
}

/* Everything above is inlined into each of these, and so compiled for its instruction set. */
static int run_portable(const Pass *pass, int64_t first, int64_t last) {
    return run_images(pass, first, last, (Machine){gather_portable, gather_pairs_portable, store_portable});
}
#ifdef X86
__attribute__((target("avx2,fma,bmi,bmi2"))) static int run_avx2(const Pass *pass, int64_t first,
                                                                 int64_t last) {
    int fine = run_images(pass, first, last, (Machine){gather_avx2, gather_pairs_avx2, store_avx2});
    _mm_sfence(); /* stores past the caches become visible to other threads */
    return fine;
}
__attribute__((target(AVX512 ",prefer-vector-width=512"))) static int run_avx512(const Pass *pass, int64_t first, int64_t last) {
    int fine = run_images(pass, first, last, (Machine){gather_avx512, gather_pairs_avx512, store_avx512});
    _mm_sfence(); /* stores past the caches become visible to other threads */
    return fine;
}
#endif

/* ---- What Python calls. ---- */

/* 0 portable, 1 AVX2 (since 2013), 2 AVX-512 with byte shuffles (since 2019). */
int toque_best_level(void) {
#ifdef X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vbmi"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

int64_t toque_pass_size(void) { return (int64_t)sizeof(Pass); }

/* What this library was built from; cpu.py compares it with the file beside it. */
const char *toque_source_sha256(void) { return TOQUE_SOURCE_SHA256; }

/* Images first .. last - 1; 0 when there was no memory for the scratch. */
int toque_run(const Pass *pass, int64_t first, int64_t last, int level) {
#ifdef X86
    if (level == 2) return run_avx512(pass, first, last);
    if (level == 1) return run_avx2(pass, first, last);
#endif
    (void)level;
    return run_portable(pass, first, last);
}
