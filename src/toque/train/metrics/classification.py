"""The scores of a classifier, each with how sure it is.

Shape letters: N images, K classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toque.train.metrics.answers import Answers, answers_of
from toque.train.metrics.calibration import Bin, Calibration, calibrate
from toque.train.metrics.intervals import Interval, Statistic, bootstrap, wilson

_BLOCK = 100  # classes


@dataclass(frozen=True, eq=False)
class Scores:
    """What the answers on N images are worth.

    answers:     per image, to keep
    accuracy:    share answered right
    top5:        share whose label is among the five most probable; None for 5 classes or fewer
    loss:        mean negative log-likelihood, nats
    f1:          mean over the classes that occur (macro)
    calibration: whether confidence can be believed
    """

    answers: Answers
    accuracy: Interval
    top5: Interval | None
    loss: Interval
    f1: Interval
    calibration: Calibration

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, as result.json and `toque evaluate --json` give them."""
        intervals = {
            name: value.as_dict()
            for name in ("accuracy", "top5", "loss", "f1")
            if (value := getattr(self, name)) is not None
        }
        calibration = {
            **{
                name: float(f"{getattr(self.calibration, name):.6g}")
                for name in ("ece", "ece_after", "temperature")
            },
            "bins": [asdict(found) for found in self.calibration.bins],
        }
        return {"images": len(self.answers), **intervals, "calibration": calibration}

    def summary(self) -> str:
        """ "accuracy 91.2 % (90.0 to 92.4), top 5 99.1 % (98.6 to 99.5)"."""
        top = f", top 5 {self.top5.percent()}" if self.top5 else ""
        return f"accuracy {self.accuracy.percent()}{top}"


def scores_of(tree: Mapping[str, Any], answers: Answers) -> Scores:
    """The scores that `as_dict` gave, back.

    Raises: KeyError, TypeError: another tree
    """
    found = {
        name: Interval(**tree[name]) if name in tree else None
        for name in ("accuracy", "top5", "loss", "f1")
    }
    told = dict(tree["calibration"])
    bins = tuple(Bin(**one) for one in told.pop("bins"))
    accuracy, loss, f1 = found["accuracy"], found["loss"], found["f1"]
    if accuracy is None or loss is None or f1 is None:
        raise KeyError("accuracy, loss or f1")
    return Scores(answers, accuracy, found["top5"], loss, f1, Calibration(bins, **told))


def score(
    indices: npt.NDArray[np.int64],
    targets: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float32],
    *,
    seed: int,
) -> Scores:
    """The scores of N answers.

    Shape:  indices [N], targets [N], probabilities [N, K]
    Raises: ValueError: see `answers_of`
    """
    answers = answers_of(indices, targets, probabilities)
    n, m = answers.top_classes.shape
    columns = np.stack(
        [answers.right.astype(float), answers.in_top.astype(float), answers.losses], axis=1
    )
    f1 = _macro_f1(answers)

    def statistic(counts: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        return np.column_stack([counts @ columns / n, f1(counts)])

    accuracy, top, loss, macro = bootstrap(statistic, n, seed)
    return Scores(
        answers=answers,
        accuracy=_certain(accuracy, n),
        top5=_certain(top, n) if answers.num_classes > m else None,
        loss=loss,
        f1=macro,
        calibration=calibrate(targets, probabilities, seed),
    )


def _certain(share: Interval, num_images: int) -> Interval:
    """Where all images are right (or wrong) no resample differs: Wilson's interval knows that 20
    of 20 is not certainty."""
    if share.value not in (0.0, 1.0):
        return share
    return Interval(share.value, *wilson(round(share.value * num_images), num_images))


def _macro_f1(answers: Answers) -> Statistic:
    """Mean F1 over the classes that have images (in a resample: that were drawn)."""
    classes = np.arange(answers.num_classes)
    # Classes in the columns, a block at a time: with a thousand of them it would be gigabytes.
    blocks = [classes[start : start + _BLOCK] for start in range(0, len(classes), _BLOCK)]

    def f1(counts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[R, N] -> [R]"""
        total = np.zeros((len(counts), 2), np.float32)
        for block in blocks:
            true = (answers.targets[:, None] == block).astype(np.float32)
            predicted = (answers.predictions[:, None] == block).astype(np.float32)
            occurs, said, right = (counts @ x for x in (true, predicted, true * predicted))
            each = 2 * right / np.maximum(occurs + said, 1)
            total += np.stack([(each * (occurs > 0)).sum(1), (occurs > 0).sum(1)], axis=1)
        return np.asarray(total[:, 0] / np.maximum(total[:, 1], 1))

    return f1
