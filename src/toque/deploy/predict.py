"""What a model says of image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toque import checks
from toque.deploy.answers import Answer
from toque.deploy.asking import Progress, each_answer, opened
from toque.deploy.predictions import Prediction


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
    """The class or label probabilities of image files, or of every image in folders.

    Each file is decoded as in training and prepared as in validation. Folders are searched to the
    bottom, in the order of their names.

    Args:    source: a finished run's folder, or an exported file
             images: files and folders; "-" is standard input: one image, or paths, one a line
             trust: as for `load`
             mirrored: answer with the mean over the image and its mirror image
             calibrate: with the confidence that the run's temperature gives
    Raises:  FileNotFoundError: no such run, image or folder; a folder without images
             ValueError: a file that is no image, or a damaged one; a model of numbers or masks
    Example: >>> predict("runs/flowers", ["garden.jpg"])[0].label
    """
    model = opened(source, device=device, trust=trust, mirrored=mirrored, calibrate=calibrate)
    found = []
    for one in each_answer(model, images, progress=progress):
        if not isinstance(one, Prediction):
            raise checks.invalid(
                "predict", "the model", "of classes or labels", model.task,
                "Use toque.deploy.answer, which answers for every task.",
            )  # fmt: skip
        found.append(one)
    return found


def answer(
    source: str | Path,
    images: Sequence[str | Path],
    *,
    device: str = "cpu",
    trust: bool = False,
    mirrored: bool = False,
    progress: Progress | None = None,
) -> list[Answer]:
    """What a run or file says of image files, whatever its task: a Prediction of classes or labels,
    a NumbersAnswer in the units of the table, or a MaskAnswer at the image's own size.

    Args, Raises: as `predict`, for every task
    Example: >>> answer("runs/nuclei", ["cells.png"])[0].mask.shape
             (520, 696)
    """
    model = opened(source, device=device, trust=trust, mirrored=mirrored)
    return list(each_answer(model, images, progress=progress))
