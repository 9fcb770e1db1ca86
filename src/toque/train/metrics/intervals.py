"""How sure a score is: the bootstrap, with draws that are functions of the seed.

Shape letters: N images, R resamples, S scores.
Source: Efron 1979, doi:10.1214/aos/1176344552; percentile intervals as in Efron & Tibshirani 1993,
        chapter 13
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toque import checks
from toque.random import Key

RESAMPLES = 1000
_CELLS = 2**24  # resamples times images that are held at once: 64 MiB of counts

Statistic = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.floating]]


@dataclass(frozen=True)
class Interval:
    """A score and the range that holds it with 95 % confidence, as far as these images tell."""

    value: float
    low: float
    high: float

    def percent(self, digits: int = 1) -> str:
        """ "91.2 % (90.0 to 92.4)" """
        low, high = (f"{100 * end:.{digits}f}" for end in (self.low, self.high))
        return f"{100 * self.value:.{digits}f} % ({low} to {high})"

    def as_dict(self) -> dict[str, float]:
        """Plain numbers, rounded to what is significant."""
        return {name: float(f"{getattr(self, name):.7g}") for name in ("value", "low", "high")}


def resample(
    num_images: int, seed: int, resamples: int = RESAMPLES
) -> Iterator[npt.NDArray[np.float32]]:
    """How often each image is drawn in each resample, in pieces of some resamples.

    The same seed and number of images give the same counts, so two runs over the same images are
    compared pair by pair.

    Shape: -> float32 [R', N], R' summing to `resamples`; each row adds up to N
    """
    if num_images < 1:
        raise checks.invalid("resample", "num_images", ">= 1", num_images, "Measure some images.")
    at_once = max(1, _CELLS // num_images)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        key = Key(seed, 0, np.arange(start, start + rows))
        drawn = key.integers("bootstrap", 0, num_images, num_images).numpy()
        cells = drawn + np.arange(rows)[:, None] * num_images
        counts = np.bincount(cells.ravel(), minlength=rows * num_images)
        yield counts.reshape(rows, num_images).astype(np.float32)


def bootstrap(
    statistic: Statistic, num_images: int, seed: int, resamples: int = RESAMPLES
) -> list[Interval]:
    """Some scores of N images with their percentile intervals.

    Args: statistic: scores as functions of how often each image counts: [R', N] -> [R', S]
    """
    values = statistic(np.ones((1, num_images), np.float32))[0]
    counted = resample(num_images, seed, resamples)
    drawn = np.concatenate([statistic(counts) for counts in counted])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return [Interval(*map(float, ends)) for ends in zip(values, low, high, strict=True)]


def difference(
    first: npt.NDArray[np.floating], second: npt.NDArray[np.floating], seed: int
) -> Interval:
    """The mean of `second` - `first` over the same images, with its interval.

    Shape:  [N], [N], the same image in the same place
    Raises: ValueError: arrays of different lengths
    """
    if first.shape != second.shape:
        raise checks.invalid(
            "difference", "second", f"of shape {list(first.shape)}", list(second.shape),
            "Compare answers on the same images.",
        )  # fmt: skip
    apart = (second.astype(np.float64) - first.astype(np.float64))[:, None] / len(first)
    return bootstrap(lambda counts: counts @ apart, len(apart), seed)[0]


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share that was counted.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953; z = 1.96
    """
    z = 1.959963984540054
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    variance = share * (1 - share) / trials + z * z / (4 * trials * trials)
    half = z / (1 + z * z / trials) * math.sqrt(variance)
    return max(0.0, centre - half), min(1.0, centre + half)
