"""What a run says of images where the task is not one class for each: labels, numbers, masks.

Shape letters: B images, K classes or labels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from toque import checks, data, durable
from toque.deploy.predict import Progress, files_of
from toque.random import Key
from toque.train.restore import Trained, load_model

_BATCH_IMAGES = 16


@dataclass(frozen=True, eq=False)
class LabelsAnswer:
    """The probability of each label of an image, by name."""

    image: str
    probabilities: dict[str, float]

    def above(self, threshold: float) -> list[str]:
        """The labels that are more probable, the most probable first."""
        ordered = sorted(self.probabilities.items(), key=lambda pair: -pair[1])
        return [name for name, share in ordered if share > threshold]

    def as_dict(self) -> dict[str, Any]:
        return {"image": self.image, "probabilities": self.probabilities}


@dataclass(frozen=True, eq=False)
class NumbersAnswer:
    """The numbers of an image, by name, in the units that they were trained in."""

    image: str
    numbers: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return {"image": self.image, "numbers": self.numbers}


@dataclass(frozen=True, eq=False)
class MaskAnswer:
    """The class of each pixel of an image: uint8 [H, W] of the image's own size."""

    image: str
    names: tuple[str, ...]
    mask: npt.NDArray[np.uint8]

    @property
    def shares(self) -> dict[str, float]:
        """The share of the pixels that each class has."""
        counts = np.bincount(self.mask.reshape(-1), minlength=len(self.names))
        return dict(zip(self.names, (counts / self.mask.size).tolist(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        return {"image": self.image, "shares": self.shares}

    def write(self, file: Path) -> None:
        """A PNG of the class numbers, with a palette that makes them visible."""
        import io

        from PIL import Image

        picture = Image.fromarray(self.mask)
        picture.putpalette(palette(len(self.names)).reshape(-1).tolist())
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        durable.write(file, stream.getvalue())


Answer = LabelsAnswer | NumbersAnswer | MaskAnswer


def palette(num_classes: int) -> npt.NDArray[np.uint8]:
    """A colour for each class, the first one black, neighbours far apart: [K, 3]."""
    import colorsys

    golden = 0.61803398875
    colours = [(0.0, 0.0, 0.0)] + [
        colorsys.hsv_to_rgb(number * golden % 1, 0.65, 0.95) for number in range(1, num_classes)
    ]
    return (np.array(colours[:num_classes]) * 255).round().astype(np.uint8)


def answer(
    run: str | Path,
    images: Sequence[str | Path],
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Answer]:
    """What a finished run on labels, numbers or masks says of image files.

    Each file is decoded as in training and prepared as in validation; a mask comes back at the
    image's own size, its logits enlarged bilinearly. Folders are searched to the bottom.

    Raises:  FileNotFoundError: no such run, image or folder
             ValueError: a file that is no image; a run on one class for each image (use `predict`)
    Example: >>> answer("runs/nuclei", ["cells.png"])[0].mask.shape
             (520, 696)
    """
    trained = load_model(run, device=device)
    if trained.task.name == "classification":
        raise checks.invalid(
            "answer", "the run", "one on labels, numbers or masks", "one on classes",
            "Use toque.deploy.predict.",
        )  # fmt: skip
    files = list(files_of(images))
    found: list[Answer] = []
    for start in range(0, len(files), _BATCH_IMAGES):
        found += _ask(trained, files[start : start + _BATCH_IMAGES], device)
        if progress is not None:
            progress(len(found), len(files))
    return found


def _ask(trained: Trained, files: Sequence[Path], device: str) -> Iterator[Answer]:
    pixels = [data.decode(file, channels=trained.channels) for file in files]
    prepared = trained.pipeline(pixels, key=Key(0, 0, np.arange(len(pixels))))
    with torch.inference_mode():
        outputs = trained.model(prepared.to(device)).cpu()
        if outputs.ndim == 4:
            sizes = [image.shape[1:] for image in pixels]
            yield from _masks(trained.classes, files, outputs, sizes)
            return
        answers = trained.task.answer()(outputs).tolist()
    for file, row in zip(files, answers, strict=True):
        named = dict(zip(trained.classes, row, strict=True))
        if trained.task.name == "multilabel":
            yield LabelsAnswer(str(file), named)
        else:
            yield NumbersAnswer(str(file), named)


def _masks(
    names: tuple[str, ...],
    files: Sequence[Path],
    outputs: torch.Tensor,
    sizes: Sequence[torch.Size],
) -> Iterator[MaskAnswer]:
    for file, logits, size in zip(files, outputs, sizes, strict=True):
        large = F.interpolate(
            logits[None].float(), size=tuple(size), mode="bilinear", align_corners=False
        )
        yield MaskAnswer(str(file), names, large[0].argmax(0).to(torch.uint8).numpy())
