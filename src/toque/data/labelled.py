"""Labelled images to ask a trained model about, with the classes it knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from toque import checks
from toque.data import bundled, folder
from toque.data.decoding import MAX_PIXELS
from toque.data.listing import ClassFiles, look, source_of
from toque.data.opening import existing_folder, given_parts
from toque.data.packed.format import is_cache
from toque.data.packed.reading import open_labelled_part
from toque.data.scan import say_bad
from toque.data.source import Source


def open_labelled(
    data: str | Path,
    *,
    classes: Sequence[str],
    channels: int,
    on_bad: Literal["raise", "skip"] = "raise",
) -> Source:
    """The validation part of a data set, or every image of a folder of class folders.

    The folder may hold some of the classes only; labels are numbered as in `classes`.

    Args:    classes, channels: of the model
    Raises:  FileNotFoundError: no such folder
             ValueError: a class the model does not know (the nearest is suggested), no images,
             files that cannot be used
    """
    if isinstance(data, str) and data in bundled.NAMES:
        _, val = bundled.named(data, channels)
        _check_known(val.classes, classes, data)
        return val
    root = existing_folder(data)
    if is_cache(root):
        held = open_labelled_part(root, channels)
        _check_known(held.classes, classes, str(root))
        if held.classes != tuple(classes)[: len(held.classes)]:
            raise checks.invalid(
                "data", f"the classes of {root}", f"in the model's order, {', '.join(classes)}",
                ", ".join(held.classes), "Give the folder that it was made of instead.",
            )  # fmt: skip
        return held
    parts = given_parts(root)
    root = root if parts is None else root / parts[1]
    found = folder.subfolders(root)
    _check_known(found, classes, str(root))
    numbers = {name: number for number, name in enumerate(classes)}
    names = [f"{name}/{file}" for name in found for file in folder.files_below(root / name)]
    if not names:
        raise checks.invalid(
            "data", str(root), "a folder of class folders with images", "no images in any",
            f"Sort the images into folders such as {root / classes[0]}.",
        )  # fmt: skip
    labels = [numbers[name.split("/", 1)[0]] for name in names]
    looked = look(ClassFiles(root, tuple(classes), names, labels), on_bad, MAX_PIXELS)
    if looked.bad and on_bad == "raise":
        raise say_bad(looked.bad, len(names))
    return source_of(looked, np.arange(len(looked.names)), channels, MAX_PIXELS)


def _check_known(found: Sequence[str], classes: Sequence[str], where: str) -> None:
    for name in found:
        if name not in classes:
            raise checks.invalid(
                "data", f"the classes in {where}", "known to the model", name,
                f"{checks.nearest(name, classes)} Rename the folder or leave it out.",
            )  # fmt: skip
