"""The parts that data is given in: to train on, to validate on, and to test on at the end."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toque import checks
from toque.data import folder

_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
PARTS = {word: part for part, words in _WORDS.items() for word in words}
"""What people call a part, in lower case, and which it is."""


@dataclass(frozen=True)
class Given:
    """The folders of a data set that is given in parts.

    val:     of the images to validate on; unset where these are drawn from train
    test:    of images that the run has nothing to do with
    others:  folders that are passed over
    """

    train: str
    val: str | None = None
    test: str | None = None
    others: tuple[str, ...] = ()


def parts_of(root: Path) -> Given | None:
    """The parts that the folders in `root` are, or None where they are classes.

    They are parts where train/ stands beside one to validate or to test on, or holds folders
    itself. Without val/, test/ is validated on, if it holds folders.

    Raises: ValueError: val/ or test/ without train/, two spellings of a part
    """
    names = folder.subfolders(root)
    found: dict[str, list[str]] = {part: [] for part in _WORDS}
    for name in names:
        if name.lower() in PARTS:
            found[PARTS[name.lower()]].append(name)
    if not found["train"] and names and all(name.lower() in PARTS for name in names):
        raise checks.invalid(
            "data", str(root), "a folder with train/ and val/, or with a folder for each class",
            f"only {' and '.join(names)}", "Rename the one to learn from to train.",
        )  # fmt: skip
    if not found["train"] or not (found["val"] or found["test"] or _is_part(root, found["train"])):
        return None
    for part in found.values():
        if len(part) > 1:
            raise checks.invalid(
                "data", f"the parts in {root}", "there once", " and ".join(part),
                "Join them, or name the one to use and move the other away.",
            )  # fmt: skip
    train, val, test = (part[0] if part else None for part in found.values())
    assert train is not None
    if val is None and test is not None and folder.subfolders(root / test):
        val, test = test, None
    others = tuple(name for name in names if name not in (train, val, test))
    return Given(train, val, test, others)


def _is_part(root: Path, names: Sequence[str]) -> bool:
    """Whether these hold class folders: a class may be called train."""
    return all(folder.subfolders(root / name) for name in names)


def notes(root: Path, given: Given) -> tuple[str, ...]:
    """What a person should be told of the parts that are not used, or not as they are called."""
    said = []
    if given.val is not None and PARTS[given.val.lower()] == "test":
        said.append(tested(f"{given.val}/"))
    if given.test is not None:
        sorted_ = bool(folder.subfolders(root / given.test))
        verb, what = ("evaluate", "Measure") if sorted_ else ("predict", "Ask")
        said.append(
            f"{given.test}/ stays out of the run. {what} the finished run on it: "
            f"toque {verb} RUN {shlex.quote(str(root / given.test))}"
        )
    if given.others:
        beside = [f"{name}/" for name in (given.train, given.val, given.test) if name is not None]
        said.append(
            f"Folders beside {' and '.join(beside)}, passed over: "
            f"{len(given.others)} ({checks.first(given.others)})."
        )
    return tuple(said)


def tested(what: str) -> str:
    """That a part for a last test is validated on."""
    return (
        f"{what} serves to validate, as there is no other part to: a last test needs images that "
        "no choice was made by."
    )


def without_test(parts: Iterable[str]) -> tuple[list[str], str | None]:
    """Parts of which "test" is "val" where nothing else is, or "" for what stays out of the run;
    and what a person should be told.

    Example: >>> without_test(["train", "val", "test"])[0]
             ['train', 'val', '']
    """
    known = list(parts)
    count = known.count("test")
    if not count:
        return known, None
    if "val" in known:
        kept = ["" if part == "test" else part for part in known]
        return kept, f"Images of the part test, which stay out of the run: {count:,}."
    return ["val" if part == "test" else part for part in known], tested("The part test")
