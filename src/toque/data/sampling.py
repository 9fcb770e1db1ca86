"""Which image stands where in the endless stream: other orders than a plain shuffle.

Every order is a function of (seed, position): any part of it can be asked for at once, it needs no
memory of what came before, and it is the same for any batch size and number of ranks. An image that
comes again has another epoch number each time, and so other draws.

Shape letters: N images, n of them asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np

from toque import checks, random
from toque.data.order import Order, stream
from toque.data.source import Source
from toque.random import Key

SamplingName = Literal["shuffle", "balanced", "weighted"]


@dataclass(frozen=True)
class Sampling:
    """How often and in which order images are seen.

    "shuffle"   every image once an epoch
    "balanced"  every class equally often, exactly: each run of K images, K classes, holds one of
                each; within a class every image once before any comes again
    "weighted"  each image in proportion to its weight (`source.weights`): in an epoch of N images
                the share N w / sum(w), rounded down or up; equal weights give every image once

    Args:    name: one of these
             repeats: each image drawn comes so many times one after the other, each time augmented
             anew; an epoch stays N images
    Raises:  ValueError: another name, repeats < 1
    Source:  repeated augmentation: Hoffer 2020, arXiv:1901.09335; "weighted" is systematic sampling
             (Madow 1949), which has the mean of drawing with replacement and less spread
    """

    name: SamplingName = "shuffle"
    repeats: int = 1

    def __post_init__(self) -> None:
        known = get_args(SamplingName)
        if self.name not in known:
            raise checks.invalid(
                "Sampling", "name", f"one of {', '.join(known)}", self.name,
                checks.nearest(self.name, known),
            )  # fmt: skip
        if self.repeats < 1:
            raise checks.invalid("Sampling", "repeats", ">= 1", self.repeats, "1 repeats nothing.")


def order_of(source: Source, sampling: Sampling, seed: int) -> Order:
    """The order of the training stream of a source.

    Raises: ValueError: "balanced" without classes, "weighted" without weights
    """
    if sampling.name == "balanced":
        order = _balanced(source, seed)
    elif sampling.name == "weighted":
        order = _weighted(source, seed)
    else:
        order = partial(stream, seed, len(source))
    return order if sampling.repeats == 1 else partial(_repeated, order, sampling.repeats)


def _repeated(order: Order, repeats: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Images start .. stop - 1 of an order of which each comes `repeats` times."""
    counts = np.arange(start, stop, dtype=np.int64)
    first = start // repeats
    indices, epochs = order(first, max(first, -(-stop // repeats)))
    which = counts // repeats - first
    return indices[which], epochs[which] * repeats + counts % repeats


def _balanced(source: Source, seed: int) -> Order:
    if source.task != "classification":
        raise checks.invalid(
            "sampling", "name", f"shuffle or weighted for {source.task}", "balanced",
            "Only single classes can be balanced; weights can do it for others.",
        )  # fmt: skip
    labels = source.labels
    members = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=len(source.classes))
    starts = np.cumsum(counts) - counts
    present = np.flatnonzero(counts)

    def order(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        positions = np.arange(start, stop, dtype=np.int64)
        rounds, place = np.divmod(positions, len(present))
        alike = np.full_like(rounds, len(present))
        label = present[random.placed(seed, "sampling/class", (rounds,), alike, place)]
        # Each round holds each class once: its number counts the images of the class so far.
        passes, place = np.divmod(rounds, counts[label])
        image = random.placed(seed, "sampling/image", (label, passes), counts[label], place)
        return members[starts[label] + image], passes

    return order


def _weighted(source: Source, seed: int) -> Order:
    given = source.weights
    if given is None:
        raise checks.invalid(
            "sampling", "name", "shuffle or balanced for data without weights", "weighted",
            "Give each image a weight: a column weight in a table, or Source.weights.",
        )  # fmt: skip
    weights = np.asarray(given, dtype=np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise checks.invalid(
            "sampling", "weights", "finite, >= 0 and not all 0", "others",
            "Mend the column of weights.",
        )  # fmt: skip
    num_images = len(weights)
    # What an epoch of N images owes to each, as the far end of its piece of 0 .. N.
    ends = np.cumsum(weights) * (num_images / weights.sum())
    ends[-1] = num_images
    most = int(np.ceil(np.diff(ends, prepend=0.0).max())) + 1
    begins = np.concatenate([[0.0], ends[:-1]])

    def order(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        positions = np.arange(start, stop, dtype=np.int64)
        epochs, place = np.divmod(positions, num_images)
        alike = np.full_like(place, num_images)
        tooth = random.placed(seed, "sampling/weighted", (epochs,), alike, place)
        known = np.unique(epochs)
        offsets = Key(seed, known, np.zeros_like(known)).uniform("sampling/offset")[:, 0].numpy()
        offset = offsets[np.searchsorted(known, epochs)].astype(np.float64)
        images = np.searchsorted(ends, tooth + offset, side="right")
        images = np.minimum(images, num_images - 1)
        # How many teeth of the comb fell on the image before this one.
        earlier = tooth - np.ceil(begins[images] - offset).astype(np.int64)
        return images, epochs * most + np.clip(earlier, 0, most - 1)

    return order
