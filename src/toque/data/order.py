"""The order of the images: one endless stream, of which any part can be asked for.

Image number t of the stream of a source of N images belongs to epoch t // N and stands at place
t % N of that epoch's keyed permutation. Where a run stands is therefore one number, the count of
images it has seen, and it may go on from any count.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from toque import checks, random

Order = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def stream(seed: int, num_images: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Images start .. stop - 1 of the endless training stream, and the epoch of each.

    Shape:  -> indices int64 [stop - start], epochs int64 [stop - start]
    Raises: ValueError: no images, or not 0 <= start <= stop
    """
    if num_images < 1:
        raise checks.invalid("stream", "num_images", ">= 1", num_images, "Give images to train on.")
    if not 0 <= start <= stop:
        raise checks.invalid(
            "stream", "start, stop", "0 <= start <= stop", (start, stop),
            "Count images seen from 0.",
        )  # fmt: skip
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


def share(order: Order, batch_size: int, rank: int, ranks: int) -> tuple[Order, int]:
    """One rank's share of every batch of an order, as an order of its own, and its images a batch.

    A batch is cut into stretches, one a rank, whose sizes differ by one image at most. Which image
    stands where in the batch does not depend on the number of ranks.

    Raises: ValueError: a batch of fewer images than ranks
    """
    if batch_size < ranks:
        raise checks.invalid(
            "data", "batch_size", f"at least one image for each of the {ranks} ranks", batch_size,
            "Raise it, or start fewer ranks.",
        )  # fmt: skip
    first, last = rank * batch_size // ranks, (rank + 1) * batch_size // ranks
    size = last - first

    def own(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        while start < stop:
            batch, within = divmod(start, size)
            end = min(stop, (batch + 1) * size)
            place = batch * batch_size + first
            parts.append(order(place + within, place + end - batch * size))
            start = end
        if not parts:
            return order(0, 0)
        indices, epochs = zip(*parts, strict=True)
        return np.concatenate(indices), np.concatenate(epochs)

    return own, size
