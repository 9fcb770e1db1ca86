"""What to try next, from how a run of a classifier went: a few sentences with their evidence.

They are rules of thumb of the field, each with the number that speaks for it; none is a promise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toque.models.catalog import has_weights
from toque.train.metrics import Scores
from toque.train.run import Run

_GAP = 0.15  # of accuracy, training above validation: learnt by heart
_CLOSE = 0.05  # training not above validation by more: there is more to learn
_FEW_IMAGES = 5_000
_WIDE = 0.1  # an interval of accuracy that hides what most changes bring
_RARE = 0.5  # of the mean number of images of a class
_SMALLEST_PX = 96  # published weights are for photos
_NAMED = 3


def next_steps(
    run: Run,
    rows: Sequence[Mapping[str, Any]],
    scores: Scores,
    classes: Sequence[str],
    train_counts: npt.NDArray[np.int64] | None,
) -> list[str]:
    """What a person may try after this run, what promises most first; nothing where all is well.

    Args: run: resolved settings
          rows: of metrics.jsonl
          scores: of the kept weights on the validation images
          classes: K names
          train_counts: training images of each class [K], if the data is at hand
    """
    said = []
    longer = f"--set epochs={2 * run.epochs:g}"
    counts = np.bincount(scores.answers.targets, minlength=len(classes))
    right = np.bincount(scores.answers.targets[scores.answers.right], minlength=len(classes))
    share, accuracy = counts.max() / counts.sum(), scores.accuracy
    weights = _weights(run, train_counts)
    if accuracy.low <= share:
        said.append(
            f"Whoever always answers {classes[int(counts.argmax())]} is right on "
            f"{_percent(share)} of these images; this model, on {accuracy.percent()}, has hardly "
            f"learnt more. Train longer ({longer}), or look for the rate with toque tune-lr."
        )
    unknown = np.flatnonzero((counts > 0) & (right == 0))
    if len(unknown):
        said.append(_unrecognised(run, unknown.tolist(), classes, train_counts))
    training = _training_accuracy(rows)
    validations = [row for row in rows if row["split"] == "val"]
    if training is not None and training - accuracy.value >= _GAP and training > accuracy.high:
        said.append(
            f"On training images it is right in {_percent(training)}, on others in "
            f"{_percent(accuracy.value)}: it learns them by heart. More images help most; then "
            f"augmentation (--set augment=imagenet){' and published weights' if weights else ''}."
        )
    elif (
        training is not None and training - accuracy.value <= _CLOSE
        and _ends_at_its_best(validations) and share < accuracy.low and accuracy.value < 1
    ):  # fmt: skip
        said.append(
            "The last validation was the best, and training images are no easier to it than "
            f"others: a longer run is likely to learn more ({longer})."
        )
    if weights:
        said.append(weights)
    if accuracy.high - accuracy.low > _WIDE:
        said.append(
            f"{counts.sum():,} validation images tell the accuracy to {accuracy.percent()}: "
            "a change that gains less than that cannot be seen on them, unless toque report "
            "compares two runs image by image."
        )
    return said


def _unrecognised(
    run: Run, unknown: list[int], classes: Sequence[str], counts: npt.NDArray[np.int64] | None
) -> str:
    text = f"Never recognised: {_some([classes[n] for n in unknown])}."
    few = [] if counts is None else [n for n in unknown if counts[n] < _RARE * counts.mean()]
    if counts is None or not few:
        return text
    text += (
        f" Training images are few of {_some([f'{classes[n]} ({counts[n]})' for n in few])}: add"
    )
    if run.sampling.name == "shuffle":
        return text + " some, or show all classes equally often (--set sampling.name=balanced)."
    return text + " some."


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _weights(run: Run, counts: npt.NDArray[np.int64] | None) -> str:
    """Whether to begin from published weights; "" where they were, or there are none to fit."""
    few = counts is not None and counts.sum() < _FEW_IMAGES
    small = run.image_size is None or run.image_size < _SMALLEST_PX
    if run.pretrained or small or not few or not has_weights(run.model or ""):
        return ""
    assert counts is not None
    return (
        f"{counts.sum():,} training images are few for a network that begins from nothing: "
        "published weights usually gain most (--set pretrained=true downloads them once; "
        "pip install 'toque[zoo]')."
    )


def _training_accuracy(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Of the images seen since the last validation but one; None where rows have none."""
    ends = [row["images_seen"] for row in rows if row["split"] == "val"]
    since = ends[-2] if len(ends) > 1 else 0
    found = [
        row["accuracy"]
        for row in rows
        if row["split"] == "train" and row["images_seen"] > since and "accuracy" in row
    ]
    return float(np.mean(found)) if found else None


def _ends_at_its_best(validations: Sequence[Mapping[str, Any]]) -> bool:
    values = [row["accuracy"] for row in validations if "accuracy" in row]
    return len(values) > 1 and values[-1] >= max(values)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
