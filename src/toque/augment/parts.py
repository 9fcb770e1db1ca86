"""Parts of images: the first of several tries that fits, at a random place, as torchvision has it.

Shape letters: B images, T tries.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toque.augment.canvas import Counts
from toque.augment.kernels import cpu
from toque.augment.transform import Draw, Floats, Integers


def parts(
    draw: Draw,
    wanted: npt.NDArray[np.bool_] | None,
    height: Integers,
    width: Integers,
    least: int,
    tall: bool,
) -> Counts:
    """Top, left, height, width of a part of each image [B, 4]; both sizes 0 where no try fits.

    Args: draw: area (relative to the image's) and ratio of each try [B, T], position in the room
          that the part leaves [B, 2]
          wanted: whether an image gets a part at all, bool [B]; all unless given
          height, width: of the images [B]
          least: 1 for sides of 1 pixel up to the image's, 0 for sides of 0 to one below it
          tall: whether the ratio is height / width, or the other way round
    """
    area, ratio, position = (draw[name].numpy() for name in ("area", "ratio", "position"))
    found = cpu.parts if cpu.levels() else defined
    return found(area, ratio, position, wanted, height, width, least, tall)


def defined(
    area: Floats,
    ratio: Floats,
    position: Floats,
    wanted: npt.NDArray[np.bool_] | None,
    height: Integers,
    width: Integers,
    least: int,
    tall: bool,
) -> Counts:
    """What `parts` gives, in NumPy; the kernels' is the same in C."""
    area = area * (height * width)[:, None]
    sides = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    h, w = (side.astype(np.int64) - least for side in (sides if tall else sides[::-1]))
    fits = (h >= 0) & (w >= 0) & (h < height[:, None]) & (w < width[:, None])
    images, first = np.arange(len(fits)), fits.argmax(1)
    found = fits[images, first] if wanted is None else fits[images, first] & wanted
    box = np.empty((4, len(fits)), dtype=np.int64)
    box[2] = np.where(found, h[images, first] + least, 0)
    box[3] = np.where(found, w[images, first] + least, 0)
    box[0] = position[:, 0] * (height - box[2] + 1)
    box[1] = position[:, 1] * (width - box[3] + 1)
    return box.T
