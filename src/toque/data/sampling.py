"""Which image stands where in the endless stream: other orders than a plain shuffle.

Every order is a function of (seed, position): any part of it can be asked for at once, it needs no
memory of what came before, and it is the same for any batch size and number of ranks. An image that
comes again has another epoch number each time, and so other draws.

Shape letters: N images, n of them asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    "weighted"  each image in proportion to its weight, which is that of the data (`source.weights`,
                1 where it has none) times that of its class: in an epoch of N images the share
                N w / sum(w), rounded down or up; equal weights give every image once

    Args:    name: one of these
             class_weights: of "weighted": factors by the names of classes, 1 for the others; or
             "equal", 1 / (sum of the data's weights in the class): all classes come equally often,
             and within a class the data's weights hold
             repeats: each image drawn comes so many times one after the other, each time augmented
             anew; an epoch stays N images
    Raises:  ValueError: another name, repeats < 1, class weights for another name than "weighted",
             negative or not finite
    Source:  repeated augmentation: Hoffer 2020, arXiv:1901.09335; "weighted" is systematic sampling
             (Madow 1949), which has the mean of drawing with replacement and less spread
    """

    name: SamplingName = "shuffle"
    repeats: int = 1
    class_weights: Mapping[str, float] | Literal["equal"] | None = None

    def __post_init__(self) -> None:
        known = get_args(SamplingName)
        if self.name not in known:
            raise checks.invalid(
                "Sampling", "name", f"one of {', '.join(known)}", self.name,
                checks.nearest(self.name, known),
            )  # fmt: skip
        if self.repeats < 1:
            raise checks.invalid("Sampling", "repeats", ">= 1", self.repeats, "1 repeats nothing.")
        given = self.class_weights
        if given is None:
            return
        if self.name != "weighted":
            raise checks.invalid(
                "sampling", "class_weights", 'left out unless name is "weighted"', self.name,
                "Set sampling.name=weighted.",
            )  # fmt: skip
        if isinstance(given, str):
            if given != "equal":
                raise checks.invalid(
                    "sampling", "class_weights", '"equal", or a number for each class', given,
                    "As in sampling.class_weights.rare=4.",
                )  # fmt: skip
            return
        for name, weight in given.items():
            if not 0 <= weight < math.inf:
                raise checks.invalid(
                    "sampling", f"class_weights.{name}", "finite and >= 0", weight,
                    "1 is the weight of a class without one.",
                )  # fmt: skip


def order_of(source: Source, sampling: Sampling, seed: int) -> Order:
    """The order of the training stream of a source.

    Raises: ValueError: "balanced" without classes, "weighted" without weights
    """
    if sampling.name == "balanced":
        order = _balanced(source, seed)
    elif sampling.name == "weighted":
        order = _weighted(source, sampling, seed)
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


def weights_of(source: Source, sampling: Sampling) -> np.ndarray:
    """The weight of each image: that of the data times that of its class, float64 [N].

    Raises: ValueError: neither is given, a class that does not exist, class weights for targets
            that are no single classes
    """
    given, of_class = source.weights, sampling.class_weights
    if given is None and of_class is None:
        raise checks.invalid(
            "sampling", "name", "shuffle or balanced for data without weights", "weighted",
            "Give each image a weight: a column weight in a table, or sampling.class_weights.",
        )  # fmt: skip
    own = np.ones(len(source)) if given is None else np.asarray(given, dtype=np.float64)
    if of_class is None:
        return own
    if source.task != "classification":
        raise checks.invalid(
            "sampling", "class_weights", f"left out for {source.task}", of_class,
            "Weigh single images instead, by a column weight in a table.",
        )  # fmt: skip
    labels = source.labels
    if isinstance(of_class, str):
        sums = np.bincount(labels, weights=own, minlength=len(source.classes))
        factors = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
    else:
        for name in of_class:
            if name not in source.classes:
                raise checks.invalid(
                    "sampling", "class_weights", "by the names of classes", name,
                    checks.nearest(name, source.classes),
                )  # fmt: skip
        factors = np.array([float(of_class.get(name, 1.0)) for name in source.classes])
    weighed: np.ndarray = own * factors[labels]
    return weighed


def _weighted(source: Source, sampling: Sampling, seed: int) -> Order:
    weights = weights_of(source, sampling)
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise checks.invalid(
            "sampling", "weights", "finite, >= 0 and not all 0", "others",
            "Mend the column of weights, or the weights of the classes.",
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
