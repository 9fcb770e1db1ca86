/* The pass over the pixels on the CPU: read (shift, resize or warp), colour, normalise, erase, cast.
 *
 * kernels/reference.py defines what every step means; the headers here do the same, an output row at a time,
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
#include "color.h"
#include "copy.h"
#include "draw.h"
#include "linear.h"
#include "parts.h"
#include "warp.h"
#include "write.h"

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
    Reader reader = {.pass = pass, .machine = machine, .width = pass->width, .height = pass->height};
    reader.stride = padded(pass->width);
    reader.source = source_of(pass, n);
    double matrix[9], visible[4], readable[4], mixing[3][4] = {{0}};
    if (pass->linear && !fit_colors(pass, n, &reader.source, scratch, mixing)) return 0;
    /* A border that continues the image continues what is readable, whatever of it is shown. */
    int continues = pass->kind == SHIFT && pass->padding_mode != CONSTANT;
    take(pass, pass->matrix, n, 9, matrix);
    take(pass, pass->readable, n, 4, readable);
    take(pass, continues ? pass->readable : pass->visible, n, 4, visible);
    if (pass->kind == SHIFT) {
        if (!begin_shift(&reader, scratch, matrix, visible)) return 0;
        if (copies(&reader)) return copy_image(&reader, n, matrix, visible);
    } else if (pass->kind == RESIZE) {
        if (!begin_resize(&reader, scratch, matrix, pass->resample, visible, readable))
            return 0;
    } else {
        double reduction[2];
        take(pass, pass->reduction, n, 2, reduction);
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
    int64_t num_codes = pass->linear ? 0 : pass->num_operations;
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
            if (pass->linear) mix_row(pass->channels, into, reader.stride, pass->width, mixing);
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
    return run_images(pass, first, last, (Machine){gather_portable, gather_pairs_portable, NULL, NULL, store_portable});
}
#ifdef X86
__attribute__((target("avx2,fma,bmi,bmi2"))) static int run_avx2(const Pass *pass, int64_t first,
                                                                 int64_t last) {
    int fine = run_images(pass, first, last, (Machine){gather_avx2, gather_pairs_avx2, NULL, NULL, store_avx2});
    _mm_sfence(); /* stores past the caches become visible to other threads */
    return fine;
}
__attribute__((target(AVX512 ",prefer-vector-width=512"))) static int run_avx512(const Pass *pass, int64_t first, int64_t last) {
    int fine = run_images(pass, first, last, (Machine){gather_avx512, gather_pairs_avx512, across_avx512, copy_avx512, store_avx512});
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

void toque_sweep(const int64_t *index, const int64_t *epoch, const uint64_t *key,
                 const uint64_t *number, float *into, int64_t num_images, int64_t num_blocks,
                 int level) {
#ifdef X86
    if (level == 2)
        return sweep_blocks_avx512(index, epoch, key, number, into, num_images, num_blocks);
#endif
    (void)level;
    sweep_blocks(index, epoch, key, number, into, num_images, num_blocks);
}

int64_t toque_parts_size(void) { return (int64_t)sizeof(Parts); }

void toque_parts(const Parts *parts) { find_parts(parts); }

/* Images first .. last - 1; 0 when there was no memory for the scratch. */
int toque_run(const Pass *pass, int64_t first, int64_t last, int level) {
#ifdef X86
    if (level == 2) return run_avx512(pass, first, last);
    if (level == 1) return run_avx2(pass, first, last);
#endif
    (void)level;
    return run_portable(pass, first, last);
}
