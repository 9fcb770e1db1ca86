"""How a run ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from toque.train.measure import Evaluation
from toque.train.metrics import Interval, Scores
from toque.train.run import Run
from toque.train.run_folder import folder


@dataclass(frozen=True, repr=False)
class Result:
    """How a run ended.

    run:         the resolved settings
    out:         the run folder
    model:       the network with the kept weights, in evaluation mode
    classes:     the names of its outputs
    evaluation:  what the kept weights answer on the validation images
    scores:      what that is worth and how sure it is; None where the outputs name no classes
    intervals:   how sure each metric is of a run on labels, numbers or masks, by its key
    images_seen: how many images were trained on, also before a restart
    seconds:     how long this call took
    """

    run: Run
    out: Path
    model: nn.Module
    classes: tuple[str, ...]
    evaluation: Evaluation
    scores: Scores | None
    intervals: Mapping[str, Interval]
    images_seen: int
    seconds: float

    def __repr__(self) -> str:
        return f"<Result of {self.out}: {self.summary()}>"

    @property
    def accuracy(self) -> float | None:
        return self.evaluation.accuracy

    @property
    def loss(self) -> float:
        return self.evaluation.loss

    def summary(self) -> str:
        """ "accuracy 91.2 % (90.0 to 92.4), loss 0.3051 on 2000 validation images"."""
        return f"{self.evaluation.summary(self.scores, self.intervals)} validation images"

    @property
    def weights(self) -> Path:
        return self.out / folder.WEIGHTS

    @property
    def report(self) -> Path:
        return self.out / folder.REPORT
