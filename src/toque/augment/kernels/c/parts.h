/* Parts of images: toque.augment.parts, in the same bits. */
#pragma once

#include "pass.h"

typedef struct {
    const double *area, *ratio; /* T x B, of each try */
    const double *position;     /* 2 x B: down, across */
    const uint8_t *wanted;      /* B, or NULL for all */
    const int64_t *height, *width;
    int64_t *box; /* 4 x B: top, left, height, width */
    int64_t num_images, tries, least, tall;
} Parts;

INLINE void find_parts(const Parts *parts) {
    int64_t num = parts->num_images;
    for (int64_t n = 0; n < num; n++) {
        int64_t height = parts->height[n], width = parts->width[n], h = 0, w = 0;
        double pixels = (double)(height * width);
        int64_t tries = parts->wanted && !parts->wanted[n] ? 0 : parts->tries;
        for (int64_t k = 0; k < tries; k++) {
            double area = parts->area[k * num + n] * pixels, ratio = parts->ratio[k * num + n];
            int64_t first = (int64_t)rint(sqrt(area * ratio)), second = (int64_t)rint(sqrt(area / ratio));
            int64_t tall = parts->tall ? first : second, wide = parts->tall ? second : first;
            if (tall < parts->least || wide < parts->least || tall >= height + parts->least ||
                wide >= width + parts->least)
                continue;
            h = tall;
            w = wide;
            break;
        }
        parts->box[n] = (int64_t)(parts->position[n] * (double)(height - h + 1));
        parts->box[num + n] = (int64_t)(parts->position[num + n] * (double)(width - w + 1));
        parts->box[2 * num + n] = h;
        parts->box[3 * num + n] = w;
    }
}
