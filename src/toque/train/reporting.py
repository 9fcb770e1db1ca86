"""What the report of a finished run shows, gathered from the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from toque import augment, durable, random
from toque.data import Splits
from toque.random import Key
from toque.train import run as settings_of
from toque.train.folder import RunFolder
from toque.train.log import Row
from toque.train.measure import Evaluation
from toque.train.run import Run

if TYPE_CHECKING:
    from toque.train.report import Picture

_MISTAKES = 24
_AUGMENTED = 24


def write_report(
    asked: Run,
    run: Run,
    out: RunFolder,
    splits: Splits,
    pipeline: augment.Compose | None,
    evaluation: Evaluation,
    rows: Sequence[Row],
    recorded: Mapping[str, Any],
    notes: Sequence[str],
    *,
    images_seen: int,
    seconds: float,
) -> None:
    """Write report.html of a run; `asked` are its settings before the unset ones were chosen."""
    # Imported here: Jinja and Pillow are needed by the report alone.
    from toque.train import report

    classified = evaluation.accuracy is not None
    validations = [row for row in rows if row["split"] == "val"]
    best = max(
        validations, key=lambda row: row.get("accuracy", -row["loss"]), default={"epoch": None}
    )
    settings = run.as_dict()
    environment = {key: value for key, value in recorded.items() if key != "classes"}
    report.write(
        out.report,
        report.ReportData(
            title=out.path.resolve().name,
            settings=settings,
            changed=_changed(asked),
            metrics=rows,
            classes=splits.classes,
            confusion=evaluation.confusion(len(splits.classes)) if classified else None,
            mistakes=_mistakes(splits, evaluation) if classified else (),
            augmented=_augmented(run, splits, pipeline) if pipeline is not None else (),
            environment={"seed": run.seed, **environment},
            outcome={
                "accuracy": evaluation.accuracy,
                "loss": evaluation.loss,
                "best_epoch": best["epoch"],
                "seconds": seconds,
                "images_seen": images_seen,
                "weights": out.weights.name,
                "sha256": durable.sha256(out.weights),
            },
            notes=notes,
        ),
    )


def _changed(asked: Run) -> set[str]:
    """The settings that the caller gave and that are not the defaults."""
    default, given = (settings_of.flat(run.as_dict()) for run in (Run(), asked))
    return {key for key, value in given.items() if default.get(key) != value}


def _mistakes(splits: Splits, evaluation: Evaluation) -> list[Picture]:
    """The images answered wrong with the most confidence."""
    from toque.train.report import Picture

    predicted = evaluation.predictions
    confidence = evaluation.probabilities.max(1)
    wrong = np.flatnonzero(predicted != evaluation.targets)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
    pictures = []
    for number in worst.tolist():
        index = int(evaluation.indices[number])
        pictures.append(
            Picture(
                image=_displayed(splits.val.read(index)),
                name=splits.val.name(index),
                true=splits.classes[evaluation.targets[number]],
                predicted=splits.classes[predicted[number]],
                confidence=float(confidence[number]),
            )
        )
    return pictures


def _augmented(run: Run, splits: Splits, pipeline: augment.Compose) -> list[Picture]:
    """The first images of the training, as the model saw them."""
    from toque.train.report import Picture, denormalise

    size = len(splits.train)
    indices = random.permutation(run.seed, 0, size, 0, min(_AUGMENTED, size))
    images = [splits.train.read(int(index)) for index in indices]
    batch = pipeline(images, key=Key(run.seed, 0, indices))
    mean, std = [0.0], [1.0]
    for transform in pipeline.transforms:
        if isinstance(transform, augment.Normalize):
            mean, std = list(transform.mean), list(transform.std)
    pictures = denormalise(batch, mean, std)
    return [
        Picture(
            image=picture,
            name=splits.train.name(int(index)),
            caption=splits.classes[int(splits.train.labels[int(index)])],
        )
        for picture, index in zip(pictures, indices, strict=True)
    ]


def _displayed(image: torch.Tensor) -> np.ndarray:
    """An image of a source as the report takes it: uint8 [H, W] or [H, W, 3]."""
    if image.is_floating_point():
        image = (image * 255).round().clamp(0, 255).to(torch.uint8)
    if image.shape[0] == 2 or image.shape[0] > 3:
        image = image[:1]
    pixels = image.permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
