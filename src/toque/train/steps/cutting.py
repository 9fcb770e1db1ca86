"""How the images of a step are cut into parts that go through the model one after the other."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def cut(num_images: int, part_images: int) -> list[slice]:
    """The parts, of `part_images` each and the last one smaller if need be.

    Where a single image would be left over, the last two parts share what there is: BatchNorm
    cannot take the statistics of one image with one pixel, and poor ones of one image with more.

    Example: >>> [part.stop for part in cut(17, 8)]
             [8, 15, 17]
    """
    stops = [*range(part_images, num_images, part_images), num_images]
    if len(stops) > 1 and num_images - stops[-2] == 1 and part_images > 2:
        stops[-2] -= 1
    return [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]


def evenly(num_images: int, num_parts: int) -> list[slice]:
    """So many parts, whose sizes differ by one at most; as many as images if these are fewer.

    Example: >>> [part.stop for part in evenly(17, 3)]
             [5, 11, 17]
    """
    num_parts = min(num_parts, num_images)
    stops = [number * num_images // num_parts for number in range(num_parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(stops)]


def smaller(num_images: int, part_images: int, least: int) -> int | None:
    """The part that comes next to a half where one of `part_images` was too large.

    None if every smaller size makes a part of fewer than `least` images.
    """
    for size in range(max(1, part_images // 2), part_images):
        if min(part.stop - part.start for part in cut(num_images, size)) >= least:
            return size
    return None


def least_part(network: nn.Module) -> int:
    """The fewest images that may be a part by themselves: two where BatchNorm is training."""
    kind = nn.modules.batchnorm._BatchNorm
    return 2 if any(isinstance(m, kind) and m.training for m in network.modules()) else 1
