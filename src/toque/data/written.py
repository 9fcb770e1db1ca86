"""Targets as text files and tables write them: words, numbers, or several of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toque import checks
from toque.data import targets
from toque.data.targets import Targets, Task

_NOTHING = frozenset({"nan", "null", "<na>", "nat"})  # "none" and "na" may be classes


def _check_filled(where: str, words: Sequence[str]) -> None:
    """Raise ValueError for what programs write where there is no label: it is no class."""
    for at, word in enumerate(words, start=1):
        if word.strip().lower() in _NOTHING:
            raise checks.invalid(
                where, "every label", "filled", f"{word!r}, which says that there is none, at {at}",
                "Fill it, or leave the row out; if it is the name of a class, change that.",
            )  # fmt: skip


def of_values(
    where: str, values: Sequence[object], names: Sequence[str], task: Task | None
) -> Targets:
    """Targets of values as text files and tables hold them: words, numbers, or several of them.

    Words and whole numbers are classes, other numbers are numbers, several words are labels,
    unless `task` says otherwise. `names` are the classes' in order, which whole numbers count;
    without them they are those found, sorted, whole numbers by value.

    Raises: ValueError: a value that is not of the task, with its place in the list (from 1)
    """
    several = [value for value in values if isinstance(value, list | tuple | np.ndarray)]
    if several and len(several) < len(values):
        raise checks.invalid(
            where, "labels", "one for each image, or a list for each", "both", "Mend the labels."
        )
    words = [str(item) for row in several for item in row] if several else list(map(str, values))
    if task is None:
        _check_finite(where, words)
        task = _task_of(words, bool(several))
    if task == "classification" and several:
        raise checks.invalid(where, "labels", "one for each image", several[0], "Take multilabel.")
    if task == "classification":
        _check_filled(where, words)
        return _classes(where, words, names)
    if task == "multilabel":
        rows = [[str(item) for item in row] for row in several] or [[word] for word in words]
        found = tuple(names) or tuple(_sorted({word for row in rows for word in row}))
        table = np.zeros((len(rows), len(found)), np.float32)
        numbers = {name: number for number, name in enumerate(found)}
        for at, row in enumerate(rows):
            for word in row:
                table[at, _known(where, word, numbers, at)] = 1
        return Targets("multilabel", found, table)
    floats = [[_number(where, item, at) for item in (value if several else [value])]  # type: ignore[attr-defined]
              for at, value in enumerate(values)]  # fmt: skip
    widths = {len(row) for row in floats}
    if len(widths) > 1:
        raise checks.invalid(
            where, "labels", "as many numbers for each image", f"{min(widths)} and {max(widths)}",
            "Complete the rows.",
        )  # fmt: skip
    return targets.of(where, np.array(floats, np.float32), names or None, "regression")


def _check_finite(where: str, words: Sequence[str]) -> None:
    """Numbers among which some are missing are no names of classes."""
    if not all(map(_is_float, words)):
        return
    for at, word in enumerate(words):
        if not _is_number(word):
            raise checks.invalid(
                where, "every label", "a finite number, as the others are",
                f"{word!r} at {at + 1}", "Mend it, or leave the row out.",
            )  # fmt: skip


def _task_of(words: Sequence[str], several: bool) -> Task:
    numbers = all(_is_number(word) for word in words)
    whole = all(word.strip().lstrip("+-").isdigit() for word in words)
    if several:
        return "regression" if numbers and not whole else "multilabel"
    return "regression" if numbers and not whole else "classification"


def _classes(where: str, words: Sequence[str], names: Sequence[str]) -> Targets:
    if names and all(word.isdigit() for word in words):
        return targets.of(where, [int(word) for word in words], names, "classification")
    found = tuple(names) or tuple(_sorted(set(words)))
    numbers = {name: number for number, name in enumerate(found)}
    values = [_known(where, word, numbers, at) for at, word in enumerate(words)]
    return Targets("classification", found, np.array(values, np.int64))


def _sorted(words: set[str]) -> list[str]:
    return sorted(
        words, key=lambda word: (not word.isdigit(), int(word) if word.isdigit() else 0, word)
    )


def _known(where: str, word: str, numbers: dict[str, int], at: int) -> int:
    if word not in numbers:
        raise checks.invalid(
            where, "every label", "one of the classes", f"{word!r} at {at + 1}",
            checks.nearest(word, numbers),
        )  # fmt: skip
    return numbers[word]


def _is_number(word: str) -> bool:
    return _is_float(word) and bool(np.isfinite(float(word)))


def _is_float(word: str) -> bool:
    """Whether it reads as a number, or as nan or inf."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def _number(where: str, value: object, at: int) -> float:
    if not _is_number(str(value)):
        point = str(value).replace(",", ".")
        raise checks.invalid(
            where, "every label", "a number", f"{value!r} at {at + 1}",
            f"Write it with a point, {point}." if _is_number(point)
            else "Mend it, leave the row out, or take another task.",
        )  # fmt: skip
    return float(str(value))
