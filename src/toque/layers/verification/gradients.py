"""Is the derivative right? First, second, forward-mode and batched derivatives in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from toque import checks
from toque.layers.verification import compare
from toque.layers.verification.subject import NotSupported, Subject, Wrong, cotangents_for

_SAMPLED = 40
_STEP = 1e-6
_COARSE_STEP, _COARSE_TOLERANCE = 1e-2, 1e-2
_LOWER = (torch.float32, torch.float16, torch.bfloat16)


def first(subject: Subject) -> str:
    """Backward against central differences, element by element, and gradcheck's own rules."""
    outputs = subject.call(subject.values())
    if any(o.is_floating_point() and o.dtype != torch.float64 for o in outputs):
        raise Wrong(
            "float64 inputs give a float32 output: is a tensor made in the default dtype, or cast?"
        )
    count, note = _compare(subject, subject.values(), _sampled, 1e-4)
    _undefined_gradients(subject)
    return f"{count} elements against central differences{note}"


def at_other_scales(subject: Subject) -> str:
    """Backward against central differences where the inputs are 30 times larger or smaller."""
    inputs = subject.input_positions
    for scale in (30.0, 1 / 30):
        values = [
            (value.detach() * scale).requires_grad_(value.requires_grad)
            if position in inputs and value.is_floating_point()
            else value
            for position, value in enumerate(subject.values())
        ]
        try:
            _compare(subject, values, _few, 1e-3)
        except Wrong as wrong:
            raise Wrong(f"inputs times {scale:.2g}: {wrong}") from None
        except (ValueError, RuntimeError) as error:  # outside the layer's domain, which it may say
            return f"inputs times {scale:.2g} are refused: {checks.first_line(error)}"
    return ""


def second(subject: Subject) -> str:
    """Double backward against central differences of the first backward."""
    if computes_in_float32(subject):
        return "it computes in float32 inside: not compared"
    values = subject.values()
    outputs = [output for output in subject.call(values) if output.requires_grad]
    cotangents = [c.requires_grad_() for c in cotangents_for(outputs)]
    leaves = {subject.slots[i].name: values[i] for i in subject.wanted}
    first_order = torch.autograd.grad(
        outputs, list(leaves.values()), cotangents, create_graph=True, allow_unused=True
    )
    directions = cotangents_for([v.detach() for v in leaves.values()], seed=5)

    def along(gradients: Sequence[Tensor | None]) -> Tensor:
        terms = [(g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None]
        return torch.stack(terms).sum()

    if all(gradient is None for gradient in first_order):
        raise NotSupported("no gradient to differentiate")
    if any("Error" in type(g.grad_fn).__name__ for g in first_order if g is not None):
        raise NotSupported("backward may be differentiated once only (once_differentiable)")

    def first_along(changed: list[Tensor]) -> float:
        again = [output for output in subject.call(changed) if output.requires_grad]
        found = torch.autograd.grad(
            again,
            [changed[i] for i in subject.wanted],
            [c.detach() for c in cotangents],
            allow_unused=True,
        )
        return float(along(found))

    scalar = along(first_order)
    exact: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if scalar.requires_grad:
        exact = torch.autograd.grad(scalar, list(leaves.values()), allow_unused=True)
    for name, position, gradient in zip(leaves, subject.wanted, exact, strict=True):
        numeric = _differences(subject, values, position, _few, first_along)
        found = _at(gradient, values[position], _few(values[position]))
        if _disagree(found, numeric, 1e-3, float(scalar.detach().abs())):
            raise Wrong(
                f"the second derivative with respect to `{name}` is "
                f"{'missing' if found is None else 'wrong'}: does backward detach, use a tensor "
                "kept on ctx, or call an operation without a derivative?"
            )
    return ""


def forward_mode(subject: Subject) -> str:
    """Forward-mode derivative along a direction against a central difference."""
    if computes_in_float32(subject):
        return "it computes in float32 inside: not compared"
    values = [value.detach() for value in subject.values()]
    for wanted in [*([i] for i in subject.wanted), subject.wanted]:
        directions = dict(
            zip(wanted, cotangents_for([values[i] for i in wanted], seed=7), strict=True)
        )
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(value, directions[i])  # type: ignore[no-untyped-call]
                if i in directions
                else value
                for i, value in enumerate(values)
            ]
            outputs = subject.call(duals)
            unpacked = [
                forward_ad.unpack_dual(output)  # type: ignore[no-untyped-call]
                for output in outputs
            ]
            tangents = [None if u.tangent is None else u.tangent.clone() for u in unpacked]
        if all(tangent is None for tangent in tangents):
            raise NotSupported("no tangent comes out: an operation inside has no jvp")
        up, down = (
            subject.call(
                [v + sign * _STEP * directions[i] if i in directions else v
                 for i, v in enumerate(values)]
            )
            for sign in (1, -1)
        )  # fmt: skip
        names = " and ".join(f"`{subject.slots[i].name}`" for i in wanted)
        for high, low, tangent in zip(up, down, tangents, strict=True):
            if not high.is_floating_point():
                continue
            numeric = (high - low) / (2 * _STEP)
            if _disagree(
                tangent, numeric, 1e-3, float(high.detach().abs().max()) if high.numel() else 0.0
            ):
                raise Wrong(
                    f"the forward-mode derivative along {names} is "
                    f"{'missing' if tangent is None else 'wrong'}: does jvp drop a tangent?"
                )
    return ""


