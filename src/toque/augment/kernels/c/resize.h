/* Reading by an anti-aliased separable resize. */
#pragma once

#include "reader.h"

INLINE int begin_resize(Reader *reader, Scratch *scratch, const double *matrix, int64_t resample,
                        const double *visible, const double *readable) {
    Source *source = &reader->source;
    Taps *down = &reader->down, *across = &reader->across;
    reader->seen_from = whole(floor(visible[1]), 0, source->width - 1);
    reader->seen_num = whole(ceil(visible[3]), reader->seen_from + 1, source->width) - reader->seen_from;
    int64_t top = whole(floor(visible[0]), 0, source->height - 1);
    for (int64_t v = top; v < top + AHEAD; v++)
        prefetch_row(source, v, reader->seen_from, reader->seen_num);
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
    if (reader->is_direct && reader->machine.across) {
        if (!begin_shuffles(reader, scratch, across->offset, across->weight, across->most))
            return 0;
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
        if (reader->is_shuffled) {
            reader->machine.across(&reader->shuffles, base, limit, out, out + stride, out + 2 * stride);
            return;
        }
        int careful = reader->is_direct && v == source->height - 1;
        float *restrict red = out, *restrict green = out + stride, *restrict blue = green + stride;
        for (int64_t k = 0; k < across->most; k += 2) { /* two taps at a time: fewer trips to memory */
            int taps = k + 1 < across->most ? 2 : 1;
            const float *restrict w0 = across->weight + k * stride;
            const float *restrict w1 = w0 + (taps - 1) * stride;
            uint32_t *pixel[2] = {reader->gathered, reader->gathered + (taps - 1) * stride};
            for (int j = 0; j < taps; j++) {
                const int32_t *offset = across->offset + (k + j) * stride;
                if (careful)
                    gather_near_the_end(&reader->pixels, base, offset, pixel[j], num);
                else
                    reader->machine.gather(base, offset, pixel[j], num, limit);
            }
            const uint32_t *restrict p0 = pixel[0], *restrict p1 = pixel[1];
            if (k == 0 && taps == 2) {
#pragma omp simd
                for (int64_t x = 0; x < num; x++) {
                    red[x] = w0[x] * byte(p0[x], 0) + w1[x] * byte(p1[x], 0);
                    green[x] = w0[x] * byte(p0[x], 8) + w1[x] * byte(p1[x], 8);
                    blue[x] = w0[x] * byte(p0[x], 16) + w1[x] * byte(p1[x], 16);
                }
            } else if (k == 0) {
#pragma omp simd
                for (int64_t x = 0; x < num; x++) {
                    red[x] = w0[x] * byte(p0[x], 0);
                    green[x] = w0[x] * byte(p0[x], 8);
                    blue[x] = w0[x] * byte(p0[x], 16);
                }
            } else if (taps == 2) {
#pragma omp simd
                for (int64_t x = 0; x < num; x++) {
                    red[x] += w0[x] * byte(p0[x], 0) + w1[x] * byte(p1[x], 0);
                    green[x] += w0[x] * byte(p0[x], 8) + w1[x] * byte(p1[x], 8);
                    blue[x] += w0[x] * byte(p0[x], 16) + w1[x] * byte(p1[x], 16);
                }
            } else {
#pragma omp simd
                for (int64_t x = 0; x < num; x++) {
                    red[x] += w0[x] * byte(p0[x], 0);
                    green[x] += w0[x] * byte(p0[x], 8);
                    blue[x] += w0[x] * byte(p0[x], 16);
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
    for (; reader->next < down->end[y]; reader->next++) {
        prefetch_row(&reader->source, reader->next + AHEAD, reader->seen_from, reader->seen_num);
        resample_across(reader, reader->next);
    }
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
