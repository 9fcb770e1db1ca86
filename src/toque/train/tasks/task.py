"""What a task says of a run, and what an evaluation holds.

Shape letters: N images, B in a batch, K classes or labels, D numbers, H W height and width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toque import augment, checks, data, losses
from toque.data.targets import Task as TaskName
from toque.train.distributed.world import World
from toque.train.metrics import Doubt, Interval, Scores
from toque.train.metrics.calibration import Bin
from toque.train.metrics.intervals import RESAMPLES, Statistic, bootstrap
from toque.train.metrics.shown import Metric, Table
from toque.train.optimisation.optimise import SMALL_IMAGE_PX
from toque.train.tasks.pictures import displayed

if TYPE_CHECKING:
    from toque.train.report import Picture
    from toque.train.report.lines import Chart

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) -> mean over the batch."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model answers on N images.

    loss:    mean over the images
    metrics: by the key of each Metric of the task; empty where the outputs do not fit it
    main:    the metric that decides which checkpoint is the best
    shown:   all of them, the main one first
    indices: [N] int64, the images in their source, in the order of the arrays of a subclass
    """

    loss: float
    metrics: Mapping[str, float]
    shown: tuple[Metric, ...]
    indices: npt.NDArray[np.int64]

    @property
    def main(self) -> Metric:
        return self.shown[0]

    @property
    def score(self) -> float:
        """What makes one checkpoint better than another: more is better; else the negative loss."""
        return score_of(self.main, {**self.metrics, "loss": self.loss})

    @property
    def accuracy(self) -> float | None:
        """Share of images answered right, where the task is one class for each."""
        return self.metrics.get("accuracy")

    def __len__(self) -> int:
        return len(self.indices)

    def worst_pictures(
        self, splits: data.Splits, pipeline: augment.Compose | None
    ) -> list[Picture]:
        """Validation images that were answered worst, with the answers.

        Args: pipeline: the one of validation; None where images are taken as they are
        """
        return []

    def table(self, names: Sequence[str]) -> Table:
        """The results of each class, label or number."""
        return Table((), ())

    def charts(self, names: Sequence[str]) -> list[Chart]:
        """What the answers look like beside the truth, where that can be drawn."""
        return []

    def doubts(self, names: Sequence[str], validation: Evaluation | None = None) -> list[Doubt]:
        """The images whose targets the answers contradict, the firmest contradiction first.

        Args: validation: what the same weights answer on validation images, where these are images
              that they were trained on: it says what is usual
        """
        return []

    def cannot_tell(self, validation: Evaluation | None = None) -> str:
        """Which targets `doubts` cannot doubt, and why; "" where it can all."""
        return ""

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values, as `toque evaluate --json` prints them."""
        return {
            "images": len(self),
            "loss": self.loss,
            **self.metrics,
            "classes": list(names),
            "table": [dict(zip(self.table(names).columns, row, strict=True))
                      for row in self.table(names).rows],
        }  # fmt: skip

    def scores(self, seed: int) -> Scores | None:
        """What the answers are worth and how sure that is; None where they name no classes."""
        return None

    def statistic(self) -> Statistic | None:
        """The metrics in the order of `shown`, as a function of how often each image counts, images
        by their index in the source; None where single images do not make them."""
        return None

    def resamples(self) -> int:
        """How many resamples the intervals are made of."""
        return RESAMPLES

    def intervals(self, seed: int) -> dict[str, Interval]:
        """How sure each metric is, by its key: a bootstrap over the images."""
        statistic = self.statistic()
        if statistic is None or not len(self):
            return {}
        found = bootstrap(statistic, len(self), seed, self.resamples())
        return {metric.key: one for metric, one in zip(self.shown, found, strict=True)}

    def thresholds(self) -> Sequence[float]:
        """From which probability each of several labels is said to be there; nothing elsewhere."""
        return ()

    def reliability(self) -> Sequence[Bin]:
        """How often labels are there, for how probable they were said to be, where `scores` does
        not say it."""
        return ()

    def kept(self) -> dict[str, npt.NDArray[Any]]:
        """What the run keeps, so that the evaluation can be had again: see Task.evaluation_of."""
        return {}

    def rows(self) -> Sequence[npt.NDArray[Any]]:
        """The arrays that have a row for each image."""
        return ()

    def summary(
        self, scores: Scores | None = None, intervals: Mapping[str, Interval] | None = None
    ) -> str:
        """ "mean IoU 84.70 %, loss 0.3051 on 2000"; what is counted follows. With the intervals,
        where they are given: "mean IoU 84.7 % (82.1 to 86.9), ..."."""
        sure = intervals or {}
        said = [
            f"{one.label} "
            f"{one.sure(sure[one.key]) if one.key in sure else one.text(self.metrics[one.key])}, "
            for one in self.shown
            if one.key in self.metrics
        ]
        return f"{''.join(said)}loss {self.loss:.4f} on {len(self)}"


def score_of(main: Metric, row: Mapping[str, Any]) -> float:
    """What a validation is worth by its main metric, from its row in metrics.jsonl."""
    if main.key not in row:
        return -float(row["loss"])
    value = float(row[main.key])
    return value if main.higher else -value


class Tally(ABC):
    """Counts answers, batch by batch, every image once."""

    @abstractmethod
    def add(
        self, outputs: torch.Tensor, targets: torch.Tensor, indices: npt.NDArray[np.int64]
    ) -> None:
        """Count a batch; outputs and targets are on one device."""

    @abstractmethod
    def counted(self) -> tuple[Any, ...]:
        """What was counted so far, as arrays and plain values: what `put` reads."""

    @abstractmethod
    def put(self, counted: Sequence[tuple[Any, ...]]) -> None:
        """Count what several tallies have counted, in their order, instead of one's own."""

    def join(self, world: World, what: str) -> None:
        """Count what the tallies of all ranks have counted."""
        if not world.alone:
            self.put(world.objects(self.counted(), what))

    @abstractmethod
    def evaluation(self, loss: float) -> Evaluation:
        """What was counted."""


