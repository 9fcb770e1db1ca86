"""Predictions of a finished run for image files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toque import checks, data
from toque.random import Key
from toque.train import load_model

_BATCH_IMAGES = 32


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    confidence: probability of `label`, 0 to 1; probabilities: of every class, by name
    """

    image: str
    label: str
    confidence: float
    probabilities: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `toque predict --json` prints them."""
        return asdict(self)


def predict(
    run: str | Path, images: Sequence[str | Path], *, device: str = "cpu"
) -> list[Prediction]:
    """The class probabilities of image files, or of every image in folders, by a finished run.

    Each file is decoded as in training and prepared as in validation. Folders are searched to the
    bottom, in the order of their names.

    Raises:  FileNotFoundError: no such run, image or folder; a folder without images
             ValueError: a file that is no image, or a damaged one
    Example: >>> predict("runs/flowers", ["garden.jpg"])[0].label
    """
    trained = load_model(run, device=device)
    predictions = []
    files = list(_files(images))
    for start in range(0, len(files), _BATCH_IMAGES):
        names = files[start : start + _BATCH_IMAGES]
        pixels = [data.decode(name, channels=trained.channels) for name in names]
        key = Key(0, 0, np.arange(len(pixels)))  # the validation pipeline draws nothing from it
        with torch.inference_mode():
            outputs = trained.model(trained.pipeline(pixels, key=key).to(device))
        for name, shares in zip(names, outputs.float().softmax(1).tolist(), strict=True):
            best = int(np.argmax(shares))
            predictions.append(
                Prediction(
                    image=str(name),
                    label=trained.classes[best],
                    confidence=shares[best],
                    probabilities=dict(zip(trained.classes, shares, strict=True)),
                )
            )
    return predictions


def _files(images: Iterable[str | Path]) -> Iterable[Path]:
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
            near = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
            hint = checks.nearest(path.name, near) if near else "Check the path."
            raise checks.MissingFile(
                f"predict: {path} must be an image file; there is none. {hint}"
            )
