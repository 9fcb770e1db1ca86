/* Numbers in [0, 1) for every image and block of four: toque.random.sweep_blocks, in the same bits. */
#pragma once

#include "machine.h"

enum { LANES = 16 }; /* images at once */

/* Philox4x32-10 (Salmon 2011): `words` are the counters of LANES images, and then random. */
INLINE void philox(uint32_t words[4][LANES], uint32_t key_0, uint32_t key_1) {
    for (int round = 0; round < 10; round++) {
#pragma omp simd
        for (int i = 0; i < LANES; i++) {
            uint64_t product_0 = (uint64_t)words[0][i] * 0xD2511F53u;
            uint64_t product_1 = (uint64_t)words[2][i] * 0xCD9E8D57u;
            words[0][i] = (uint32_t)(product_1 >> 32) ^ words[1][i] ^ key_0;
            words[1][i] = (uint32_t)product_1;
            words[2][i] = (uint32_t)(product_0 >> 32) ^ words[3][i] ^ key_1;
            words[3][i] = (uint32_t)product_0;
        }
        key_0 += 0x9E3779B9u;
        key_1 += 0xBB67AE85u;
    }
}

/* into[(b * 4 + i) * num_images + n], multiples of 2^-24. */
INLINE void sweep_blocks(const int64_t *index, const int64_t *epoch, const uint64_t *key,
                         const uint64_t *number, float *into, int64_t num_images,
                         int64_t num_blocks) {
    for (int64_t first = 0; first < num_images; first += LANES) {
        int64_t last = first + LANES < num_images ? first + LANES : num_images;
        uint32_t counter[3][LANES];
        for (int64_t i = 0; i < LANES; i++) {
            int64_t n = first + i < last ? first + i : last - 1;
            counter[0][i] = (uint32_t)index[n];
            counter[1][i] = (uint32_t)((uint64_t)index[n] >> 32);
            counter[2][i] = (uint32_t)epoch[n];
        }
        for (int64_t b = 0; b < num_blocks; b++) {
            uint32_t words[4][LANES];
            memcpy(words, counter, sizeof counter);
            for (int i = 0; i < LANES; i++) words[3][i] = (uint32_t)number[b];
            philox(words, (uint32_t)key[2 * b], (uint32_t)key[2 * b + 1]);
            for (int i = 0; i < 4; i++) {
                float *to = into + (b * 4 + i) * num_images + first;
                for (int64_t n = 0; n < last - first; n++)
                    to[n] = (float)(int32_t)(words[i][n] >> 8) * (1.0f / (1 << 24));
            }
        }
    }
}

#ifdef X86
/* The same by hand, eight images at once: a product of 32-bit words is one instruction on words that
 * lie in the lower halves of 64 bits, whatever the upper ones hold; compilers put it together. */
__attribute__((target(AVX512))) static void sweep_blocks_avx512(
    const int64_t *index, const int64_t *epoch, const uint64_t *key, const uint64_t *number,
    float *into, int64_t num_images, int64_t num_blocks) {
    const __m512i multiply_0 = _mm512_set1_epi64(0xD2511F53), multiply_1 = _mm512_set1_epi64(0xCD9E8D57);
    for (int64_t n = 0; n < num_images; n += 8) {
        int64_t left = num_images - n;
        __mmask8 kept = left >= 8 ? 0xff : (__mmask8)((1 << left) - 1);
        __m512i image = _mm512_maskz_loadu_epi64(kept, index + n);
        __m512i epochs = _mm512_maskz_loadu_epi64(kept, epoch + n);
        for (int64_t b = 0; b < num_blocks; b++) {
            __m512i words[4] = {image, _mm512_srli_epi64(image, 32), epochs,
                                _mm512_set1_epi64((int64_t)number[b])};
            uint32_t key_0 = (uint32_t)key[2 * b], key_1 = (uint32_t)key[2 * b + 1];
            for (int round = 0; round < 10; round++) {
                __m512i product_0 = _mm512_mul_epu32(words[0], multiply_0);
                __m512i product_1 = _mm512_mul_epu32(words[2], multiply_1);
                words[0] = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(product_1, 32), words[1]),
                                            _mm512_set1_epi64(key_0));
                words[1] = product_1;
                words[2] = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(product_0, 32), words[3]),
                                            _mm512_set1_epi64(key_1));
                words[3] = product_0;
                key_0 += 0x9E3779B9u;
                key_1 += 0xBB67AE85u;
            }
            for (int i = 0; i < 4; i++) {
                __m256i bits = _mm256_srli_epi32(_mm512_cvtepi64_epi32(words[i]), 8);
                __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(bits), _mm256_set1_ps(1.0f / (1 << 24)));
                _mm256_mask_storeu_ps(into + (b * 4 + i) * num_images + n, kept, value);
            }
        }
    }
}
#endif
