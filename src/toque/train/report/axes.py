"""Ticks at round numbers, and numbers as a reader wants to see them."""

from __future__ import annotations

import itertools
import math

from toque.train.metrics import shown

_ROUND_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_ROUND_INTEGER_STEPS = (1.0, 2.0, 5.0, 10.0)
_LETTERS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_PERCENT = "\N{NO-BREAK SPACE}%"  # the sign must not wrap to a line of its own


def round_step(span: float, most: int, integers: bool = False) -> float:
    """The smallest round step that cuts `span` into at most `most` intervals.

    Round is 1, 2, 2.5 or 5 times a power of ten; 2.5 is left out for integers.
    """
    exponent = math.floor(math.log10(span / most))
    steps = _ROUND_INTEGER_STEPS if integers else _ROUND_STEPS
    for power in (exponent, exponent + 1):
        for step in steps:
            size = step * 10.0**power
            # The margin keeps 0.3 / 0.1 = 2.9999999999999996 from asking for a larger step.
            if span / size <= most * (1 + 1e-9) and not (integers and size < 1):
                return size
    return 10.0 ** (exponent + 2)


def round_ticks(low: float, high: float, most: int, integers: bool = False) -> list[float]:
    """The multiples of a round step within low .. high: two or more, at most `most` + 1.

    A range of no width has the one tick `low`.
    """
    if not high > low:
        return [low]
    step = round_step(high - low, most, integers)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def enclose(low: float, high: float, most: int) -> tuple[float, float]:
    """low .. high widened to ticks on both ends; a range of (almost) no width is given one."""
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, 1e-200):
        margin = size / 2 if size > 1e-200 else 1.0
        low, high = low - margin, high + margin
    step = round_step(high - low, most)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def tick_labels(ticks: list[float]) -> list[str]:
    """Labels with the digits that tell neighbours apart, and no more: 0.05, 0.10, 0.15."""
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=0.0)
    largest = max((abs(tick) for tick in ticks), default=0.0)
    unit, suffix = 1.0, ""
    if 0 < largest < 1e-4:
        exponent = math.floor(math.log10(largest))
        unit, suffix = 10.0**exponent, f"e{exponent}"
    for limit, letter in _LETTERS:
        if largest >= limit and not suffix:
            unit, suffix = limit, letter
    if step == 0.0:
        return [f"{tick / unit:.4g}{suffix}" for tick in ticks]
    digits = max(0, -math.floor(math.log10(step / unit) + 1e-9))
    if abs(step / unit * 10**digits - round(step / unit * 10**digits)) > 1e-6:  # a step of 2.5
        digits += 1
    labels = []
    for tick in ticks:
        label = f"{tick / unit:.{digits}f}"
        if suffix and digits:  # 2.5k, 5k: the letter already says that these are short forms
            label = label.rstrip("0").rstrip(".")
        labels.append(label + suffix if tick else "0")
    return labels


def compact(value: float) -> str:
    """A number in few characters: 950, 12.5k, 3M, 0.0004, 5e-6; at least three true digits."""
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-4:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    for limit, letter in _LETTERS:
        if size >= limit * 0.9995:  # 999.6k would be written as 1000k
            return f"{value / limit:.3g}{letter}" if size < limit * 999.5 else f"{value:.3g}"
    return f"{value:.3g}"


def percent(share: float, digits: int = 1) -> str:
    """As `shown.percent`, with a space that does not break."""
    said = shown.percent(share, digits)
    return said.removesuffix(" %") + _PERCENT if math.isfinite(share) else "–"


def duration(seconds: float) -> str:
    """4.25 -> "4.2 s"; 161 -> "2 min 41 s"; 7300 -> "2 h 1 min"."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days >= 2:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
