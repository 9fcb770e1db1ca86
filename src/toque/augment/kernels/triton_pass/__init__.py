"""The pass as Triton kernels: what runs on the GPU. cuda.py makes the tables and launches them.

names.py     what the tables and the codes are called
taps.py      which source pixels make up a row or column
reading.py   source pixels
recolor.py   the colour chain of a pixel
pixels.py    the pass
mixing.py    the colour chain as one matrix

A program makes one tile of one picture, from its source pixels to the finished values. Rows and
columns of a crop, flip or resize are looked up in tables that make_taps computes once for each
picture, in float64; a warp reads 2 x 2 pixels at coordinates of its own.

Nothing is read outside the images: every index is clamped as an integer before it is used.

Letters: B pictures, C channels, N colour operations, E rectangles, y x in the result, v u in the
source.
"""

# mypy: ignore-errors

from toque.augment.kernels.triton_pass.mixing import fit_colors
from toque.augment.kernels.triton_pass.pixels import run_pass
from toque.augment.kernels.triton_pass.taps import make_taps

__all__ = ["fit_colors", "make_taps", "run_pass"]
