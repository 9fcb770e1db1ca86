"""Files of a folder that a run passes over, as findings."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from toque.data import strays
from toque.data.checking.findings import Finding, Item
from toque.data.decoding import unreadable
from toque.data.listing import ClassFiles


def passed_over(part: str, files: ClassFiles) -> Iterator[Finding]:
    """The files that are no images, and the images of no class, by name."""
    for names, note in (
        (files.strays, strays.notes(files.strays)), (files.loose, strays.notes((), files.loose)),
    ):  # fmt: skip
        if note:
            items = tuple(
                (Item(part, -1, name, name.partition("/")[0] if "/" in name else ""),)
                for name in names
            )
            yield Finding("passed over", False, note[0], items)


def no_image(item: Item) -> torch.Tensor:
    """Raise ValueError (UnreadableImage) for an item that is listed and not shown."""
    raise unreadable(item.name, "passed over, as no image by its name")
