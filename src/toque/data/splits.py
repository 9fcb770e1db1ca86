"""The two parts of the data of a run, and how the one is drawn from the other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from toque.data.scan import BadFile
from toque.data.source import Source
from toque.random import Key

_NAMES_AT_A_TIME = 65_536


@dataclass(frozen=True)
class Splits:
    """The data of a run: what to train on, what to validate on, and what was found on the way.

    `bad` are the files left out (on_bad="skip"); `notes` are sentences that a person should see
    once, such as how many files are animated; `whole` are the images of both in their order, where
    those to validate on were drawn by their names, so that another seed draws others.
    """

    train: Source
    val: Source
    classes: tuple[str, ...]
    bad: tuple[BadFile, ...]
    channels: int
    notes: tuple[str, ...] = ()
    whole: Source | None = None

    @property
    def drawn(self) -> bool:
        """Whether the images to validate on were drawn."""
        return self.whole is not None


def draw_validation(
    names: Sequence[str], labels: np.ndarray, seed: int, val_fraction: float
) -> np.ndarray:
    """Which images to validate on: a draw for each, keyed by the seed and the image's name.

    Each image is drawn by itself, so that adding one does not move the others; a class of which all
    images fell on one side gives the image that came nearest to the other side.

    Shape: names N, labels [N] -> bool [N]
    """
    draws = np.empty(len(names), np.float32)
    left, start = iter(names), 0
    while hashes := [_hash(name) for name in islice(left, _NAMES_AT_A_TIME)]:
        some = Key(seed, 0, hashes).uniform("split")[:, 0].numpy()
        draws[start : start + len(some)] = some
        start += len(some)
    in_val = draws < val_fraction
    by_label = np.argsort(labels, kind="stable")
    ends = np.flatnonzero(np.diff(labels[by_label])) + 1
    for members in np.split(by_label, ends) if len(labels) else ():
        drawn = draws[members]  # equal where a table names a file twice: both stay on one side
        if drawn.min() < drawn.max() and not in_val[members].any():
            in_val[members[drawn == drawn.min()]] = True
        elif drawn.min() == drawn.max() or in_val[members].all():
            in_val[members[drawn == drawn.max()]] = False
    return np.asarray(in_val)


def _hash(name: str) -> int:
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
