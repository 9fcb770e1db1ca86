"""What an exported file says about itself, and how it is read back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toque import checks

FORMAT = 1
CLASSIFICATION, MULTILABEL = "classification", "multilabel"
REGRESSION, SEGMENTATION = "regression", "segmentation"
TASKS = (CLASSIFICATION, MULTILABEL, REGRESSION, SEGMENTATION)
INPUT = "images"


def check_task(where: str, task: str) -> None:
    """Raise ValueError for a task of a newer toque."""
    if task not in TASKS:
        raise checks.invalid(
            where, "the task", f"one of {', '.join(TASKS)}", task, "Install a newer toque."
        )


@dataclass(frozen=True)
class FileDetails:
    """What stands in the metadata of every exported file, as JSON under `toque`.

    version:        of toque, that wrote it
    model, classes, in_channels, image_size: what toque.models.create needs
    preprocessing:  in words
    weights_sha256: of the run's weights.safetensors
    size:           height and width of the only images it takes, in pixels; any if unset
    precision:      of the weights: float32, half or int8
    task:           classification, multilabel (probabilities by themselves, not of sum 1),
                    regression or segmentation; `classes` are names of labels or numbers, too
    temperature:    that calibrates the confidence, where the run knows one
    calibrated:     whether its answers are already divided by it
    mean, std:      of the numbers of a regression in the training set: what undoes standardising
    thresholds:     of a multilabel model, the probability from which each label is named; a half
                    if unset
    """

    version: str
    model: str
    classes: tuple[str, ...]
    in_channels: int
    image_size: int
    preprocessing: str
    weights_sha256: str
    size: tuple[int, int] | None = None
    precision: str = "float32"
    task: str = CLASSIFICATION
    temperature: float | None = None
    calibrated: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    format: int = FORMAT

    def as_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_details(path: Path, text: str | None) -> FileDetails:
    """The details out of a file's metadata.

    Raises: ValueError: a file that toque did not write, or a newer toque did
    """
    try:
        tree = json.loads(text or "")
        # The weights of a run say less than an exported file.
        known = {
            "version": "", "preprocessing": "", "weights_sha256": "",
            **{key: tree[key] for key in tree if key in FileDetails.__dataclass_fields__},
        }  # fmt: skip
        size = known.get("size")
        details = FileDetails(
            **{
                **known,
                "classes": tuple(known["classes"]),
                "mean": tuple(map(float, known.get("mean", ()))),
                "std": tuple(map(float, known.get("std", ()))),
                "thresholds": tuple(map(float, known.get("thresholds", ()))),
                "size": None if size is None else (int(size[0]), int(size[1])),
            }
        )
    except (ValueError, TypeError, KeyError) as error:
        raise checks.invalid(
            "load", str(path), "a file that toque export wrote", "one without toque's metadata",
            "Write one with: toque export RUN.",
        ) from error  # fmt: skip
    check_task("load", details.task)
    numbers = len(details.classes) if details.task == REGRESSION else 0
    if len(details.mean) != numbers or len(details.std) != numbers:
        raise checks.invalid(
            "load", str(path), f"with a mean and a deviation of each of its {numbers} numbers",
            f"{len(details.mean)} and {len(details.std)}", "Write it again with: toque export RUN.",
        )  # fmt: skip
    if details.thresholds and len(details.thresholds) != len(details.classes):
        raise checks.invalid(
            "load", str(path), f"with a threshold of each of its {len(details.classes)} labels",
            len(details.thresholds), "Write it again with: toque export RUN.",
        )  # fmt: skip
    if details.format > FORMAT:
        raise checks.invalid(
            "load", str(path), f"of format {FORMAT} or older", details.format,
            "Install a newer toque.",
        )  # fmt: skip
    return details