def batched(subject: Subject) -> str:
    """torch.autograd.grad(is_grads_batched=True) against one backward after another."""
    values = subject.values()
    outputs = [output for output in subject.call(values) if output.requires_grad]
    leaves = [values[i] for i in subject.wanted]
    several = [cotangents_for(outputs, seed=seed) for seed in (11, 12)]
    stacked = [torch.stack(pair) for pair in zip(*several, strict=True)]
    together = torch.autograd.grad(
        outputs, leaves, stacked, is_grads_batched=True, retain_graph=True, allow_unused=True
    )
    for row, cotangents in enumerate(several):
        alone = torch.autograd.grad(
            outputs, leaves, cotangents, retain_graph=True, allow_unused=True
        )
        names = [subject.slots[i].name for i in subject.wanted]
        compare.require_gradients(
            {n: None if t is None else t[row] for n, t in zip(names, together, strict=True)},
            dict(zip(names, alone, strict=True)),
            "batched gradients (is_grads_batched)",
            tolerance_of(subject),
        )
    return ""


def _undefined_gradients(subject: Subject) -> None:
    """With several outputs, each alone gives its share, and the shares sum to the whole."""
    values = subject.values()
    outputs = [output for output in subject.call(values) if output.requires_grad]
    if len(outputs) < 2:
        return
    leaves = [values[i] for i in subject.wanted]
    names = [subject.slots[i].name for i in subject.wanted]
    cotangents = cotangents_for(outputs)
    whole = torch.autograd.grad(outputs, leaves, cotangents, retain_graph=True, allow_unused=True)
    total: list[Tensor | None] = [None] * len(leaves)
    for output, cotangent in zip(outputs, cotangents, strict=True):
        try:
            share = torch.autograd.grad(
                output, leaves, cotangent, retain_graph=True, allow_unused=True
            )
        except (TypeError, AttributeError) as error:
            raise Wrong(
                f"backward fails when only one output is used ({checks.first_line(error)}): an "
                "unused output's gradient arrives as None"
            ) from error
        total = [
            b if a is None else a if b is None else a + b for a, b in zip(total, share, strict=True)
        ]
    compare.require_gradients(
        dict(zip(names, total, strict=True)),
        dict(zip(names, whole, strict=True)),
        "the sum of the gradients of each output alone",
    )


def _compare(
    subject: Subject,
    values: list[Tensor],
    sampled: Callable[[Tensor], list[int]],
    tolerance: float,
) -> tuple[int, str]:
    """How many elements agree with central differences, and a remark."""
    try:
        return _compare_with_differences(subject, values, sampled, tolerance), ""
    except Wrong:
        if not computes_in_float32(subject):
            raise
    count = _compare_with_differences(subject, values, sampled, _COARSE_TOLERANCE, _COARSE_STEP)
    return count, f" of step {_COARSE_STEP:g}: it computes in float32 inside"


def computes_in_float32(subject: Subject) -> bool:
    """Whether forward casts float64 numbers to float32, as norms of timm do."""
    watch = _Casts()
    with watch:
        subject.call(subject.values())
    return watch.found


def tolerance_of(subject: Subject) -> float:
    """How far two orders of the same float64 computation may differ, relative to its size."""
    return 1e-4 if computes_in_float32(subject) else 1e-6


class _Casts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notices an operation that makes float32 numbers of float64 ones."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        given = [a for a in args if isinstance(a, Tensor)]
        if isinstance(made, Tensor) and made.dtype in _LOWER and given:
            self.found |= any(a.dtype == torch.float64 for a in given)
        return made


