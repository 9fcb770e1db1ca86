"""The order of the images: one endless stream, of which any part can be asked for.

Image number t of the stream of a source of N images belongs to epoch t // N and stands at place
t % N of that epoch's keyed permutation. Where a run stands is therefore one number, the count of
images it has seen, and it may go on from any count.
"""

from __future__ import annotations

import numpy as np

from toque import checks, random


def stream(seed: int, num_images: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Images start .. stop - 1 of the endless training stream, and the epoch of each.

    Shape:  -> indices int64 [stop - start], epochs int64 [stop - start]
    Raises: ValueError: no images, or not 0 <= start <= stop
    """
    if num_images < 1:
        raise checks.invalid("stream", "num_images", ">= 1", num_images, "Give images to train on.")
    if not 0 <= start <= stop:
        raise checks.invalid(
            "stream",
            "start, stop",
            "0 <= start <= stop",
            (start, stop),
            "Count images seen from 0.",
        )
    counts = np.arange(start, stop, dtype=np.int64)
    epochs = counts // num_images
    indices = np.empty_like(counts)
    position = start
    while position < stop:
        epoch, first = divmod(position, num_images)
        last = min(num_images, first + stop - position)
        part = random.permutation(seed, epoch, num_images, first, last)
        indices[position - start : position - start + len(part)] = part
        position += len(part)
    return indices, epochs