class Task(ABC):
    """What a run on some kind of targets needs: everything that depends on the kind is here.

    name:              as in the settings
    metrics:           what is measured; the first decides which checkpoint is the best
    loss_name:         of toque.losses, where the settings name none
    smoothing:         label smoothing of that loss, where the settings say nothing
    evaluation_preset: the augmentation preset that validation goes through
    batch_size:        where the caller says nothing
    counts_right:      whether a row of training can say how many answers were right
    doubted:           what the report says of validation images whose targets are in doubt
    doubted_learnt:    and of training images
    names:             of the classes, labels or numbers
    """

    name: ClassVar[TaskName]
    metrics: ClassVar[tuple[Metric, ...]]
    loss_name: ClassVar[str]
    smoothing: ClassVar[float] = 0.0
    evaluation_preset: ClassVar[str] = "none"
    batch_size: ClassVar[int] = 64
    counts_right: ClassVar[bool] = False
    doubted: ClassVar[str]
    doubted_learnt: ClassVar[str]

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    @classmethod
    def of_source(cls, source: data.Source, standardised: bool) -> Self:
        """The task of a training source."""
        return cls(source.classes)

    @classmethod
    def of_details(cls, details: Mapping[str, Any]) -> Self:
        """The task of a trained model, from `details()` and its classes."""
        return cls(details["classes"])

    @classmethod
    def score_of(cls, row: Mapping[str, Any]) -> float:
        """What a validation is worth, from its row in metrics.jsonl; more is better."""
        return score_of(cls.metrics[0], row)

    @classmethod
    def evaluation_of(
        cls, kept: Mapping[str, npt.NDArray[Any]], loss: float, metrics: Mapping[str, float]
    ) -> Evaluation | None:
        """The evaluation of which `kept` was kept; None where this task keeps none.

        Raises: KeyError, ValueError: other arrays
        """
        return None

    def details(self) -> dict[str, Any]:
        """What a weights file must say besides the classes: plain values."""
        return {"task": self.name}

    @property
    def num_outputs(self) -> int:
        """Outputs of the model's last layer."""
        return len(self.names)

    def model_name(self, image_size: int) -> str:
        """The model for images of that size, where the settings name none."""
        return "resnet10_small" if image_size <= SMALL_IMAGE_PX else "resnet18"

    def image_size(self, short_px: int) -> int:
        """The size a model should see of images whose short side is usually that."""
        return short_px if short_px <= SMALL_IMAGE_PX else min(224, round(short_px / 32) * 32)

    def check_model(self, model: nn.Module, image_size: int) -> None:
        """Raise ValueError where a model cannot do this task at this size."""
        multiple = getattr(model, "multiple_px", 1)
        if isinstance(multiple, int) and image_size % multiple:
            up = -(-image_size // multiple) * multiple
            raise checks.invalid(
                "run.toml", "image_size", f"a multiple of {multiple} for this model", image_size,
                f"Set image_size={up}: images and masks are resized together.",
            )  # fmt: skip

    def loss(self, name: str, smoothing: float, arguments: Mapping[str, Any] | None = None) -> Loss:
        """The loss of that name for these targets, with arguments of its own.

        Raises: ValueError: no such loss or argument, or smoothing for one that has none
        """
        return losses.create(name, arguments, label_smoothing=smoothing)

    @abstractmethod
    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and targets such as the loss gets, of two images, on the CPU."""

    @abstractmethod
    def answer(self) -> nn.Module:
        """From outputs to what they say, float32: probabilities, or numbers in their own units."""

    @abstractmethod
    def tally(self) -> Tally:
        """A fresh count."""

    @staticmethod
    def words(names: Sequence[str], label: npt.NDArray[Any]) -> str | None:
        """A target as a caption says it; None where it says nothing."""
        return None

    def labelled(
        self, source: data.Source, index: int, pipeline: augment.Compose | None
    ) -> npt.NDArray[np.uint8]:
        """An image with its target laid over it, where that can be seen.

        Shape: -> [H, W] or [H, W, 3]
        Args:  pipeline: the one of validation; None where images are taken as they are
        """
        return displayed(source.read(index))
