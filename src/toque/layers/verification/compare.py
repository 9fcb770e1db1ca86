"""Comparing two runs, and saying in words how they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from toque.layers.verification.subject import Outcome, Wrong


def require_equal(found: Outcome, expected: Outcome, when: str, tolerance: float = 1e-6) -> None:
    """Raise Wrong when outputs or gradients of two runs of the same layer differ."""
    require_outputs(found.outputs, expected.outputs, when, tolerance)
    require_gradients(found.gradients, expected.gradients, when, tolerance)


def require_outputs(
    found: Sequence[Tensor], expected: Sequence[Tensor], when: str, tolerance: float = 1e-6
) -> None:
    """Raise Wrong when the outputs differ in number, shape, dtype or value."""
    if len(found) != len(expected):
        raise Wrong(f"{when}: {len(found)} outputs instead of {len(expected)}")
    for position, (a, b) in enumerate(zip(found, expected, strict=True)):
        name = "the output" if len(expected) == 1 else f"output {position}"
        if a.shape != b.shape:
            raise Wrong(f"{when}: {name} has shape {list(a.shape)} instead of {list(b.shape)}")
        if a.dtype != b.dtype:
            raise Wrong(f"{when}: {name} is {a.dtype} instead of {b.dtype}")
        error = difference(a, b)
        if error > tolerance:
            raise Wrong(f"{when}: {name} differs {_by(error)}")


def require_gradients(
    found: Mapping[str, Tensor | None],
    expected: Mapping[str, Tensor | None],
    when: str,
    tolerance: float = 1e-6,
) -> None:
    """Raise Wrong when a gradient of `found` is not that of the same name in `expected`."""
    floor = size_floor(expected, 1e-3)
    for name, gradient in found.items():
        other = expected.get(name)
        if gradient is None and other is None:
            continue
        if gradient is not None and other is not None and gradient.shape != other.shape:
            raise Wrong(
                f"{when}: the gradient for `{name}` has shape {list(gradient.shape)} "
                f"instead of {list(other.shape)}"
            )
        error = difference(gradient, other, floor)
        if error > tolerance:
            raise Wrong(f"{when}: the gradient for `{name}` differs {_by(error)}")


def _by(error: float) -> str:
    return "in where it is not finite" if error == float("inf") else f"by {error:.1e} of its size"


def size_floor(gradients: Mapping[str, Tensor | None], share: float) -> float:
    """A size below which a gradient counts as zero: a share of the largest of all gradients.

    Some gradients are zero by cancellation (a bias before BatchNorm, the keys' bias in attention)
    and consist of rounding alone.
    """
    sizes = [
        float(g.detach().abs().nan_to_num(0, 0, 0).max())
        for g in gradients.values()
        if g is not None and g.numel() and g.is_floating_point()
    ]
    return max(share * max(sizes, default=0.0), 1e-9)


def difference(found: Tensor | None, expected: Tensor | None, floor: float = 1e-9) -> float:
    """Largest absolute difference over the largest finite expected value; inf for a stray NaN.

    Args: floor: what the largest expected value is taken for when it is smaller
    """
    if found is None or expected is None:
        present = found if found is not None else expected
        assert present is not None
        if present.numel() == 0:
            return 0.0
        return 1.0 if bool((present.abs() > floor).any()) else 0.0
    if expected.numel() == 0:
        return 0.0
    if not expected.is_floating_point() and not expected.is_complex():
        return 0.0 if torch.equal(found, expected) else 1.0
    a, b = found.detach().double(), expected.detach().double()
    finite = torch.isfinite(b)
    if bool((torch.isfinite(a) != finite).any()):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    scale = b[finite].abs().max().clamp(min=floor)
    return float((a[finite] - b[finite]).abs().max() / scale)


def likely_cause(
    name: str, analytic: Tensor | None, numeric: Tensor, others: Mapping[str, Tensor | None]
) -> str:
    """One sentence on how a wrong gradient relates to the numerical one.

    Shape: analytic, numeric [n]: the same sampled elements
    """
    if analytic is None:
        return (
            f"backward gives no gradient for `{name}` though the output depends on it: is it used "
            "through .data or .detach(), or is None returned for it?"
        )
    if not bool(torch.isfinite(analytic).all()):
        return f"the gradient for `{name}` is not finite where the numerical one is"
    if not bool(analytic.any()):
        return f"the gradient for `{name}` is zero though the output depends on it"
    large = numeric.abs() > 1e-3 * numeric.abs().max().clamp(min=1e-12)
    ratios = analytic[large] / numeric[large]
    if ratios.numel() and bool((ratios - ratios.mean()).abs().max() < 1e-3 * ratios.mean().abs()):
        ratio = float(ratios.mean())
        return (
            f"backward returns a gradient for `{name}` that is {ratio:.6g} times the numerical "
            f"one: {_factor(ratio)}"
        )
    if analytic.numel() > 1 and bool((analytic - numeric).std() < 1e-4 * numeric.abs().max()):
        return f"the gradient for `{name}` is off by a constant: is a term added or left out?"
    right = (analytic - numeric).abs() <= 1e-4 * numeric.abs().max()
    for other, gradient in others.items():
        if other == name or gradient is None or gradient.numel() != analytic.numel():
            continue
        if torch.allclose(gradient.flatten(), numeric, rtol=1e-3, atol=1e-6):
            return f"`{name}` is given the gradient of `{other}`: are two results swapped?"
    if bool(right.any()) and not bool(right.all()):
        return (
            f"the gradient for `{name}` is wrong in {int((~right).sum())} of {right.numel()} "
            "elements checked: is a case (a sign, a border, a clamp) treated differently?"
        )
    return (
        f"the gradient for `{name}` is not the numerical one: is a term missing, or a part "
        "detached (.detach(), .item(), no_grad)?"
    )


def _factor(ratio: float) -> str:
    if abs(ratio - 1) < 5e-3:
        return "is a small term left out or held constant?"
    if abs(ratio + 1) < 1e-2:
        return "is a sign lost?"
    if 1 < ratio < 1e6 and abs(ratio - round(ratio)) < 1e-3:
        return "is a sum or a term taken twice?"
    if 1e-6 < ratio < 1 and abs(1 / ratio - round(1 / ratio)) < 1e-3:
        return f"is a mean over {round(1 / ratio)} taken twice?"
    return "is a factor wrong or left out?"
