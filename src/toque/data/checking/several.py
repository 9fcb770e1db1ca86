"""Several labels of an image: which cannot be learnt or measured, are rare, or say the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from toque.data.checking import words
from toque.data.checking.findings import Finding, Item

_UNEVEN = 100  # times as many images of one label as of another are worth a word
_MOST_NAMED = 5
_FEWEST = 5  # images of a label from which on what it goes with is worth a word
_MOST_LABELS = 3000  # whose pairs are counted


def several(
    items: Sequence[Item], labels: Sequence[frozenset[str]], names: Sequence[str]
) -> Iterator[Finding]:
    """What the labels of all images say together.

    Args: labels: of each of the items
          names: of all labels, also those that no image has
    """
    numbers = {name: number for number, name in enumerate(names)}
    table = np.zeros((len(items), len(names)), bool)
    for row, found in enumerate(labels):
        table[row, [numbers[name] for name in found]] = True
    training = np.array([item.part == "train" for item in items], bool)
    learnt, measured = table[training].sum(0), table[~training].sum(0)
    yield from _missing(names, learnt, measured, bool((~training).any()))
    yield from _rare(names, learnt)
    yield from _together(names, table[training])
    if len(none := np.flatnonzero(~table.any(1))):
        yield Finding(
            "labels", False,
            f"{words.images_are(len(none))} without any label. Fine where nothing is there; wrong "
            "where nobody looked.",
            tuple((items[row],) for row in none.tolist()),
        )  # fmt: skip


def _missing(
    names: Sequence[str], learnt: np.ndarray, measured: np.ndarray, validated: bool
) -> Iterator[Finding]:
    if unlearnt := _named(names, (learnt == 0) & (measured > 0)):
        yield Finding(
            "labels", True,
            f"In validation images alone: {unlearnt}. They cannot be learnt, and count in every "
            "score. Move images of them to the training part, or leave the labels out.",
        )  # fmt: skip
    if nowhere := _named(names, (learnt == 0) & (measured == 0)):
        yield Finding("labels", False, f"On no image at all: {nowhere}. Leave the labels out.")
    if validated and (unmeasured := _named(names, (learnt > 0) & (measured == 0))):
        yield Finding(
            "labels", False,
            f"On no validation image: {unmeasured}. No score says whether they are learnt. Move "
            "images of them there, or draw more for it (--set val_fraction=0.3).",
        )  # fmt: skip


def _rare(names: Sequence[str], learnt: np.ndarray) -> Iterator[Finding]:
    known = np.flatnonzero(learnt > 0)
    if len(known) < 2:
        return
    most, least = (int(known[at(learnt[known])]) for at in (np.argmax, np.argmin))
    if learnt[most] >= _UNEVEN * learnt[least]:
        yield Finding(
            "imbalance", False,
            f"{names[most]} is on {learnt[most]} training images and {names[least]} on "
            f"{learnt[least]}. Consider --set loss.name=asymmetric, and look at the results of "
            "each label.",
        )  # fmt: skip


def _together(names: Sequence[str], table: np.ndarray) -> Iterator[Finding]:
    """Labels that are on the same images: no model can tell them apart by these."""
    counts = table.sum(0)
    if len(table) >= _FEWEST and (always := _named(names, counts == len(table))):
        yield Finding(
            "labels",
            False,
            f"On every training image: {always}. A label that is always there teaches nothing.",
        )
    usual = np.flatnonzero((counts >= _FEWEST) & (counts < len(table)))
    if not 2 <= len(usual) <= _MOST_LABELS:
        return
    columns = table[:, usual].astype(np.float32)
    both, own = columns.T @ columns, counts[usual]
    # Where a label has as many images with another as it has at all, it never is without it.
    implies = (both == own[:, None]) & ~np.eye(len(usual), dtype=bool)
    same = np.triu(implies & implies.T)
    one_way = implies & ~implies.T
    for pairs, says in (
        (same, "Always together on training images: {}. Nothing tells these labels apart."),
        (one_way, "Never alone on training images: {}. Fine where one means the other."),
    ):
        rows, others = np.nonzero(pairs)
        if len(rows):
            order = np.argsort(-own[rows], kind="stable")[:_MOST_NAMED]
            joined = " and " if pairs is same else " always with "
            some = [
                f"{names[usual[rows[n]]]}{joined}{names[usual[others[n]]]} ({own[rows[n]]} images)"
                for n in order.tolist()
            ]
            yield Finding("labels", False, says.format(_listed(some, len(rows))))


def _named(names: Sequence[str], which: np.ndarray) -> str:
    found = np.flatnonzero(which).tolist()
    return _listed([names[n] for n in found[:_MOST_NAMED]], len(found))


def _listed(some: Sequence[str], number: int) -> str:
    more = f" and {number - len(some)} more" if number > len(some) else ""
    return ", ".join(some) + more
