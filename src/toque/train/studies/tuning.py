"""The learning-rate range test: train a little while the rate rises, and see where the loss falls.

Source: Smith 2017, arXiv:1506.01186, section 3.3. He reads the bounds off the accuracy by eye: the
        rate at which it begins to rise and the one at which it stops. We read them off the smoothed
        loss: where it falls most steeply, and where it is lowest; the rate rises geometrically, as
        decades are what we look for
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from toque import checks, durable
from toque.train.prepare import Own
from toque.train.run import Run
from toque.train.studies.trial import trial

_SMOOTHING = 0.9
_RISEN = 1.5  # times the lowest smoothed loss, and above the first: it will not come back
_LEAST_STEPS = 20
_BELOW_LOWEST = 3.0  # the proposal: where the loss is lowest it is about to rise


@dataclass(frozen=True, eq=False)
class RangeTest:
    """What a range test found.

    rates, losses: of each step until the loss rose for good: [n]
    smoothed:      the losses' moving average: [n]
    steepest:      the rate at which the loss falls most, per decade of the rate
    lowest:        the rate at which the smoothed loss is lowest
    proposal:      a third of `lowest`; None where the loss never fell
    risen:         whether the loss rose behind its lowest point
    usual:         the rate that the settings would give
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    steepest: float
    lowest: float
    proposal: float | None
    risen: bool
    usual: float

    def sentences(self) -> list[str]:
        """What was found, and how far to believe it."""
        if self.proposal is None:
            return [
                "The loss never fell: no rate can be proposed. Look at the data and the model, or "
                "let the test begin at a lower rate (--low)."
            ]
        said = [
            f"Proposal: optimizer.learning_rate = {self.proposal:.2g}. The loss falls most "
            f"steeply at {self.steepest:.2g} and is lowest at {self.lowest:.2g}; the proposal is a "
            f"third of that (range test, Smith 2017, arXiv:1506.01186). Without it the settings "
            f"give {self.usual:.2g}."
        ]
        if not self.risen:
            said.append(
                "The loss did not rise up to the highest rate: the best may lie above it (--high)."
            )
        said.append(
            "Believe it to a factor of three: the test sees the first steps only, from weights not "
            "trained yet, and knows neither the length of the run nor what generalises. The rate "
            "of a long run is often lower; train with the proposal and with a third of it."
        )
        return said


def tune_learning_rate(
    run: Run,
    *,
    steps: int = 100,
    low: float = 1e-5,
    high: float = 10.0,
    own: Own | None = None,
    say: Callable[[int, float, float], None] = lambda step, rate, loss: None,
) -> RangeTest:
    """Train for some steps at rising rates, with the run's own draws, and propose a rate.

    The same settings, data and seed give the same answer. The run folder is not touched.

    Args:    steps: >= 20; low, high: the first and last rate, low < high
             say: told of each step: its number, rate and loss
    Raises:  ValueError: numbers out of range; what `fit` raises
    Example: >>> tune_learning_rate(toque.Run(data="photos/")).proposal
    """
    if steps < _LEAST_STEPS:
        raise checks.invalid(
            "tune-lr", "--steps", f">= {_LEAST_STEPS}", steps, "Give it more steps to see a slope."
        )
    if not 0 < low < high < math.inf:
        raise checks.invalid(
            "tune-lr", "--low and --high", "0 < low < high", (low, high), "As in --low 1e-5."
        )
    rates = np.geomspace(low, high, steps)
    losses: list[float] = []
    with trial(run, own) as tried:
        usual = tried.run.optimizer.learning_rate
        size = tried.run.batch_size
        batches = tried.batches(0, steps * size)
        with contextlib.closing(batches):
            for number, (rate, batch) in enumerate(zip(rates, batches, strict=False)):
                outcome = tried.step(batch, number * size, float(rate))
                loss = float(outcome.loss)
                if not math.isfinite(loss) or float(outcome.skipped):
                    break
                losses.append(loss)
                say(number + 1, float(rate), loss)
                if len(losses) >= _LEAST_STEPS and _risen(np.array(losses)):
                    break
    found = np.array(losses)
    return judge(rates[: len(found)], found, len(found) < steps, usual or math.nan)


def smooth(losses: np.ndarray) -> np.ndarray:
    """The moving average of the losses, without the pull of its start at zero. [n] -> [n]"""
    mean, out = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        out.append(mean / (1 - _SMOOTHING**number))
    return np.array(out)


def judge(rates: np.ndarray, losses: np.ndarray, ended: bool, usual: float) -> RangeTest:
    """Read the proposal off the losses of each rate. [n], [n] -> RangeTest

    Args: ended: whether the test ended early, because the loss rose for good
    """
    mean = smooth(losses)
    skip = min(5, len(mean) // 4)  # the first averages are single losses
    if len(mean) <= skip + 2:
        nothing = float(rates[0]) if len(rates) else math.nan
        return RangeTest(rates, losses, mean, nothing, nothing, None, ended, usual)
    at = skip + int(mean[skip:].argmin())
    lowest = float(rates[at])
    # Only on the way down: behind the lowest point a slope says nothing.
    slope = np.gradient(mean, np.log10(rates))[skip : at + 1]
    steepest = float(rates[skip + int(slope.argmin())])
    fell = mean[at] < 0.98 * mean[skip] - 1e-12
    return RangeTest(
        rates, losses, mean, steepest, lowest, lowest / _BELOW_LOWEST if fell else None,
        ended or bool(mean[-1] > 1.02 * mean[at]), usual,
    )  # fmt: skip


def write(path: Path, found: RangeTest, title: str) -> None:
    """Write the test as a page: loss over rate, and the proposal.

    Raises: FileNotFoundError: the folder does not exist
    """
    from toque.train.report import lines, template

    checks.require_folder_of("tune-lr", "--out", path)
    first = math.floor(math.log10(found.rates[0]) + 1e-9)
    decades = np.log10(found.rates) - first
    chart = lines.draw(
        "Loss",
        [
            lines.Curve("Each step", "val", decades, found.losses, noisy=False),
            lines.Curve("Smoothed", "train", decades, found.smoothed, noisy=False),
        ],
        cut_spikes=True,
        across="rate",
        first_decade=first,
    )
    if chart is not None and found.proposal is not None:
        place = (math.log10(found.proposal) - first) / max(float(decades[-1]), 1e-9)
        chart = replace(chart, best=round(100 * place, 3), best_label="Proposal")
    context = {
        "kind": "learning-rate range test",
        "title": title,
        "sentences": found.sentences(),
        "charts": [chart] if chart else [],
        "table": None,
    }
    durable.write(path, template.render("chart_page.html", context))


def _risen(losses: np.ndarray) -> bool:
    mean = smooth(losses)
    return bool(mean[-1] > _RISEN * mean.min() and mean[-1] > mean[0])
