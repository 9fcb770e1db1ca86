"""Yes or no for each label of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toque import checks
from toque.augment import Compose
from toque.data import Splits
from toque.models.answers import Sigmoid
from toque.train.metrics import Doubt
from toque.train.metrics.calibration import Bin, ece, reliability
from toque.train.metrics.doubts import FEW_WRONG, FEWEST, Firmness, firmness, label_leads
from toque.train.metrics.intervals import Statistic
from toque.train.metrics.resampled import of_labels, resamples_for
from toque.train.metrics.shown import Metric, Table, percent
from toque.train.metrics.thresholds import THRESHOLD, Thresholds, thresholds
from toque.train.tasks.pictures import displayed
from toque.train.tasks.task import Evaluation, Tally, Task

if TYPE_CHECKING:
    from toque.train.report import Picture

_WORST = 24


class Multilabel(Task):
    """Binary cross-entropy of each label by itself; the mean average precision decides."""

    name = "multilabel"
    metrics = (
        Metric("mean_average_precision", "mAP"),
        Metric("f1_micro", "F1 (micro)"),
        Metric("f1_macro", "F1 (macro)"),
    )
    loss_name = "BCEWithLogitsLoss"
    doubted = (
        "with or without a label that the model contradicts as firmly as it is right on others"
    )
    doubted_learnt = (
        "with or without a label that the model contradicts as firmly as it is right on validation "
        "images, although it learnt from it"
    )

    @staticmethod
    def words(names: Sequence[str], label: npt.NDArray[Any]) -> str | None:
        return ", ".join(name for name, has in zip(names, label, strict=True) if has) or "none"

    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(2, self.num_outputs), torch.zeros(2, self.num_outputs)

    def answer(self) -> nn.Module:
        return Sigmoid()

    def tally(self) -> Tally:
        return _Tally()

    @classmethod
    def evaluation_of(
        cls, kept: Mapping[str, npt.NDArray[Any]], loss: float, metrics: Mapping[str, float]
    ) -> LabelsEvaluation:
        arrays = (kept["indices"], kept["targets"].astype(np.float32), kept["probabilities"])
        return LabelsEvaluation(loss, metrics, cls.metrics, *arrays)


@dataclass(frozen=True, eq=False)
class LabelsEvaluation(Evaluation):
    """What a model answers on N images of K labels.

    targets:       [N, K] float32, 0 or 1
    probabilities: [N, K] float32
    """

    targets: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]

    def statistic(self) -> Statistic:
        order = np.argsort(self.indices)
        return of_labels(self.probabilities[order], self.targets[order], THRESHOLD)

    def resamples(self) -> int:
        return resamples_for(self.targets.size)

    def kept(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "indices": self.indices,
            "targets": self.targets.astype(np.uint8),
            "probabilities": self.probabilities,
        }

    def rows(self) -> Sequence[npt.NDArray[Any]]:
        return self.targets, self.probabilities

    def worst_pictures(self, splits: Splits, pipeline: Compose | None) -> list[Picture]:
        from toque.train.report import Picture

        error = np.abs(self.probabilities - self.targets).mean(1)
        pictures = []
        for row in np.argsort(-error, kind="stable")[:_WORST].tolist():
            index = int(self.indices[row])
            said, true = self.chosen.said[row], self.targets[row] > 0
            pictures.append(
                Picture(
                    image=displayed(splits.val.read(index)),
                    name=splits.val.name(index),
                    predicted=Multilabel.words(splits.classes, said),
                    true=Multilabel.words(splits.classes, true),
                )
            )
        return pictures

    def table(self, names: Sequence[str]) -> Table:
        return Table(
            ("label", "images", "average precision", "threshold", "precision", "recall", "F1",
             "calibration error"),
            [
                (name, str(one.count), percent(one.average_precision), f"{one.threshold:.3g}",
                 *map(percent, (one.precision, one.recall, one.f1, one.calibration_error)))
                for name, one in zip(names, self.per_label(), strict=True)
            ],
            "On the validation images. A threshold is the one of the best F1, where one that was "
            "chosen on half of the images was better than 0.5 on the other half; precision, recall "
            "and F1 are those of the other halves. toque predict names a label from its threshold "
            "on.",
        )  # fmt: skip

    def thresholds(self) -> Sequence[float]:
        return [float(f"{value:.7g}") for value in self.chosen.values]

    def reliability(self) -> Sequence[Bin]:
        return reliability(self.probabilities.ravel(), self.targets.ravel() > 0)

    @cached_property
    def chosen(self) -> Thresholds:
        """The threshold of each label, and what they say of these images; rows as the arrays."""
        order = np.argsort(self.indices)
        found = thresholds(self.probabilities[order], self.targets[order])
        said = np.empty_like(found.said)
        said[order] = found.said
        return Thresholds(found.values, said)

    def doubts(self, names: Sequence[str], validation: Evaluation | None = None) -> list[Doubt]:
        """Each label of each image that a firm answer contradicts, by itself."""
        there, not_there = self._firmness(validation)
        leads = label_leads(self.targets, self.probabilities, there, not_there)
        found = []
        for row, k in np.argwhere(leads > 0).tolist():
            share = float(self.probabilities[row, k])
            superfluous = bool(self.targets[row, k])
            kind, answer = ("superfluous", "not there") if superfluous else ("missing", "there")
            sure = percent(1 - share if superfluous else share)
            found.append(
                Doubt(
                    int(self.indices[row]), f"{names[k]}: {kind}", f"{answer} ({sure})",
                    float(leads[row, k]), kind,
                )
            )  # fmt: skip
        return sorted(found, key=lambda one: -one.lead)

    def cannot_tell(self, validation: Evaluation | None = None) -> str:
        pairs = zip(("missing", "superfluous"), self._firmness(validation), strict=True)
        said = []
        for kind, one in pairs:
            if np.isfinite(one.least).any():
                continue
            what = "there" if kind == "missing" else "not there"
            said.append(
                f"Which labels are {kind} it cannot tell: of its {one.asked} firmest answers that "
                f"a label is {what}, {percent(one.wrong)} are contradicted by validation labels, "
                f"and {percent(FEW_WRONG)} may be."
                if one.asked
                else f"Which labels are {kind} it cannot tell: it answers on fewer than {FEWEST} "
                f"validation labels that they are {what}."
            )
        return " ".join(said)

    def _firmness(self, validation: Evaluation | None) -> tuple[Firmness, Firmness]:
        """Of the answers that a label is there, and that it is not."""
        asked = validation if isinstance(validation, LabelsEvaluation) else self
        return asked._firm

    @cached_property
    def _firm(self) -> tuple[Firmness, Firmness]:
        there, not_there = (
            firmness(self.targets, self.probabilities, answer) for answer in (True, False)
        )
        return there, not_there

    def per_label(self) -> list[LabelScores]:
        """What each label's answers are worth."""
        true, said = self.targets > 0, self.chosen.said
        both, there, claimed = (true & said).sum(0), true.sum(0), said.sum(0)
        with np.errstate(invalid="ignore"):
            precision, recall, f1 = both / claimed, both / there, 2 * both / (there + claimed)
        average = average_precisions(self.probabilities, self.targets)
        return [
            LabelScores(
                count=int(there[k]),
                average_precision=float(average[k]),
                precision=float(precision[k]),
                recall=float(recall[k]),
                f1=float(f1[k]),
                threshold=float(self.chosen.values[k]),
                calibration_error=ece(reliability(self.probabilities[:, k], true[:, k])),
            )
            for k in range(true.shape[1])
        ]


