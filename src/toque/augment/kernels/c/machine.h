/* What is written by hand for each instruction set: gathers of bytes, and a store. */
#pragma once

#include "pass.h"

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
 * base + offset[i] + pixel, for pixels of 3 or 4 bytes. Reads 8 bytes.
 *
 * The offsets of a warp lie on several rows. Plain loads put together in a vector take a third of the
 * time of the machine's own gather where that is done in microcode. */

typedef void (*GatherPairs)(const uint8_t *base, const int32_t *offset, int64_t pixel,
                            uint32_t *first, uint32_t *second, int64_t num);

INLINE int64_t eight_bytes(const uint8_t *at) {
    int64_t pair;
    memcpy(&pair, at, 8);
    return pair;
}

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
        const int32_t *at = offset + i;
        __m256i pair =
            _mm256_setr_epi64x(eight_bytes(base + at[0]), eight_bytes(base + at[1]),
                               eight_bytes(base + at[2]), eight_bytes(base + at[3]));
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
        const int32_t *at = offset + i;
        __m512i pair =
            _mm512_setr_epi64(eight_bytes(base + at[0]), eight_bytes(base + at[1]),
                              eight_bytes(base + at[2]), eight_bytes(base + at[3]),
                              eight_bytes(base + at[4]), eight_bytes(base + at[5]),
                              eight_bytes(base + at[6]), eight_bytes(base + at[7]));
        __m512i next = _mm512_srl_epi64(pair, bits);
        _mm256_storeu_si256((__m256i *)(first + i), _mm512_cvtepi64_epi32(pair));
        _mm256_storeu_si256((__m256i *)(second + i), _mm512_cvtepi64_epi32(next));
    }
    gather_pairs_portable(base, offset + i, pixel, first + i, second + i, num - i);
}
#endif

/* ---- A row of 3-byte pixels, weighted: what a resize does across, without a table of pixels. ----
 *
 * The columns that a resize reads are the same in every row of an image. Where those of 16 results lie
 * within one vector of bytes, it is loaded once for all their taps, and what picks them out of it is
 * worked out once for the image. */

typedef struct {
    int64_t num_groups, taps; /* of 16 results */
    const int32_t *start;     /* of each group, in bytes */
    const uint32_t *order;    /* order[(group * taps + k) * 16 + i]: three of the bytes after start */
    const float *weight;      /* weight[k * stride + i] */
    int64_t stride;
} Shuffles;

/* Whether all groups lie within a vector; fills start and order. */
static int plan_shuffles(const int32_t *offset, int64_t stride, int64_t taps, int32_t *start,
                         uint32_t *order) {
    for (int64_t i = 0; i < stride; i += 16) {
        int32_t low = INT32_MAX;
        for (int64_t k = 0; k < taps; k += taps > 1 ? taps - 1 : 1) /* the first and the last */
            for (int64_t j = i; j < i + 16; j += 15)
                low = offset[k * stride + j] < low ? offset[k * stride + j] : low;
        uint32_t beyond = 0;
        for (int64_t k = 0; k < taps; k++) {
            const int32_t *at = offset + k * stride + i;
            uint32_t *to = order + (i / 16 * taps + k) * 16;
#pragma omp simd reduction(| : beyond)
            for (int64_t j = 0; j < 16; j++) {
                uint32_t from = (uint32_t)(at[j] - low);
                beyond |= from > 61;
                to[j] = from * 0x010101u + 0x020100u;
            }
        }
        if (beyond) return 0;
        start[i / 16] = low;
    }
    return 1;
}

typedef void (*Across)(const Shuffles *shuffles, const uint8_t *base, const uint8_t *limit,
                       float *red, float *green, float *blue);

typedef void (*Copy)(const Shuffles *shuffles, const uint8_t *base, const uint8_t *limit,
                     const float *scale, const float *shift, float *to, int64_t plane, int64_t num);

