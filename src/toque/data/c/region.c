/* A part of a JPEG, decoded by libjpeg-turbo: rows above the part pass the Huffman decoder alone,
 * rows below it are not looked at, and of each row only the blocks that the part touches become
 * pixels. The pixels are those of a whole decoding, bit for bit.
 *
 * Compiled where the headers of libjpeg-turbo are found when toque is installed.
 * Source: libjpeg.txt of libjpeg-turbo, "Partial image decompression".
 */
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

#ifndef LIBJPEG_TURBO_VERSION_NUMBER
#error "the part of an image is decoded by functions that only libjpeg-turbo has"
#elif LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "libjpeg-turbo 2.1 or newer is needed: older ones crash on some files (CVE-2020-35538)"
#endif

#ifndef TOQUE_SOURCE_SHA256
#define TOQUE_SOURCE_SHA256 ""
#endif

enum { DONE = 0, REFUSED = 1, OTHER_SIZE = 2 };
enum { ROWS = 16, NEIGHBOURS = 4 };

struct errors {
  struct jpeg_error_mgr standard;
  jmp_buf refused;
};

const char *toque_source_sha256(void) { return TOQUE_SOURCE_SHA256; }

static void refuse(j_common_ptr info) { longjmp(((struct errors *)info->err)->refused, 1); }

/* A warning means lost data, mostly: whoever decodes the whole file says what is wrong with it. */
static void warn(j_common_ptr info, int level) {
  if (level < 0) refuse(info);
}

static void say_nothing(j_common_ptr info) { (void)info; }

/* Pixels of rows top .. bottom and columns left .. right, at least, of the image at 1/factor of its
 * size, into their places in pixels [height, width, channels]; all others are left as they are.
 * `height` and `width` are those of the reduced image; what libjpeg makes of the file must agree.
 */
int toque_decode_region(const unsigned char *data, uint64_t num_bytes, int channels, int factor,
                        int64_t height, int64_t width, int64_t top, int64_t left, int64_t bottom,
                        int64_t right, unsigned char *pixels) {
  struct jpeg_decompress_struct info;
  struct errors errors;
  info.err = jpeg_std_error(&errors.standard);
  errors.standard.error_exit = refuse;
  errors.standard.emit_message = warn;
  errors.standard.output_message = say_nothing;
  if (setjmp(errors.refused)) {
    jpeg_destroy_decompress(&info);
    return REFUSED;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, (unsigned char *)data, (unsigned long)num_bytes);
  jpeg_read_header(&info, TRUE);
  info.out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  info.scale_num = 1;
  info.scale_denom = (unsigned)factor;
  jpeg_start_decompress(&info);
  if (info.output_height != height || info.output_width != width ||
      info.output_components != channels) {
    jpeg_destroy_decompress(&info);
    return OTHER_SIZE;
  }
  /* Colour of half the size is smoothed from neighbours, which a part must have too. */
  JDIMENSION begin = left > NEIGHBOURS ? (JDIMENSION)left - NEIGHBOURS : 0;
  JDIMENSION end = right + NEIGHBOURS < width ? (JDIMENSION)right + NEIGHBOURS : (JDIMENSION)width;
  JDIMENSION first = top > NEIGHBOURS ? (JDIMENSION)top - NEIGHBOURS : 0;
  JDIMENSION columns = end - begin;
  if (columns < (JDIMENSION)width) jpeg_crop_scanline(&info, &begin, &columns);
  if (first > 0) jpeg_skip_scanlines(&info, first);
  unsigned char *corner = pixels + (size_t)begin * channels;
  size_t stride = (size_t)width * channels;
  while (info.output_scanline < (JDIMENSION)bottom) {
    JSAMPROW rows[ROWS];
    JDIMENSION wanted = (JDIMENSION)bottom - info.output_scanline;
    if (wanted > ROWS) wanted = ROWS;
    for (JDIMENSION row = 0; row < wanted; row++)
      rows[row] = corner + (info.output_scanline + row) * stride;
    jpeg_read_scanlines(&info, rows, wanted);
  }
  jpeg_destroy_decompress(&info); /* what lies below the part is never decoded */
  return DONE;
}
