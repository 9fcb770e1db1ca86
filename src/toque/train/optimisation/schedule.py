"""The learning rate as a pure function of images seen."""

from __future__ import annotations

import math
from collections.abc import Callable

from toque.train.run import Run
from toque.train.settings.optimisation import ScheduleSettings

Schedule = Callable[[int], float]

_ONE_CYCLE_FIRST = 1 / 25  # Smith & Topin 2017 and torch's OneCycleLR start at peak / 25


def schedule(run: Run, total_images: int) -> Schedule:
    """The learning rate of a run as a function of images seen.

    Args:    total_images: images of the whole run
    Example: >>> rate = schedule(run, total_images=100_000)
             >>> rate(0), rate(100_000)
    """
    peak = run.optimizer.learning_rate
    assert peak is not None, "resolve_optimizer fills it in"
    return curve(
        run.schedule, peak, total_images=total_images, batch_size=run.batch_size, epochs=run.epochs
    )


def curve(
    settings: ScheduleSettings, peak: float, *, total_images: int, batch_size: int, epochs: float
) -> Schedule:
    """A learning rate as a function of images seen: a linear warm-up, then the named shape.

    Args:    peak: the highest rate
             total_images: images of the whole run
             batch_size: images in a step: the rise begins one step above 0
             epochs: of the whole run
    Source:  cosine: Loshchilov & Hutter 2016, arXiv:1608.03983, eq. 5 without restarts; one_cycle:
             Smith & Topin 2017, arXiv:1708.07120, as torch's OneCycleLR (two cosine phases);
             trapezoid: Zhai 2021, arXiv:2106.04560, section 3.5, and Hägele 2024, arXiv:2405.18392
    """
    warmup = round(settings.warmup_fraction * total_images)
    # The first step learns too: the rise begins one batch above 0.
    first = batch_size
    floor = settings.final_fraction
    after = _shape(settings, epochs)
    decaying = max(1, total_images - warmup)

    def rate(images_seen: int) -> float:
        if images_seen < warmup:
            if settings.name == "one_cycle":
                low, risen = _ONE_CYCLE_FIRST, _cosine(1 - images_seen / warmup)
                return peak * (low + (1 - low) * risen)
            return peak * min(1.0, (images_seen + first) / (warmup + first))
        remaining = after(min(1.0, (images_seen - warmup) / decaying))
        return peak * (floor + (1 - floor) * remaining)

    return rate


def _shape(settings: ScheduleSettings, epochs: float) -> Callable[[float], float]:
    """What is left of the peak after a share of the time behind the warm-up: 1 at 0."""
    if settings.name == "constant":
        return lambda progress: 1.0
    if settings.name == "linear":
        return lambda progress: 1 - progress
    if settings.name == "polynomial":
        return lambda progress: (1 - progress) ** settings.power
    if settings.name == "trapezoid":
        last = settings.cooldown_fraction / (1 - settings.warmup_fraction)
        return lambda progress: min(1.0, (1 - progress) / last) if last else 1.0
    if settings.name == "step":
        # `every` counts epochs of the whole run, the warm-up included.
        begun = settings.warmup_fraction
        every = settings.every_epochs / epochs
        return lambda progress: (
            settings.factor ** math.floor((begun + progress * (1 - begun)) / every + 1e-9)
        )
    return _cosine


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))