#ifdef X86
/* Sums in the order of resample_across, so in its bits. */
__attribute__((target(AVX512))) static void across_avx512(const Shuffles *shuffles,
                                                          const uint8_t *base,
                                                          const uint8_t *limit, float *red,
                                                          float *green, float *blue) {
    const __m512i low = _mm512_set1_epi32(255);
    const __mmask64 three = 0x7777777777777777;
    int64_t taps = shuffles->taps, stride = shuffles->stride;
    for (int64_t g = 0; g < shuffles->num_groups; g++) {
        const uint8_t *from = base + shuffles->start[g];
        int64_t left = limit - from;
        __m512i bytes = left >= 64 ? _mm512_loadu_si512(from)
                                   : _mm512_maskz_loadu_epi8(((__mmask64)1 << left) - 1, from);
        const uint32_t *order = shuffles->order + g * taps * 16;
        const float *weight = shuffles->weight + g * 16;
        __m512 sum[3] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t k = 0; k < taps; k += 2) {
            __m512i p = _mm512_maskz_permutexvar_epi8(three, _mm512_loadu_si512(order + k * 16), bytes);
            __m512 w = _mm512_loadu_ps(weight + k * stride);
            __m512 pair[3] = {_mm512_cvtepi32_ps(_mm512_and_si512(p, low)),
                              _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(p, 8), low)),
                              _mm512_cvtepi32_ps(_mm512_srli_epi32(p, 16))};
            if (k + 1 < taps) {
                p = _mm512_maskz_permutexvar_epi8(three, _mm512_loadu_si512(order + k * 16 + 16), bytes);
                __m512 v = _mm512_loadu_ps(weight + (k + 1) * stride);
                __m512 next[3] = {_mm512_cvtepi32_ps(_mm512_and_si512(p, low)),
                                  _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(p, 8), low)),
                                  _mm512_cvtepi32_ps(_mm512_srli_epi32(p, 16))};
                for (int c = 0; c < 3; c++) {
                    pair[c] = _mm512_fmadd_ps(w, pair[c], _mm512_mul_ps(v, next[c]));
                    sum[c] = k ? _mm512_add_ps(sum[c], pair[c]) : pair[c];
                }
            } else
                for (int c = 0; c < 3; c++)
                    sum[c] = k ? _mm512_fmadd_ps(w, pair[c], sum[c]) : _mm512_mul_ps(w, pair[c]);
        }
        _mm512_storeu_ps(red + g * 16, sum[0]);
        _mm512_storeu_ps(green + g * 16, sum[1]);
        _mm512_storeu_ps(blue + g * 16, sum[2]);
    }
}

/* A row with one tap each, times scale, plus shift, straight into three planes of the result; without a
 * base, of zeros. */
__attribute__((target(AVX512))) static void copy_avx512(const Shuffles *shuffles, const uint8_t *base,
                                                        const uint8_t *limit, const float *scale,
                                                        const float *shift, float *to, int64_t plane,
                                                        int64_t num) {
    const __m512i low = _mm512_set1_epi32(255);
    for (int64_t g = 0; g < shuffles->num_groups; g++) {
        __m512i p = _mm512_setzero_si512();
        int64_t lanes = num - g * 16;
        __mmask16 kept = lanes >= 16 ? 0xffff : (__mmask16)((1 << lanes) - 1);
        if (base) {
            const uint8_t *from = base + shuffles->start[g];
            int64_t left = limit - from;
            p = left >= 64 ? _mm512_loadu_si512(from)
                           : _mm512_maskz_loadu_epi8(((__mmask64)1 << left) - 1, from);
            p = _mm512_permutexvar_epi8(_mm512_loadu_si512(shuffles->order + g * 16), p);
        }
        __m512 w = _mm512_loadu_ps(shuffles->weight + g * 16);
        for (int c = 0; c < 3; c++, p = _mm512_srli_epi32(p, 8)) {
            __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_and_si512(p, low)), w);
            value = _mm512_fmadd_ps(value, _mm512_set1_ps(scale[c]), _mm512_set1_ps(shift[c]));
            _mm512_mask_storeu_ps(to + c * plane + g * 16, kept, value);
        }
    }
}
#endif

/* ---- The store: num floats times scale, plus shift, to an address that is a multiple of 64. ----
 *
 * Past the caches: a batch of results is larger than they are, and an ordinary store would first read
 * what it is about to overwrite. */

typedef void (*Store)(float *to, const float *from, float scale, float shift, int64_t num);

static void store_portable(float *to, const float *from, float scale, float shift, int64_t num) {
    for (int64_t i = 0; i < num; i++) to[i] = from[i] * scale + shift;
}

#ifdef X86
__attribute__((target("avx2,fma"))) static void store_avx2(float *to, const float *from, float scale,
                                                           float shift, int64_t num) {
    const __m256 a = _mm256_set1_ps(scale), b = _mm256_set1_ps(shift);
    int64_t i = 0;
    for (; i + 8 <= num; i += 8)
        _mm256_stream_ps(to + i, _mm256_fmadd_ps(_mm256_loadu_ps(from + i), a, b));
    for (; i < num; i++) to[i] = from[i] * scale + shift;
}

__attribute__((target(AVX512))) static void store_avx512(float *to, const float *from, float scale,
                                                         float shift, int64_t num) {
    const __m512 a = _mm512_set1_ps(scale), b = _mm512_set1_ps(shift);
    int64_t i = 0;
    for (; i + 16 <= num; i += 16)
        _mm512_stream_ps(to + i, _mm512_fmadd_ps(_mm512_loadu_ps(from + i), a, b));
    for (; i < num; i++) to[i] = from[i] * scale + shift;
}
#endif

/* What is written by hand for an instruction set. */
typedef struct {
    Gather gather;
    GatherPairs gather_pairs;
    Across across; /* or NULL: gather */
    Copy copy;     /* or NULL */
    Store store;
} Machine;
