"""What depends on the task of a run, each task in a file: loss, outputs, metrics, score, pictures.

task.py            what a task says, and what an evaluation holds
classification.py  one class for an image       multilabel.py    yes or no for each label
regression.py      numbers                      segmentation.py  a class for each pixel

`of(source)` is the task of a source; `restored(details)` the one of a trained model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toque import checks
from toque.data import Source
from toque.train.metrics.shown import Metric
from toque.train.tasks.classification import ClassEvaluation, Classification
from toque.train.tasks.multilabel import LabelsEvaluation, Multilabel
from toque.train.tasks.regression import NumbersEvaluation, Regression
from toque.train.tasks.segmentation import MaskEvaluation, Segmentation
from toque.train.tasks.task import Evaluation, Task

_KINDS: dict[str, type[Task]] = {
    kind.name: kind for kind in (Classification, Multilabel, Regression, Segmentation)
}

__all__ = [
    "ClassEvaluation",
    "Classification",
    "Evaluation",
    "LabelsEvaluation",
    "MaskEvaluation",
    "Metric",
    "Multilabel",
    "NumbersEvaluation",
    "Regression",
    "Segmentation",
    "Task",
    "in_words",
    "kind",
    "of",
    "restored",
]


def of(source: Source, *, standardised: bool = True) -> Task:
    """The task that the targets of a training source make.

    Args: standardised: numbers are learnt as (number - mean) / std of this source
    """
    return _KINDS[source.task].of_source(source, standardised)


def kind(name: str) -> type[Task]:
    """The kind of task of that name; of classification for a run that does not say."""
    return _KINDS.get(name, Classification)


def in_words(source: Source, index: int) -> str | None:
    """What belongs to an image of a source, as a caption says it."""
    return _KINDS[source.task].words(source.classes, source.labels[index])


def restored(details: Mapping[str, Any]) -> Task:
    """The task of a trained model, from what its weights file says; one without a word of it is
    of classification, as all were once.

    Raises: ValueError: a task of a newer toque
    """
    name = details.get("task", Classification.name)
    if name not in _KINDS:
        raise checks.invalid(
            "load_model", "the task", f"one of {', '.join(_KINDS)}", name, "Use a newer toque."
        )
    return _KINDS[name].of_details(details)
