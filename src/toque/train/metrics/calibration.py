"""Whether 90 % confident means 90 % right, and the temperature that mends it.

Shape letters: N images, K classes, B bins.
Source: Guo 2017, arXiv:1706.04599: reliability (section 2), ECE (eq. 3), temperature (section 4.2)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toque import random

BINS = 15
_TINY = np.finfo(np.float32).tiny
_COLDEST, _HOTTEST = 0.05, 20.0
_CELLS = 2e7  # images times classes that the temperature is fitted on; more are thinned evenly


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in low .. high: how sure they were, and how often right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy lie apart.

    bins:        of equal width, those without images left out
    ece:         expected calibration error, 0 .. 1
    temperature: divides the logits; above 1 makes the model less sure. Fitted on all images
    ece_after:   with a temperature fitted on one half of the images and measured on the other, and
                 the reverse: the error after fitting on the same images would flatter itself
    """

    bins: tuple[Bin, ...]
    ece: float
    temperature: float
    ece_after: float

    def sentence(self) -> str:
        """What it means, and the caveat, for a reader of the report."""
        before, after = f"{100 * self.ece:.1f} %", f"{100 * self.ece_after:.1f} %"
        if self.ece_after >= self.ece:
            return (
                f"Confidence and accuracy lie {before} apart on average. A temperature fitted on "
                f"validation images ({self.temperature:.3g}) does not bring them closer: leave it."
            )
        side = "surer than it is right" if self.temperature > 1 else "less sure than it is right"
        return (
            f"On the whole the model is {side}. Dividing its logits by {self.temperature:.3g} "
            f"takes the calibration error from {before} to {after} (fitted on one half of the "
            "validation images, measured on the other). It holds for images like these, and "
            "changes no prediction."
        )


def calibrate(
    targets: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32], seed: int
) -> Calibration:
    """Reliability, expected calibration error and temperature of a classifier's answers.

    Shape: [N], [N, K] -> Calibration; `seed` decides the halves
    """
    found = reliability(probabilities.max(1), probabilities.argmax(1) == targets)
    n = len(targets)
    order = random.permutation(seed, 0, n, 0, n) if n > 1 else np.zeros(1, np.int64)
    halves = order[: n // 2], order[n // 2 :]
    ece_after = found_ece = ece(found)
    if n > 1:
        errors = []
        for fitted, measured in (halves, halves[::-1]):
            cooled = at_temperature(
                probabilities[measured], fit_temperature(targets[fitted], probabilities[fitted])
            )
            bins = reliability(cooled.max(1), cooled.argmax(1) == targets[measured])
            errors.append(ece(bins) * len(measured) / n)
        ece_after = sum(errors)
    return Calibration(
        tuple(found), found_ece, fit_temperature(targets, probabilities), float(ece_after)
    )


def reliability(
    confidences: npt.NDArray[np.floating], right: npt.NDArray[np.bool_], bins: int = BINS
) -> list[Bin]:
    """Confidence and accuracy in bins of equal width; empty bins are left out.

    Shape: [N], [N] -> at most `bins`
    """
    place = np.clip(np.ceil(confidences.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    sure = np.bincount(place, confidences, minlength=bins)
    hits = np.bincount(place, right, minlength=bins)
    return [
        Bin(b / bins, (b + 1) / bins, int(counts[b]), float(sure[b] / counts[b]),
            float(hits[b] / counts[b]))
        for b in np.flatnonzero(counts).tolist()
    ]  # fmt: skip


def ece(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean gap, weighted by images. Guo 2017, eq. 3."""
    total = sum(found.count for found in bins)
    return sum(abs(found.accuracy - found.confidence) * found.count for found in bins) / total


def at_temperature(
    probabilities: npt.NDArray[np.float32], temperature: float
) -> npt.NDArray[np.float32]:
    """softmax(logits / temperature) from the probabilities at temperature 1.

    The log of a probability is its logit up to a number that all classes of an image share, which
    softmax ignores.

    Shape: [N, K] -> [N, K]
    """
    logits = _logits(probabilities) / temperature
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shares / shares.sum(1, keepdims=True), dtype=np.float32)


def fit_temperature(
    targets: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]
) -> float:
    """The temperature of the least mean negative log-likelihood, in 0.05 .. 20.

    The likelihood is convex in 1 / temperature, so its slope has one root, which is bisected.

    Shape: [N], [N, K] -> a number
    """
    every = -(-probabilities.size // int(_CELLS))
    logits, targets = _logits(probabilities[::every]), targets[::every]
    # The mean is taken first: what the label's logits add up to does not depend on the temperature.
    label = float(logits[np.arange(len(targets)), targets].mean())

    def slope(inverse: float) -> float:
        shares = np.exp(inverse * (logits - logits.max(1, keepdims=True)))
        expected = (shares * logits).sum(1) / shares.sum(1)
        return float(expected.mean()) - label

    low, high = np.log(1 / _HOTTEST), np.log(1 / _COLDEST)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(float(np.exp(middle))) > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def temperature_of(run: str | Path) -> float | None:
    """The temperature of a finished run, from its result.json; None where it has none.

    Divide the logits by it before softmax. The order of the classes does not change.
    """
    file = Path(run) / "result.json"
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text("utf-8"))["scores"]["calibration"]["temperature"]
    except (KeyError, TypeError, ValueError):
        return None
    known = isinstance(value, int | float) and _COLDEST / 2 < value < _HOTTEST * 2
    return float(value) if known else None


def _logits(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.log(np.maximum(probabilities, _TINY).astype(np.float64))
