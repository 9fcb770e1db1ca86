"""What a report is made of.

Shape letters: K classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from toque import checks
from toque.models.signal import Signal
from toque.train.metrics import Interval, Scores

if TYPE_CHECKING:
    from toque.train.metrics.calibration import Bin
    from toque.train.metrics.shown import Metric, Table
    from toque.train.report.lines import Chart


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of the report, with what is known about it.

    Args:    image: uint8 [H, W, 3] or [H, W] (gray)
             name: where it comes from, as the user knows it (a file name)
             true, predicted: class names
             confidence: probability of `predicted`, 0 .. 1
             caption: shown below it, for pictures that are not about a prediction
    Raises:  TypeError: an image that is not uint8
             ValueError: an image of another shape, or without pixels
    """

    image: np.ndarray
    name: str
    true: str | None = None
    predicted: str | None = None
    confidence: float | None = None
    caption: str | None = None

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8:
            raise checks.invalid_type(
                "Picture", "image", "uint8", self.image.dtype, "Use report.denormalise for floats."
            )
        shape = self.image.shape
        if not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)) or 0 in shape:
            raise checks.invalid(
                "Picture", "image", "of shape [H, W, 3] or [H, W]", list(shape),
                "Put the channels last, and give 3 or none.",
            )  # fmt: skip


@dataclass(frozen=True)
class Doubtful:
    """An image whose target the answers contradict, and what both say."""

    name: str
    label: str
    answer: str


@dataclass(frozen=True, eq=False)
class Learnt:
    """The training images whose targets the kept weights contradict.

    says:        what is wrong with them, as in "whose label the model contradicts"
    images:      how many were looked at
    number:      how many are in doubt
    doubtful:    the firmest of them
    pictures:    of some of these
    kinds:       how many doubts are of which kind, in words; "" where there are none
    cannot_tell: what could not be doubted, and why
    """

    says: str
    images: int
    number: int
    doubtful: Sequence[Doubtful]
    pictures: Sequence[Picture] = ()
    kinds: str = ""
    cannot_tell: str = ""


@dataclass(frozen=True, eq=False)
class ReportData:
    """All that a report shows. Only the title is needed: a part that is missing is left out.

    Args:    title: name of the run
             settings: the resolved settings, nested
             changed: dotted keys of the settings that differ from the defaults
             metrics: rows of metrics.jsonl: images_seen, epoch, split ("train" or "val"), loss,
             accuracy, images_per_s, learning_rate; a value that is missing, None or not finite is
             a gap in its curve
             classes: K names
             confusion: validation images counted by class, rows true, columns predicted,
             integers [K, K]; None when the task has no classes
             measured: the metrics of the task, besides the accuracy, whose keys stand in `metrics`
             and `outcome`
             table: what was found for each class, label or number
             worst: pictures answered worst, with the answers
             intervals: of those metrics, by key
             scores: with their intervals and the calibration
             next_steps: what may be tried next, a sentence each
             advice: one sentence on what would make it faster
             signal: of the network before the first step
             answered: charts of the answers beside the truth
             reliability: how often labels are there, for how probable they were said to be
             doubtful: images whose targets the answers contradict, the firmest first
             doubted: what is wrong with them, as in "whose label the model contradicts"
             doubted_kinds: how many doubts are of which kind, in words
             cannot_tell: which targets could not be doubted, and why
             suspects: pictures of some of them
             learnt: the same of training images, where those were looked at
             mistakes: pictures in a wrong class, the most confident first
             correct: pictures in the right class, if any are to be shown
             augmented: training images as the model sees them
             environment: versions, device, threads, seed, git; may be nested
             outcome: accuracy (0 .. 1), loss, best_epoch, seconds, images_seen, weights (their
             file), sha256 (of that file); other keys are listed as they are
             notes: what the reader must know first: files left out, a resume that is not exact
    Raises:  ValueError: a confusion matrix that is not K x K, or counts below 0
             TypeError: a confusion matrix that is not of integers
    """

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    changed: Collection[str] = frozenset()
    metrics: Sequence[Mapping[str, Any]] = ()
    classes: Sequence[str] = ()
    confusion: np.ndarray | None = None
    measured: Sequence[Metric] = ()
    table: Table | None = None
    worst: Sequence[Picture] = ()
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    scores: Scores | None = None
    next_steps: Sequence[str] = ()
    advice: str | None = None
    signal: Signal | None = None
    mistakes: Sequence[Picture] = ()
    suspects: Sequence[Picture] = ()
    doubtful: Sequence[Doubtful] = ()
    doubted: str = ""
    doubted_kinds: str = ""
    cannot_tell: str = ""
    learnt: Learnt | None = None
    answered: Sequence[Chart] = ()
    reliability: Sequence[Bin] = ()
    correct: Sequence[Picture] = ()
    augmented: Sequence[Picture] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    outcome: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.confusion is None:
            return
        k = len(self.classes)
        if self.confusion.shape != (k, k):
            raise checks.invalid(
                "ReportData", "confusion", f"of shape [{k}, {k}], one row and column per class",
                list(self.confusion.shape), "Count over all classes, also those never seen.",
            )  # fmt: skip
        if self.confusion.dtype.kind not in "iu":
            raise checks.invalid_type(
                "ReportData", "confusion", "integers", self.confusion.dtype, "Give counts."
            )
        if k and int(self.confusion.min()) < 0:
            raise checks.invalid(
                "ReportData", "confusion", ">= 0", int(self.confusion.min()), "Give counts."
            )
