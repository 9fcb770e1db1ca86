/* Numbers in [0, 1) for every image and block of four: toque.random.sweep_blocks, in the same bits. */
#pragma once

#include "pass.h"

/* Philox4x32-10 (Salmon 2011): `words` are the counter, and then random. */
INLINE void philox(uint32_t words[4], uint32_t key_0, uint32_t key_1) {
    for (int round = 0; round < 10; round++) {
        uint64_t product_0 = (uint64_t)words[0] * 0xD2511F53u;
        uint64_t product_1 = (uint64_t)words[2] * 0xCD9E8D57u;
        words[0] = (uint32_t)(product_1 >> 32) ^ words[1] ^ key_0;
        words[1] = (uint32_t)product_1;
        words[2] = (uint32_t)(product_0 >> 32) ^ words[3] ^ key_1;
        words[3] = (uint32_t)product_0;
        key_0 += 0x9E3779B9u;
        key_1 += 0xBB67AE85u;
    }
}

/* into[(n * num_blocks + b) * 4 + i], multiples of 2^-24. */
INLINE void sweep_blocks(const int64_t *index, const int64_t *epoch, const uint64_t *key,
                         const uint64_t *number, float *into, int64_t num_images,
                         int64_t num_blocks) {
    for (int64_t n = 0; n < num_images; n++) {
        for (int64_t b = 0; b < num_blocks; b++, into += 4) {
            uint32_t words[4] = {(uint32_t)index[n], (uint32_t)((uint64_t)index[n] >> 32),
                                 (uint32_t)epoch[n], (uint32_t)number[b]};
            philox(words, (uint32_t)key[2 * b], (uint32_t)key[2 * b + 1]);
            for (int i = 0; i < 4; i++) into[i] = (float)(words[i] >> 8) * (1.0f / (1 << 24));
        }
    }
}
