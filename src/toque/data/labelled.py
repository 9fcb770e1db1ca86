"""Labelled images to ask a trained model about, with the classes it knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from toque import checks
from toque.data import bundled, folder, given, strays
from toque.data.decoding import MAX_PIXELS
from toque.data.listing import ClassFiles, images_in, look, some, source_of
from toque.data.opening import existing_folder
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
    say: Callable[[str], None] | None = None,
) -> Source:
    """The validation part of a data set, or every image of a folder of class folders.

    The folder may hold some of the classes only; labels are numbered as in `classes`.

    Args:    classes, channels: of the model
             say: told, in a sentence, what is passed over or left out
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
    parts = given.parts_of(root)
    root = root if parts is None else root / (parts.val or parts.train)
    found = folder.subfolders(root)
    _check_known(found, classes, str(root))
    numbers = {name: number for number, name in enumerate(classes)}
    inside = [images_in(root, name) for name in found]
    names = [name for images, _ in inside for name in images]
    others = [name for _, passed in inside for name in passed]
    loose = [name for name in folder.files_in(root) if strays.is_image(name)]
    if not names:
        but = f"; {len(loose):,} beside them: toque predict answers for these" if loose else ""
        raise checks.invalid(
            "data", str(root), "a folder of class folders with images", f"no images in any{but}",
            f"Sort the images into folders such as {root / classes[0]}.",
        )  # fmt: skip
    if say is not None:
        for note in strays.notes(others, loose):
            say(note)
    labels = [numbers[name.split("/", 1)[0]] for name in names]
    looked = look(ClassFiles(root, tuple(classes), names, labels), on_bad, MAX_PIXELS)
    if looked.bad and on_bad == "raise":
        raise say_bad(looked.bad, len(names))
    if looked.bad and say is not None:
        say(f"Files that cannot be used, left out: {some([str(one.path) for one in looked.bad])}.")
    return source_of(looked, np.arange(len(looked.names)), channels, MAX_PIXELS)


def _check_known(found: Sequence[str], classes: Sequence[str], where: str) -> None:
    for name in found:
        if name not in classes:
            raise checks.invalid(
                "data", f"the classes in {where}", "known to the model", name,
                f"{checks.nearest(name, classes)} Rename the folder or leave it out.",
            )  # fmt: skip
