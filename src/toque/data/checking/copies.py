"""Copies among the images: across the parts, under two labels, exact, or nearly the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from toque.data.checking import near, words
from toque.data.checking.examine import Seen
from toque.data.checking.findings import Finding, Item, Kind


def copies(items: list[Item], seen: list[Seen], readable: list[int]) -> Iterator[Finding]:
    """Leakage, contradictions, exact and near copies: each group of copies counts once."""
    exact = _exact(seen, readable)
    together = near.groups(np.concatenate([_near(seen, readable), exact]), len(items))
    of_exact = {number: at for at, group in enumerate(near.groups(exact, len(items)))
                for number in group}  # fmt: skip

    def is_exact(group: list[int]) -> bool:
        first = of_exact.get(group[0])
        return first is not None and all(of_exact.get(number) == first for number in group)

    leaking, contrary, same, alike = [], [], [], []
    for group in together:
        if len({items[number].part for number in group}) > 1:
            leaking.append(group)
        elif len({items[number].label for number in group}) > 1:
            contrary.append(group)
        elif is_exact(group):
            same.append(group)
        else:
            alike.append(group)
    also = sum(len({items[number].label for number in group}) > 1 for group in leaking)

    def finding(kind: Kind, problem: bool, groups: list[list[int]], says: str) -> Finding:
        remarks = tuple("the same pixels" if is_exact(group) else "nearly the same"
                        for group in groups)  # fmt: skip
        shown = tuple(tuple(items[number] for number in group) for group in groups)
        return Finding(kind, problem, says, shown, remarks)

    if leaking:
        num = sum(items[number].part == "val" for group in leaking for number in group)
        yield finding(
            "leakage", True, leaking,
            f"{words.images_are(num, 'of the validation part')} also in the training part"
            f"{f', {also} times under another label' if also else ''}: the accuracy will look "
            "better than it is. Keep copies, and pictures of one series, in one part.",
        )  # fmt: skip
    if contrary:
        yield finding(
            "contradictory", True, contrary,
            f"{words.pictures_are(len(contrary))} with two labels or more. Decide for one.",
        )  # fmt: skip
    if same:
        num = sum(len(group) - 1 for group in same)
        yield finding(
            "exact duplicates", True, same,
            f"{words.images_are(num)} an exact copy of another of the same class. Remove them, or "
            "they weigh double.",
        )  # fmt: skip
    if alike:
        num = sum(len(group) - 1 for group in alike)
        yield finding(
            "near duplicates", False, alike,
            f"{words.images_are(num)} nearly the same as another of the same class and part. Look "
            "whether they are meant to be there.",
        )  # fmt: skip


def _exact(seen: list[Seen], readable: list[int]) -> np.ndarray:
    """Each image with the next one of the same bytes or pixels: [M, 2]."""
    last: dict[bytes, int] = {}
    pairs = []
    for number in readable:
        for digest in {seen[number].pixels_hash, seen[number].bytes_hash or b""} - {b""}:
            if digest in last:
                pairs.append((last[digest], number))
            last[digest] = number
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _near(seen: list[Seen], readable: list[int]) -> np.ndarray:
    """Pairs of images that are nearly the same: [M, 2]."""
    hashes = [one for number in readable if (one := seen[number].hash) is not None]
    thumbs = [one for number in readable if (one := seen[number].thumb) is not None]
    least = [
        near.LEAST_OF_SMALL if min(size) <= near.SMALL_PX else near.LEAST_CORRELATION
        for number in readable
        if (size := seen[number].size) is not None
    ]
    if not readable:
        return np.empty((0, 2), np.int64)
    pairs = near.near_pairs(np.stack(hashes), np.stack(thumbs), np.array(least))
    return np.array(readable, dtype=np.int64)[pairs]
