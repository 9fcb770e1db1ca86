"""One pass with every number it needs for a batch: what a kernel is given.

Shape letters: B images, C channels, N colour operations, E rectangles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from toque.augment.canvas import Canvas


@dataclass(frozen=True, eq=False)
class Resolved:
    """Read, colour, normalise, erase: in this order, for every pixel of every image.

    Args:    canvas: where the pixels come from
             codes, factors: the colour chain of each image, int32 and float32 [B, N]
             linear: whether the chain is done by one matrix for each image, or exactly
             scale, shift: of each channel, float32 [C]
             rectangles: top, left, height, width in the result, int64 [B, E, 4]
             fills: what is written into each rectangle, after scale and shift: float32 [E, C]
             noisy: the rectangles among them that are then filled with keyed normal noise: (number,
             seed of each image [B])
    """

    canvas: Canvas
    codes: npt.NDArray[np.int32]
    factors: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    shift: npt.NDArray[np.float32]
    rectangles: npt.NDArray[np.int64]
    fills: npt.NDArray[np.float32]
    noisy: tuple[tuple[int, torch.Tensor], ...] = ()
    linear: bool = False

    def __getitem__(self, images: slice) -> Resolved:
        """The same pass for some of the images."""
        return replace(
            self,
            canvas=self.canvas[images],
            codes=self.codes[images],
            factors=self.factors[images],
            rectangles=self.rectangles[images],
            noisy=tuple((number, seed[images]) for number, seed in self.noisy),
        )

    def take(self, rows: npt.NDArray[np.int64]) -> Resolved:
        """The same pass for the images of some numbers."""
        return replace(
            self,
            canvas=self.canvas.take(rows),
            codes=self.codes[rows],
            factors=self.factors[rows],
            rectangles=self.rectangles[rows],
            noisy=tuple((number, seed[torch.from_numpy(rows)]) for number, seed in self.noisy),
        )
