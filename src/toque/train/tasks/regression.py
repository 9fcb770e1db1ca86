"""Numbers for each image."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toque import data, losses
from toque.augment import Compose
from toque.data import Splits
from toque.models.answers import Rescaled
from toque.train.metrics import Doubt
from toque.train.metrics.intervals import Statistic
from toque.train.metrics.resampled import of_numbers
from toque.train.metrics.shown import Metric, Table
from toque.train.tasks.multilabel import check_rows
from toque.train.tasks.pictures import displayed
from toque.train.tasks.task import Evaluation, Loss, Tally, Task

if TYPE_CHECKING:
    from toque.train.report import Picture
    from toque.train.report.lines import Chart

_WORST = 24
FAR_OFF = 5  # times the median miss: 3.4 standard deviations of normal misses, 1 in 1,300 of them


class Regression(Task):
    """Huber loss on numbers standardised by the training set; the mean absolute error decides.

    mean, std: of each number in the training set; 0 and 1 where the caller brings the loss
    """

    name = "regression"
    metrics = (
        Metric("mae", "MAE", "number", higher=False),
        Metric("rmse", "RMSE", "number", higher=False),
        Metric("r2", "R²", "number"),
    )
    loss_name = "huber"
    doubted = f"whose number lies {FAR_OFF} times the usual miss from the answer, or more"
    doubted_learnt = (
        f"whose number lies {FAR_OFF} times the usual miss of validation images from the answer, "
        "or more, although the model learnt from it"
    )
    evaluation_preset = "whole"

    def __init__(self, names: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(names)
        self.mean, self.std = tuple(mean), tuple(std)

    @classmethod
    def of_source(cls, source: data.Source, standardised: bool) -> Self:
        values = source.labels.astype(np.float64)
        if not standardised:
            return cls(source.classes, [0.0] * values.shape[1], [1.0] * values.shape[1])
        std = values.std(0)
        std[std == 0] = 1.0  # a number that is always the same
        return cls(source.classes, values.mean(0).tolist(), std.tolist())

    @classmethod
    def of_details(cls, details: Mapping[str, Any]) -> Self:
        return cls(details["classes"], details["mean"], details["std"])

    def details(self) -> dict[str, Any]:
        return {"task": self.name, "mean": self.mean, "std": self.std}

    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(2, self.num_outputs), torch.zeros(2, self.num_outputs)

    def loss(self, name: str, smoothing: float, arguments: Mapping[str, Any] | None = None) -> Loss:
        measured = losses.create(name, arguments, label_smoothing=smoothing)

        @functools.cache
        def scale(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.tensor(self.mean, device=device), torch.tensor(self.std, device=device)

        def standardised(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            outputs = outputs.reshape(targets.shape) if outputs.ndim == 1 else outputs
            check_rows(self.name, outputs, targets)
            mean, std = scale(targets.device)
            value: torch.Tensor = measured(outputs, (targets - mean) / std)
            return value

        return standardised

    @staticmethod
    def words(names: Sequence[str], label: npt.NDArray[Any]) -> str | None:
        return ", ".join(
            f"{name} {value:.4g}" for name, value in zip(names, label.tolist(), strict=True)
        )

    def answer(self) -> nn.Module:
        return Rescaled(self.mean, self.std)

    def tally(self) -> Tally:
        return _Tally(self)

    @classmethod
    def evaluation_of(
        cls, kept: Mapping[str, npt.NDArray[Any]], loss: float, metrics: Mapping[str, float]
    ) -> NumbersEvaluation:
        arrays = (kept["indices"], kept["targets"], kept["predictions"])
        return NumbersEvaluation(loss, metrics, cls.metrics, *arrays)


@dataclass(frozen=True, eq=False)
class NumbersEvaluation(Evaluation):
    """What a model answers on N images of D numbers, in their own units.

    targets, predictions: [N, D] float32
    """

    targets: npt.NDArray[np.float32]
    predictions: npt.NDArray[np.float32]

    def statistic(self) -> Statistic:
        order = np.argsort(self.indices)
        return of_numbers(self.predictions[order], self.targets[order])

    def kept(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "indices": self.indices, "targets": self.targets, "predictions": self.predictions
        }  # fmt: skip

    def rows(self) -> Sequence[npt.NDArray[Any]]:
        return self.targets, self.predictions

    def worst_pictures(self, splits: Splits, pipeline: Compose | None) -> list[Picture]:
        from toque.train.report import Picture

        spread = self.targets.std(0)
        error = (np.abs(self.predictions - self.targets) / np.where(spread > 0, spread, 1)).mean(1)
        return [
            Picture(
                image=displayed(splits.val.read(int(self.indices[row]))),
                name=splits.val.name(int(self.indices[row])),
                predicted=Regression.words(splits.classes, self.predictions[row]),
                true=Regression.words(splits.classes, self.targets[row]),
            )
            for row in np.argsort(-error, kind="stable")[:_WORST].tolist()
        ]

    def table(self, names: Sequence[str]) -> Table:
        return Table(
            ("number", *(metric.label for metric in self.shown)),
            [
                (name, *(metric.text(found[metric.key]) for metric in self.shown))
                for name, found in zip(names, self.per_number(), strict=True)
            ],
        )

    def charts(self, names: Sequence[str]) -> list[Chart]:
        from toque.train.report import scatter

        return scatter.charts(names, self.targets, self.predictions)

    def misses(self) -> npt.NDArray[np.float64]:
        """How far each answer is off: [N, D]."""
        return np.abs(self.predictions.astype(np.float64) - self.targets)

    def doubts(self, names: Sequence[str], validation: Evaluation | None = None) -> list[Doubt]:
        """Those missed by FAR_OFF times the usual miss, the median of validation images: what the
        model was trained on it misses by less, so there the measure is a strict one."""
        asked = validation if isinstance(validation, NumbersEvaluation) else self
        if not len(asked):
            return []
        usual, misses = np.median(asked.misses(), axis=0), self.misses()
        # Where half of the answers are exact, nothing is known of a usual miss.
        times = np.where(usual > 0, misses / np.where(usual > 0, usual, 1), 0.0)
        found = []
        for row in np.flatnonzero((times >= FAR_OFF).any(1)).tolist():
            d = int(times[row].argmax())
            label, answer = (
                f"{names[d]} {values[row, d]:.4g}" for values in (self.targets, self.predictions)
            )
            lead = float(times[row, d])
            answer = f"{answer}, {lead:.1f} times the usual miss"
            found.append(Doubt(int(self.indices[row]), label, answer, lead))
        return sorted(found, key=lambda one: -one.lead)

    def per_number(self) -> list[dict[str, float]]:
        """The metrics of each number by itself."""
        return [
            errors(self.predictions[:, d : d + 1], self.targets[:, d : d + 1])
            for d in range(self.targets.shape[1])
        ]


class _Tally(Tally):
    def __init__(self, task: Regression) -> None:
        self._answer = task.answer()
        self._indices: list[npt.NDArray[np.int64]] = []
        self._targets: list[npt.NDArray[np.float32]] = []
        self._predictions: list[npt.NDArray[np.float32]] = []

    def add(
        self, outputs: torch.Tensor, targets: torch.Tensor, indices: npt.NDArray[np.int64]
    ) -> None:
        outputs = outputs.reshape(targets.shape) if outputs.ndim == 1 else outputs
        check_rows("regression", outputs, targets)
        self._indices.append(indices)
        self._targets.append(targets.float().cpu().numpy())
        self._predictions.append(self._answer(outputs.cpu()).numpy())

    def counted(self) -> tuple[Any, ...]:
        return self._indices, self._targets, self._predictions

    def put(self, counted: Sequence[tuple[Any, ...]]) -> None:
        parts = [list(chain.from_iterable(part)) for part in zip(*counted, strict=True)]
        self._indices, self._targets, self._predictions = parts

    def evaluation(self, loss: float) -> NumbersEvaluation:
        targets, predictions = map(np.concatenate, (self._targets, self._predictions))
        return NumbersEvaluation(
            loss=loss,
            metrics=errors(predictions, targets),
            shown=Regression.metrics,
            indices=np.concatenate(self._indices),
            targets=targets,
            predictions=predictions,
        )


def errors(
    predictions: npt.NDArray[np.float32], targets: npt.NDArray[np.float32]
) -> dict[str, float]:
    """Mean absolute error, root mean square error and coefficient of determination, each the mean
    over the D numbers. R² is 0 for a number that is always the same, unless it is always met.

    Shape: predictions, targets [N, D]
    """
    true = targets.astype(np.float64)
    error = predictions.astype(np.float64) - true
    left = (error**2).sum(0)
    spread = ((true - true.mean(0)) ** 2).sum(0)
    r2 = np.where(spread > 0, 1 - left / np.where(spread > 0, spread, 1), (left == 0).astype(float))
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean(0)).mean()),
        "r2": float(r2.mean()),
    }