@dataclass(frozen=True)
class LabelScores:
    """What the answers to one label are worth; not a number where nothing tells it.

    count:                 images that have it
    precision, recall, f1: at its threshold
    calibration_error:     how far its probability and the share of images that have it lie apart
    """

    count: int
    average_precision: float
    precision: float
    recall: float
    f1: float
    threshold: float
    calibration_error: float


class _Tally(Tally):
    def __init__(self) -> None:
        self._indices: list[npt.NDArray[np.int64]] = []
        self._targets: list[npt.NDArray[np.float32]] = []
        self._probabilities: list[npt.NDArray[np.float32]] = []

    def add(
        self, outputs: torch.Tensor, targets: torch.Tensor, indices: npt.NDArray[np.int64]
    ) -> None:
        check_rows("multilabel", outputs, targets)
        self._indices.append(indices)
        self._targets.append(targets.float().cpu().numpy())
        self._probabilities.append(outputs.float().sigmoid().cpu().numpy())

    def counted(self) -> tuple[Any, ...]:
        return self._indices, self._targets, self._probabilities

    def put(self, counted: Sequence[tuple[Any, ...]]) -> None:
        parts = [list(chain.from_iterable(part)) for part in zip(*counted, strict=True)]
        self._indices, self._targets, self._probabilities = parts

    def evaluation(self, loss: float) -> LabelsEvaluation:
        targets, probabilities = map(np.concatenate, (self._targets, self._probabilities))
        micro, each = f1_scores(probabilities, targets)
        return LabelsEvaluation(
            loss=loss,
            metrics={
                "mean_average_precision": mean(average_precisions(probabilities, targets)),
                "f1_micro": micro,
                "f1_macro": mean(each),
            },
            shown=Multilabel.metrics,
            indices=np.concatenate(self._indices),
            targets=targets,
            probabilities=probabilities,
        )


def check_rows(task: str, outputs: torch.Tensor, targets: torch.Tensor) -> None:
    """Raise ValueError unless a model gives one output for each target of an image."""
    if outputs.shape != targets.shape:
        raise checks.invalid(
            "fit", f"the outputs of the model for {task}", f"of shape [B, {targets.shape[1]}]",
            list(outputs.shape), "Give its last layer one output for each.",
        )  # fmt: skip


def average_precisions(
    scores: npt.NDArray[np.float32], targets: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """The average precision of each label: the sum over thresholds of precision times the recall
    gained. Not a number for a label that no image has.

    Shape: scores, targets [N, K] -> [K]
    """
    return np.array(
        [_average_precision(scores[:, k], targets[:, k]) for k in range(targets.shape[1])]
    )


def _average_precision(scores: npt.NDArray[np.float32], targets: npt.NDArray[np.float32]) -> float:
    if not targets.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(targets[order], dtype=np.float64)
    # Images of one score are found together: only the last of them is a threshold.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    precision, recall = found[ends] / (ends + 1), found[ends] / found[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def f1_scores(
    probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.float32]
) -> tuple[float, npt.NDArray[np.float64]]:
    """F1 at THRESHOLD: over all answers together, and of each label; not a number for a label that
    neither an image nor an answer has.

    Shape: probabilities, targets [N, K] -> one number, and [K]
    """
    said, true = probabilities > THRESHOLD, targets > 0
    both = (said & true).sum(0).astype(np.float64)
    either = said.sum(0) + true.sum(0)
    with np.errstate(invalid="ignore"):
        each = 2 * both / either
    return float(2 * both.sum() / max(1, either.sum())), each


def mean(values: npt.NDArray[np.float64]) -> float:
    """The mean of those that are numbers; 0 where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 0.0