def _compare_with_differences(
    subject: Subject,
    values: list[Tensor],
    sampled: Callable[[Tensor], list[int]],
    tolerance: float,
    step: float = _STEP,
) -> int:
    outputs = subject.call(values)
    sources = [output for output in outputs if output.requires_grad]
    if not sources:
        floating = [output for output in outputs if output.is_floating_point()]
        if not floating or not subject.wanted:
            raise NotSupported("no output that can have a gradient")
        names = ", ".join(f"`{subject.slots[i].name}`" for i in subject.wanted)
        raise Wrong(
            f"the output has no gradient for {names}: is it computed under no_grad, or through "
            ".data, .detach(), .item() or NumPy?"
        )
    cotangents = [
        c.requires_grad_(False) for c in cotangents_for([o for o in outputs if o.requires_grad])
    ]
    requiring = [position for position, output in enumerate(outputs) if output.requires_grad]
    analytic = subject.finish(outputs, values, cotangents).gradients

    def scalar(changed: list[Tensor]) -> float:
        with torch.no_grad():
            found = subject.call(changed)
        return float(
            sum((found[p].double() * c).sum() for p, c in zip(requiring, cotangents, strict=True))
        )

    size = abs(scalar(values))
    count = 0
    for position in subject.wanted:
        slot = subject.slots[position]
        numeric = _differences(subject, values, position, sampled, scalar, step)
        found = _at(analytic[slot.name], values[position], sampled(values[position]))
        count += numeric.numel()
        if _disagree(found, numeric, tolerance, size):
            raise Wrong(compare.likely_cause(slot.name, found, numeric.nan_to_num(), analytic))
    return count


def _differences(
    subject: Subject,
    values: list[Tensor],
    position: int,
    sampled: Callable[[Tensor], list[int]],
    scalar: Callable[[list[Tensor]], float],
    relative_step: float = _STEP,
) -> Tensor:
    """Central differences of `scalar` by elements of one slot; NaN at a kink or an overflow."""
    made = []
    for index in sampled(values[position]):
        at = float(values[position].detach().reshape(-1)[index])
        step = relative_step * max(1.0, abs(at))
        high, low, middle = (
            scalar(_with(values, position, index, at + sign * step)) for sign in (1, -1, 0)
        )
        slope = (high - low) / (2 * step)
        left, right = (middle - low) / step, (high - middle) / step
        kinked = abs(right - left) > 0.01 * max(abs(left), abs(right)) + 1e-3 * abs(middle)
        made.append(math.nan if kinked or not math.isfinite(slope) else slope)
    return torch.tensor(made, dtype=torch.float64, device=values[position].device)


def _with(values: list[Tensor], position: int, index: int, number: float) -> list[Tensor]:
    changed = list(values)
    moved = values[position].detach().clone(memory_format=torch.contiguous_format)
    moved.view(-1)[index] = number
    changed[position] = moved.requires_grad_(values[position].requires_grad)
    return changed


def _at(gradient: Tensor | None, value: Tensor, indices: list[int]) -> Tensor | None:
    if gradient is None:
        return None
    return gradient.detach().expand(value.shape).reshape(-1)[indices]


def _disagree(found: Tensor | None, numeric: Tensor, tolerance: float, size: float) -> bool:
    """NaN in `numeric` (a kink, an overflow) is left out; `size` is that of the value."""
    use = torch.isfinite(numeric)
    if not bool(use.any()):
        return False
    wanted = numeric[use]
    got = torch.zeros_like(wanted) if found is None else found.detach()[use]
    # What rounding does to a central difference of step 1e-6, and a little more.
    rounding = 1e-8 * max(size, 1e-3)
    allowed = tolerance * wanted.abs().max() + rounding
    return not bool(((got - wanted).abs() <= allowed).all())


def _sampled(tensor: Tensor) -> list[int]:
    """Up to 40 elements: the first, the last and evenly between."""
    return _spread(tensor.numel(), _SAMPLED)


def _few(tensor: Tensor) -> list[int]:
    return _spread(tensor.numel(), 12)


def _spread(total: int, count: int) -> list[int]:
    if total <= count:
        return list(range(total))
    ends = [0, 1, 2, total - 3, total - 2, total - 1]
    between = [(k * total) // (count - 6) for k in range(count - 6)]
    return sorted({*ends, *between})
