"""From what a user names to a training and a validation source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from toque import checks
from toque.data import bundled, elsewhere, folder, given
from toque.data.asked import Asked, Columns
from toque.data.decoding import MAX_PIXELS
from toque.data.listing import class_files, look, notes_on, some, source_of
from toque.data.packed.format import is_cache
from toque.data.packed.reading import open_packed
from toque.data.scan import FileFacts, say_bad
from toque.data.source import Source
from toque.data.splits import Splits, draw_validation
from toque.data.targets import Task


def open(  # noqa: A001 - toque.data.open is the name that says it
    data: str | Path,
    *,
    seed: int,
    val_fraction: float = 0.2,
    on_bad: Literal["raise", "skip"] = "raise",
    max_pixels: int = MAX_PIXELS,
    channels: int | None = None,
    task: Task | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen
) -> Splits:
    """Open a data set for training: find its classes and files, look at each file, split it.

    `data` is "fashion" or "nuclei" (they ship with toque), a cache that `pack` made, a folder with
    train/CLASS/* and val/CLASS/* (or training/, and valid/, validation/, dev/ or eval/; test/ stays
    out, or is validated on where there is none of these), or a folder CLASS/* (or train/CLASS/*
    alone), which is split by a draw keyed by the seed and each file's own name, so that adding a
    file does not move the others. Files whose ending is not that of an image are passed over, and
    so are hidden ones: `notes` count them. Of which kind an image is, its content says.

    It may also be a folder with images/ and masks/; a table (.csv, .parquet); arrays (.npz, .pt, a
    folder of .npy or IDX files); a dataset that Hugging Face's save_to_disk wrote; tar shards (one,
    a folder of them, or NAME-{000..012}.tar); and, of tables, shards, image and mask folders and
    class folders, a URL: s3://, gs://, https:// and whatever else fsspec opens.

    Args:    data: a name or a folder
             seed: of the split
             val_fraction: the part of each class to validate on where there is no val folder; every
             class of two or more images has at least one on either side
             on_bad: "raise" looks at every file quickly and stops at what cannot be used; "skip"
             decodes every file once and leaves out, and lists, what cannot be used
             max_pixels: larger images are bad files
             channels: 1 or 3; without it 1 where every file is gray, else 3
             task: what the targets mean, where they could mean two things
             columns: of a table, or of a Hugging Face dataset
    Raises:  FileNotFoundError: no such folder
             ValueError: a folder that is empty or not as above, or files that cannot be used
    Example: >>> splits = toque.data.open("fashion", seed=0)
             >>> len(splits.train), len(splits.val), splits.channels
             (10000, 2000, 1)
    """
    asked = Asked(seed, val_fraction, on_bad, max_pixels, channels, task, columns)
    if isinstance(data, str) and data in bundled.NAMES:
        train, val = bundled.named(data, channels or 1)
        return _of_task(Splits(train, val, train.classes, (), channels or 1), task)
    return _of_task(elsewhere.open_other(str(data), asked) or _class_folders(data, asked), task)


def _of_task(splits: Splits, task: Task | None) -> Splits:
    if task is not None and splits.train.task != task:
        raise checks.invalid(
            "data", "the targets", f"those of {task}", f"those of {splits.train.task}",
            "Leave task at auto, or give other data.",
        )  # fmt: skip
    return splits


def _class_folders(data: str | Path, asked: Asked) -> Splits:
    root = existing_folder(data)
    if is_cache(root):
        return open_packed(
            root, seed=asked.seed, val_fraction=asked.val_fraction, channels=asked.channels
        )
    parts = given.parts_of(root)
    if parts is None:
        return _split_by_draw(root, asked)
    if parts.val is None:
        return _split_by_draw(root / parts.train, asked, given.notes(root, parts))
    return _split_as_given(root, parts.train, parts.val, asked, given.notes(root, parts))


def existing_folder(data: str | Path) -> Path:
    """The folder that a user named.

    Raises: FileNotFoundError: it is not there, with the nearest name; ValueError: it is a file
    """
    root = Path(data).expanduser()
    if root.is_dir():
        return root
    rule = f"a folder of images or one of {', '.join(bundled.NAMES)}"
    if root.exists():
        raise checks.invalid(
            "data", "the data", f"a table, arrays, shards or {rule}", f"the file {data}",
            "Tables end in .csv, .tsv or .parquet, arrays in .npz or .pt, shards in .tar. Give the "
            f"folder that holds the class folders, perhaps {root.parent.parent}.",
        )  # fmt: skip
    above = next(parent for parent in root.parents if parent.is_dir())
    missing = root.relative_to(above).parts[0]
    known = [str(above / name) for name in folder.subfolders(above)]
    near = checks.nearest(str(above / missing), [*known, *bundled.NAMES])
    raise checks.MissingFile(
        checks.sentence("data", "the data", rule, f"{data}, which does not exist", near)
    )


def _split_as_given(
    root: Path, train_name: str, val_name: str, asked: Asked, notes: Sequence[str]
) -> Splits:
    folders = root / train_name, root / val_name
    train, val = map(class_files, folders)
    _check_same_classes(val.classes, train.classes, folders[1], folders[0])
    _check_same_classes(train.classes, val.classes, *folders)
    looked = [look(files, asked.on_bad, asked.max_pixels) for files in (train, val)]
    bad = tuple(file for one in looked for file in one.bad)
    if bad and asked.on_bad == "raise":
        raise say_bad(bad, len(train.names) + len(val.names))
    kept = _channels(asked.channels, [*looked[0].facts, *looked[1].facts])
    sources = [source_of(one, np.arange(len(one.names)), kept, asked.max_pixels) for one in looked]
    for source, folder_of in zip(sources, folders, strict=True):
        _check_still_filled(source, folder_of)
    said = (*notes_on(looked), *notes)
    return Splits(sources[0], sources[1], train.classes, bad, kept, said)


def _check_same_classes(
    classes: Sequence[str], others: Sequence[str], here: Path, there: Path
) -> None:
    for name in classes:
        if name not in others:
            raise checks.invalid(
                "data", f"the classes in {here}", f"those in {there}", f"also {name}",
                f"{checks.nearest(name, others)} Add {there / name}, or remove {here / name}.",
            )  # fmt: skip


def _split_by_draw(root: Path, asked: Asked, more: Sequence[str] = ()) -> Splits:
    files = class_files(root)
    looked = look(files, asked.on_bad, asked.max_pixels)
    if looked.bad and asked.on_bad == "raise":
        raise say_bad(looked.bad, len(files.names))
    kept = _channels(asked.channels, looked.facts)
    whole = source_of(looked, np.arange(len(looked.names)), kept, asked.max_pixels)
    _check_still_filled(whole, root)
    in_val = draw_validation(looked.names, whole.labels, asked.seed, asked.val_fraction)
    if not in_val.any():
        raise checks.invalid(
            "data", "a class at least", "of two images or more, one of them to validate on",
            f"one of each in {root}", "Add images, or a folder val/ beside train/.",
        )  # fmt: skip
    train, val = (
        source_of(looked, np.flatnonzero(chosen), kept, asked.max_pixels)
        for chosen in (~in_val, in_val)
    )
    alone = [
        name for label, name in enumerate(files.classes) if int((whole.labels == label).sum()) == 1
    ]
    notes = (*notes_on([looked]), *more)
    if alone:
        notes += (f"Classes of one image, which is trained on and not validated: {some(alone)}.",)
    return Splits(train, val, files.classes, looked.bad, kept, notes, whole)


def _channels(wanted: int | None, facts: Sequence[FileFacts]) -> int:
    return wanted or (1 if all(one.gray for one in facts) else 3)


def _check_still_filled(source: Source, root: Path) -> None:
    counts = np.bincount(source.labels, minlength=len(source.classes))
    for name, count in zip(source.classes, counts, strict=True):
        if count == 0:
            raise checks.invalid(
                "data", "every class", "left with an image", f"only bad files in {root / name}",
                "Mend them, or remove the folder.",
            )  # fmt: skip
