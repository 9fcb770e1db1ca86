"""Predictions of a model for image files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from toque import checks, data
from toque.deploy.load import load
from toque.deploy.predictions import Prediction
from toque.deploy.predictor import both_ways, calibrated

_BATCH_IMAGES = 32

Progress = Callable[[int, int], None]
"""Told, after each batch, how many images are done and how many there are."""


def predict(
    source: str | Path,
    images: Sequence[str | Path],
    *,
    device: str = "cpu",
    trust: bool = False,
    mirrored: bool = False,
    calibrate: bool = False,
    progress: Progress | None = None,
) -> list[Prediction]:
    """The class probabilities of image files, or of every image in folders.

    Each file is decoded as in training and prepared as in validation. Folders are searched to the
    bottom, in the order of their names.

    Args:    source: a finished run's folder, or an exported file
             images: files and folders; "-" is one image on standard input
             trust: as for `load`
             mirrored: answer with the mean over the image and its mirror image
             calibrate: with the confidence that the run's temperature gives
    Raises:  FileNotFoundError: no such run, image or folder; a folder without images
             ValueError: a file that is no image, or a damaged one
    Example: >>> predict("runs/flowers", ["garden.jpg"])[0].label
    """
    model = load(source, device=device, trust=trust)
    if calibrate:
        model = calibrated(model)
    if mirrored:
        model = both_ways(model)
    files = list(files_of(images))
    predictions: list[Prediction] = []
    for start in range(0, len(files), _BATCH_IMAGES):
        batch = files[start : start + _BATCH_IMAGES]
        read = [_from_standard_input() if str(file) == "-" else file for file in batch]
        found = model(read, names=[str(file) for file in batch])
        predictions.extend(found)
        if progress is not None:
            progress(len(predictions), len(files))
    return predictions


def _from_standard_input() -> bytes:
    content = sys.stdin.buffer.read()
    if not content:
        raise checks.invalid(
            "predict", "-", "an image on standard input", "nothing",
            "Send one, as in: toque predict RUN - < garden.jpg",
        )  # fmt: skip
    return content


def files_of(images: Iterable[str | Path]) -> Iterator[Path]:
    """The files that a caller named, those in folders in the order of their names."""
    for name in images:
        path = Path(name)
        if str(name) == "-":
            yield path
        elif path.is_dir():
            inside = [path / name for name in data.files_below(path)]
            if not inside:
                raise checks.MissingFile(
                    f"predict: {path} must hold images; there are none. Give image files."
                )
            yield from inside
        elif path.is_file():
            yield path
        else:
            near = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
            hint = checks.nearest(path.name, near) if near else "Check the path."
            raise checks.MissingFile(
                f"predict: {path} must be an image file; there is none. {hint}"
            )
