"""Arrays on disk: .npz, .npy, torch files of tensors alone, and IDX (the format of MNIST).

None of them may hold code: pickles are refused. Shape letters: N images, C channels, H W size.
"""

from __future__ import annotations

import gzip
import math
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch

from toque import checks
from toque.data.arrays import ArraySource
from toque.data.asked import Asked
from toque.data.own import own
from toque.data.splits import Splits
from toque.data.targets import Task

SUFFIXES = (".npz", ".pt", ".pth")
_MOST_BYTES = 2**36
_VALIDATION = ("val", "valid", "validation", "test", "t10k")
_IMAGES = ("images", "x", "data")
_TARGETS = ("labels", "masks", "targets", "y", "label", "mask")
_CLASSES = ("classes", "label_names", "class_names")
_IDX = re.compile(r"^(train|t10k|test|val)[-_](images|labels)[-_.]idx[13][-_]ubyte(\.gz)?$")
Arrays = Mapping[str, np.ndarray]


def open_file(path: Path, asked: Asked) -> Splits:
    """The splits of a .npz file, or of a torch file that holds a dictionary of tensors.

    Its arrays are called train_images and train_labels (or train_masks), and val_images and
    val_labels where they are given; or images and labels, which are split by a draw. x and y do for
    images and labels; "classes" names the classes.

    Raises: ValueError: other arrays, a damaged file, one that holds pickled objects
    """
    arrays = _npz(path) if path.suffix == ".npz" else _torch(path)
    return _splits(str(path), arrays, asked)


def has_arrays(root: Path) -> bool:
    """Whether a folder holds images as .npy or IDX files."""
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    return any(_IDX.match(name) for name in names) or any(
        name.endswith("images.npy") for name in names
    )


def open_folder(root: Path, asked: Asked) -> Splits:
    """The splits of a folder of .npy files, called as the arrays of `open_file`, or of IDX files
    called train-images-idx3-ubyte(.gz) and so on. Arrays of .npy files are read as they are used.

    Raises: ValueError: arrays missing, a damaged file
    """
    arrays: dict[str, np.ndarray] = {}
    for path in sorted(root.iterdir()):
        match = _IDX.match(path.name)
        if match:
            arrays[f"{match[1]}_{match[2]}"] = read_idx(path)
        elif path.suffix == ".npy":
            arrays[path.stem] = _npy(path)
    return _splits(str(root), arrays, asked)


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes, packed by gzip or not.

    Shape:  -> as its header says
    Raises: ValueError: not such a file, or of another length than its header says
    Source: LeCun, "The MNIST database", section "File formats"
    """
    try:
        with _idx_stream(path) as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] != 8 or not 1 <= head[3] <= 4:
                raise checks.invalid(
                    "data", str(path), "an IDX file of unsigned bytes",
                    f"one that starts with {head.hex(' ') or 'nothing'}", "Download it anew.",
                )  # fmt: skip
            shape = tuple(np.frombuffer(file.read(4 * head[3]), ">u4").astype(int).tolist())
            size = math.prod(shape)
            if len(shape) < head[3] or size > _MOST_BYTES:
                raise checks.invalid(
                    "data", str(path), f"at most {_MOST_BYTES:,} bytes", f"a header of {shape}",
                    "Download it anew.",
                )  # fmt: skip
            content = file.read(size + 1)
    except (OSError, EOFError) as error:
        if isinstance(error, checks.UserMistake):
            raise
        raise checks.invalid(
            "data", str(path), "a whole IDX file", f"an error ({error})", "Download it anew."
        ) from None
    if len(content) != size:
        found = "more" if len(content) > size else f"{len(content):,}"
        raise checks.invalid(
            "data", str(path), f"{size:,} bytes long after its header", found, "Download it anew."
        )
    return np.frombuffer(content, np.uint8).reshape(shape).copy()


def _idx_stream(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _npz(path: Path) -> Arrays:
    try:
        with zipfile.ZipFile(path) as packed:
            total = sum(one.file_size for one in packed.infolist())
        if total > _MOST_BYTES:
            raise checks.invalid(
                "data", str(path), f"at most {_MOST_BYTES:,} bytes unpacked", f"{total:,}",
                "Save it as .npy files, which are read as they are used.",
            )  # fmt: skip
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, checks.UserMistake):
            raise
        raise _damaged(path, "a .npz file of numbers", error) from None


def _npy(path: Path) -> np.ndarray:
    try:
        return cast(np.ndarray, np.load(path, mmap_mode="c", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, "a .npy file of numbers", error) from None


def _torch(path: Path) -> Arrays:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise _damaged(path, "a torch file of tensors alone", error) from None
    if not isinstance(stored, dict):
        raise checks.invalid(
            "data", str(path), "a dictionary of tensors", type(stored).__name__,
            'Save {"images": …, "labels": …}.',
        )  # fmt: skip
    return {
        str(name): value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for name, value in stored.items()
    }


def _damaged(path: Path, rule: str, error: Exception) -> checks.InvalidValue:
    found = f"an error ({checks.first_line(error)})"
    return checks.invalid("data", str(path), rule, found, "Save it anew, without objects.")


def _splits(where: str, arrays: Arrays, asked: Asked) -> Splits:
    lower = {name.lower(): value for name, value in arrays.items()}
    classes = next((lower[name] for name in _CLASSES if name in lower), None)
    names = None if classes is None else [str(name) for name in classes.tolist()]
    task = asked.task
    train = _source(where, lower, ("train",), names, task) or _source(where, lower, (), names, task)
    if train is None:
        raise checks.invalid(
            "data", f"the arrays in {where}", "train_images and train_labels, or images and labels",
            ", ".join(sorted(arrays)) or "none", "Name them so.",
        )  # fmt: skip
    if names is None:
        names = list(train.classes)
    val = _source(where, lower, _VALIDATION, names, train.task)
    return own(train, val, seed=asked.seed, val_fraction=asked.val_fraction, task=task)


def _source(
    where: str,
    arrays: Arrays,
    prefixes: Sequence[str],
    classes: Sequence[str] | None,
    task: Task | None,
) -> ArraySource | None:
    """The source of train_images and train_labels, by prefixes and the usual names."""

    def find(names: Sequence[str]) -> tuple[str, np.ndarray] | None:
        tried = [
            key
            for name in names
            for prefix in prefixes
            for key in (f"{prefix}_{name}", f"{name}_{prefix}", f"{prefix}{name}")
        ]
        key = next((key for key in tried if key in arrays), None) if prefixes else next(
            (name for name in names if name in arrays), None
        )  # fmt: skip
        return None if key is None else (key, arrays[key])

    images, labels = find(_IMAGES), find(_TARGETS)
    if images is None:
        return None
    if labels is None:
        raise checks.invalid(
            "data", f"the arrays in {where}", f"with labels for {images[0]}",
            ", ".join(sorted(arrays)), "Call them as the images, with labels in place of images.",
        )  # fmt: skip
    for name, array in (images, labels):
        if array.dtype.kind not in "iufb":
            raise checks.invalid(
                "data", f"{name} in {where}", "numbers", array.dtype, "Save them so."
            )
    return ArraySource(images[1], labels[1], classes, task=task)
