"""Whether two computations of the same gradients differ by rounding, or by a mistake."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from toque import checks


@dataclass(frozen=True)
class GradientErrors:
    """Errors against float64: distances between whole tensors over the norm of the exact one."""

    worst: float
    """The largest relative error of a tensor, those that are `zero` left out."""
    worst_name: str
    plain_worst: float
    """The same of the plain float32 gradients."""
    times_plain: float
    """The largest error of a tensor in units of the plain one's: below 10 is rounding."""
    times_plain_name: str
    zero: tuple[str, ...]
    """Tensors whose gradient is zero but for rounding, as that of a bias before BatchNorm."""

    def __str__(self) -> str:
        return (
            f"error {self.worst:.0e} in {self.worst_name} (plain {self.plain_worst:.0e}), "
            f"at most {self.times_plain:.1f} times plain's rounding ({self.times_plain_name}); "
            f"{len(self.zero)} gradients are zero"
        )


def compare_gradients(
    found: Mapping[str, Tensor], plain: Mapping[str, Tensor], exact: Mapping[str, Tensor]
) -> GradientErrors:
    """Measure gradients against float64, beside those of the plain float32 computation.

    Elements, or one computation against another, say nothing here: the gradient of a bias before
    BatchNorm is a sum that cancels, so in float32 it is rounding alone and differs by its own size
    between any two orders of summing.

    Args:    found: gradients by name, of the computation in question (compiled, recomputed, fused)
             plain: the same in plain float32
             exact: the same in float64
    Raises:  ValueError: the three do not have the same names, or there are none
    Example: >>> one = {"w": torch.ones(3)}
             >>> compare_gradients(one, one, one).worst
             0.0
    """
    if not exact or found.keys() != exact.keys() or plain.keys() != exact.keys():
        odd = sorted((found.keys() ^ exact.keys()) | (plain.keys() ^ exact.keys()))
        raise checks.invalid(
            "compare_gradients", "found, plain and exact", "of the same names, one or more",
            ", ".join(odd[:3]) or "none", "Give the gradients of the same parameters.",
        )  # fmt: skip
    sizes = {name: float(tensor.double().norm()) for name, tensor in exact.items()}
    errors = {name: _distance(found[name], exact[name]) for name in exact}
    own = {name: _distance(plain[name], exact[name]) for name in exact}
    zero = tuple(name for name in exact if sizes[name] <= own[name])
    rest = [name for name in exact if name not in zero] or list(exact)
    # A tensor of few elements may be right by luck, so its rounding counts as no less than usual.
    usual = statistics.median(own[name] / max(sizes[name], 1e-300) for name in rest)
    usual = max(usual, torch.finfo(torch.float32).eps)
    times = {n: errors[n] / max(own[n], usual * sizes[n], 1e-300) for n in exact}
    relative = {name: errors[name] / max(sizes[name], 1e-300) for name in rest}
    worst, most = max(relative, key=relative.__getitem__), max(times, key=times.__getitem__)
    return GradientErrors(
        worst=relative[worst],
        worst_name=worst,
        plain_worst=max(own[name] / max(sizes[name], 1e-300) for name in rest),
        times_plain=times[most],
        times_plain_name=most,
        zero=zero,
    )


def _distance(a: Tensor, b: Tensor) -> float:
    distance = float((a.double() - b.double()).norm())
    return math.inf if math.isnan(distance) else distance
