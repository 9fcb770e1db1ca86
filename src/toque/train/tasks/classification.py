"""One class for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toque.models.answers import Softmax
from toque.train.metrics import Answers, Doubt, Interval, Scores, score, suspects, unlearnt
from toque.train.metrics.answers import answers_of
from toque.train.metrics.counting import num_correct
from toque.train.metrics.shown import Metric, Table, percent
from toque.train.tasks.task import Evaluation, Tally, Task


class Classification(Task):
    """Cross-entropy over class numbers; the accuracy decides."""

    name = "classification"
    metrics = (Metric("accuracy", "accuracy"),)
    loss_name = "cross_entropy"
    smoothing = 0.1
    counts_right = True
    doubted = (
        "whose label the model contradicts as firmly as it supports others of the class it names"
    )
    doubted_learnt = "whose label the model contradicts although it learnt from it"

    @staticmethod
    def words(names: Sequence[str], label: npt.NDArray[Any]) -> str | None:
        return names[int(label)]

    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(2, self.num_outputs), torch.zeros(2, dtype=torch.int64)

    def answer(self) -> nn.Module:
        return Softmax()

    def tally(self) -> Tally:
        return _Tally()


@dataclass(frozen=True, eq=False)
class ClassEvaluation(Evaluation):
    """What a model answers on N images of K classes; no metrics where it gives no class scores.

    targets:       [N] int64
    probabilities: [N, K] float32; empty where the outputs are no class scores
    """

    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    def table(self, names: Sequence[str]) -> Table:
        from toque.train.report.confusion import scores

        return Table(
            ("class", "images", "recall", "precision", "F1"),
            [
                (one.name, str(one.count), *map(percent, (one.recall, one.precision, one.f1)))
                for one in scores(self.confusion(len(names)), names)
            ],
        )

    def doubts(self, names: Sequence[str], validation: Evaluation | None = None) -> list[Doubt]:
        if not self.probabilities.size:
            return []
        answers = answers_of(self.indices, self.targets, self.probabilities)
        return doubts(answers, names, learnt=validation is not None)

    def scores(self, seed: int) -> Scores | None:
        if self.accuracy is None or self.targets.ndim != 1 or self.targets.dtype.kind != "i":
            return None
        return score(self.indices, self.targets, self.probabilities, seed=seed)

    def summary(
        self, scores: Scores | None = None, intervals: Mapping[str, Interval] | None = None
    ) -> str:
        if scores is None:
            return super().summary(None, intervals)
        return f"{scores.summary()}, loss {self.loss:.4f} on {len(self)}"

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        return {
            "images": len(self),
            "loss": self.loss,
            "accuracy": self.accuracy,
            "classes": list(names),
            "confusion": self.confusion(len(names)).tolist(),
        }

    @property
    def predictions(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image: [N] int64."""
        return np.asarray(self.probabilities.argmax(1), dtype=np.int64)

    def confusion(self, num_classes: int) -> npt.NDArray[np.int64]:
        """Counts [K, K]: rows are the true classes, columns the predicted ones.

        A model may have more outputs than there are classes; an answer there counts nowhere.
        """
        known = self.predictions < num_classes
        targets, predictions = self.targets[known], self.predictions[known]
        cells = targets * num_classes + predictions
        counts = np.bincount(cells, minlength=num_classes**2)
        return counts.reshape(num_classes, num_classes).astype(np.int64)


@dataclass(frozen=True, eq=False)
class KeptEvaluation(Evaluation):
    """What a run keeps of an evaluation on its validation images: see `metrics.answers`."""

    answers: Answers

    def doubts(self, names: Sequence[str], validation: Evaluation | None = None) -> list[Doubt]:
        return doubts(self.answers, names, learnt=validation is not None)


def doubts(answers: Answers, names: Sequence[str], *, learnt: bool = False) -> list[Doubt]:
    """The images whose labels kept answers contradict, the firmest contradiction first.

    Args: learnt: they are about images that the model was trained on
    """
    return [
        Doubt(
            int(answers.indices[one.row]),
            f"{named(names, one.label)} ({percent(one.label_probability)})",
            f"{named(names, one.answer)} ({percent(one.answer_probability)})",
            one.answer_probability - one.label_probability,
        )
        for one in (unlearnt if learnt else suspects)(answers)
    ]


def named(names: Sequence[str], number: int) -> str:
    """A class by its name; a model may have more outputs than there are classes."""
    return names[number] if number < len(names) else f"output {number}"


class _Tally(Tally):
    def __init__(self) -> None:
        self._right: int | None = 0
        self._indices: list[npt.NDArray[np.int64]] = []
        self._targets: list[npt.NDArray[np.int64]] = []
        self._probabilities: list[npt.NDArray[np.float32]] = []

    def add(
        self, outputs: torch.Tensor, targets: torch.Tensor, indices: npt.NDArray[np.int64]
    ) -> None:
        right = num_correct(outputs, targets)
        self._indices.append(indices)
        self._targets.append(targets.cpu().numpy())
        if right is None or self._right is None:
            self._right = None
        else:
            self._right += right
            self._probabilities.append(outputs.float().softmax(1).cpu().numpy())

    def counted(self) -> tuple[Any, ...]:
        return self._right, self._indices, self._targets, self._probabilities

    def put(self, counted: Sequence[tuple[Any, ...]]) -> None:
        rights, indices, targets, probabilities = zip(*counted, strict=True)
        self._right = None if None in rights else sum(rights)
        self._indices, self._targets = (
            list(chain.from_iterable(indices)),
            list(chain.from_iterable(targets)),
        )
        self._probabilities = list(chain.from_iterable(probabilities))

    def evaluation(self, loss: float) -> ClassEvaluation:
        images = sum(len(indices) for indices in self._indices)
        scored = self._right is not None and bool(self._probabilities)
        return ClassEvaluation(
            loss=loss,
            metrics={} if self._right is None else {"accuracy": self._right / max(1, images)},
            shown=Classification.metrics,
            indices=np.concatenate(self._indices) if images else np.empty(0, np.int64),
            targets=np.concatenate(self._targets) if images else np.empty(0, np.int64),
            probabilities=(
                np.concatenate(self._probabilities) if scored else np.empty((0, 0), np.float32)
            ),
        )
