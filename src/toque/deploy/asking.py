"""Asking a model about files, folders, or what comes on standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from toque import checks, data
from toque.deploy.answers import Answer
from toque.deploy.load import load
from toque.deploy.predictor import Predictor, both_ways, calibrated

STANDARD_INPUT = "-"
_BATCH_IMAGES = 16
_MOST_PATHS_BYTES = 64 * 2**20

Progress = Callable[[int, int], None]
"""Told, after each image, how many are done and how many there are."""


def opened(
    source: str | Path,
    *,
    device: str = "cpu",
    trust: bool = False,
    mirrored: bool = False,
    calibrate: bool = False,
) -> Predictor:
    """A predictor that answers as asked; arguments as of `predict.predict`."""
    model = load(source, device=device, trust=trust)
    if calibrate:
        model = calibrated(model)
    return both_ways(model) if mirrored else model


def each_answer(
    model: Predictor, images: Sequence[str | Path], *, progress: Progress | None = None
) -> Iterator[Answer]:
    """What a model says of each file, as it comes: no more than a batch is held at once.

    Raises: as `predict.predict`
    """
    files = list(_named(images))
    done = 0
    for start in range(0, len(files), _BATCH_IMAGES):
        batch = files[start : start + _BATCH_IMAGES]
        names = [STANDARD_INPUT if isinstance(file, bytes) else str(file) for file in batch]
        for found in model.answers(batch, names=names, batch_size=_BATCH_IMAGES):
            yield found
            done += 1
            if progress is not None:
                progress(done, len(files))


def _named(images: Iterable[str | Path]) -> Iterator[Path | bytes]:
    for name in images:
        if str(name) != STANDARD_INPUT:
            yield from files_of([name])
            continue
        content = sys.stdin.buffer.read()
        paths = _paths(content)
        if paths is None:
            yield content
        else:
            yield from files_of(paths)


def _paths(content: bytes) -> list[str] | None:
    """The paths in what standard input gave, one a line; None if it is an image.

    No image format that is decoded is text: all have bytes that UTF-8 has not, or zeros.
    """
    if len(content) <= _MOST_PATHS_BYTES and b"\0" not in content:
        try:
            lines = [line.strip() for line in content.decode("utf-8").splitlines()]
        except UnicodeDecodeError:
            return None
        if paths := [line for line in lines if line]:
            return paths
    if not content.strip():
        raise checks.invalid(
            "predict", "-", "an image on standard input, or paths, one a line", "nothing",
            "Send one, as in: toque predict RUN - < garden.jpg",
        )  # fmt: skip
    return None


def files_of(images: Iterable[str | Path]) -> Iterator[Path]:
    """The files that a caller named, those in folders in the order of their names."""
    for name in images:
        path = Path(name)
        if path.is_dir():
            inside = [path / name for name in data.files_below(path)]
            if not inside:
                raise checks.MissingFile(
                    f"predict: {path} must hold images; there are none. Give image files."
                )
            yield from inside
        elif path.is_file():
            yield path
        else:
            near = [str(found) for found in path.parent.iterdir()] if path.parent.is_dir() else []
            hint = checks.nearest(str(path), near)
            hint = hint if "mean" in hint else f"Check the path; this is {Path.cwd()}."
            raise checks.MissingFile(
                f"predict: {path} must be an image file; there is none. {hint}"
            )
