"""Is it as exact as its dtype allows: float32, bfloat16, float16, and under autocast?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from toque import checks
from toque.layers.verification import compare
from toque.layers.verification.subject import NotSupported, Outcome, Subject, Wrong

# Largest error against float64, relative to the largest value, without a reference to compare with.
_ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
# With a reference: times its own error, and never below a few units of the last place.
_TIMES_REFERENCE = 4.0


def single(subject: Subject) -> str:
    """float32 against the same rounded inputs in float64."""
    return _against_double(subject, torch.float32)


def half(subject: Subject) -> str:
    """bfloat16 and float16 against the same rounded inputs in float64."""
    notes, refused = [], []
    for dtype in (torch.bfloat16, torch.float16):
        try:
            notes.append(_against_double(subject, dtype))
        except RuntimeError as error:
            text = str(error)
            if "not implemented for" in text or "not supported" in text:
                refused.append(f"{_short(dtype)}: {text.splitlines()[0][:100]}")
                continue
            if "dtype" in text or "same type" in text:
                raise Wrong(
                    f"{_short(dtype)} inputs and parameters: {text.splitlines()[0][:120]}: is a "
                    "tensor made in float32?"
                ) from error
            raise
    if len(refused) == 2:
        raise NotSupported("; ".join(refused))
    return "; ".join(notes + refused)


def _against_double(subject: Subject, dtype: torch.dtype) -> str:
    values = subject.values(dtype)
    found = subject.run(values)
    rounded = [
        v.detach().double().requires_grad_(v.requires_grad) if v.is_floating_point() else v
        for v in values
    ]
    truth = subject.run(rounded)
    plain: Outcome | None = None
    if subject.reference is not None:
        plain = subject.run(subject.values(dtype), function=subject.reference)
        for a, b in zip(found.outputs, plain.outputs, strict=False):
            if a.dtype != b.dtype:
                raise Wrong(
                    f"{_short(dtype)} inputs give a {_short(a.dtype)} output where the reference "
                    f"gives {_short(b.dtype)}"
                )
    worst = 0.0
    floor = compare.size_floor(truth.gradients, 0.1)
    for name, a, b, c in _triples(found, truth, plain):
        error = compare.difference(a, b, floor if "gradient" in name else 1e-9)
        limit = _ALLOWED[dtype]
        if c is not None:
            own = compare.difference(c, b, floor if "gradient" in name else 1e-9)
            limit = _TIMES_REFERENCE * max(own, 4 * torch.finfo(dtype).eps)
        if error > limit and not _is_rounding(subject, rounded, dtype, name, a, b, limit):
            raise Wrong(
                f"{_short(dtype)}: {name} is off by {error:.1e} of its size against float64, more "
                f"than {limit:.1e}: is something summed or kept in a lower precision?"
            )
        worst = max(worst, error)
    return f"{_short(dtype)} error {worst:.1e}"


def _is_rounding(
    subject: Subject,
    values: list[Tensor],
    dtype: torch.dtype,
    name: str,
    found: Tensor,
    truth: Tensor,
    limit: float,
) -> bool:
    """Whether inputs that differ in the last place move the exact answer as far."""
    with torch.no_grad():
        moved = [v.detach().clone(memory_format=torch.contiguous_format) for v in values]
        for value in moved:
            if value.is_floating_point() and value.dim():
                value.view(-1)[::2].mul_(1 + torch.finfo(dtype).eps)
    for value, kept in zip(moved, values, strict=True):
        value.requires_grad_(kept.requires_grad)
    other = subject.run(moved)
    rows = {row: tensor for row, tensor, _, _ in _triples(other, other, None)}
    if name not in rows:
        return False
    noise = float((rows[name] - truth).abs().max())
    error = float((found.double() - truth).abs().max())
    return error <= limit * float(truth.abs().max()) + 8 * noise


def _triples(
    found: Outcome, truth: Outcome, plain: Outcome | None
) -> list[tuple[str, Tensor, Tensor, Tensor | None]]:
    rows: list[tuple[str, Tensor, Tensor, Tensor | None]] = []
    for position, (a, b) in enumerate(zip(found.outputs, truth.outputs, strict=True)):
        if a.is_floating_point():
            rows.append(("the output", a, b, plain.outputs[position] if plain else None))
    for name, gradient in found.gradients.items():
        other = truth.gradients[name]
        if gradient is not None and other is not None:
            third = plain.gradients[name] if plain else None
            rows.append((f"the gradient for `{name}`", gradient, other, third))
    return rows


def autocast(subject: Subject) -> str:
    """Under autocast, with float32 and with low-precision inputs; backward runs outside it."""
    notes = []
    for dtype in (torch.bfloat16, torch.float16):
        for lowered in (False, True):
            what = f"autocast to {_short(dtype)}" + (" of inputs that are so" if lowered else "")
            try:
                values, outputs = _forward_under_autocast(subject, dtype, lowered, None)
            except RuntimeError as error:
                notes.append(f"{what}: refused ({checks.first_line(error, 80)})")
                continue
            try:
                found = subject.finish(outputs, values)
            except RuntimeError as error:
                text = str(error)
                if "dtype" in text or "same type" in text or "expected scalar type" in text:
                    raise Wrong(
                        f"{what}: {text.splitlines()[0][:120]}: forward saw autocast's dtype and "
                        "backward another; cast the inputs before Function.apply"
                    ) from error
                raise
            if subject.reference is not None:
                _, plain = _forward_under_autocast(subject, dtype, lowered, subject.reference)
                for a, b in zip(found.outputs, plain, strict=False):
                    if a.dtype != b.dtype:
                        raise Wrong(
                            f"{what}: the output is {_short(a.dtype)} where the reference gives "
                            f"{_short(b.dtype)}"
                        )
            truth = subject.run(subject.values())
            floor = compare.size_floor(truth.gradients, 0.1)
            for name, a, b, _ in _triples(found, truth, None):
                error_size = compare.difference(a, b, floor if "gradient" in name else 1e-9)
                limit = 2 * _ALLOWED[dtype] + 0.05
                if error_size > limit and not _is_rounding(
                    subject, subject.values(), dtype, name, a, b, limit
                ):
                    raise Wrong(f"{what}: {name} is off by {error_size:.1e} of its size")
    return "; ".join(notes)


def _forward_under_autocast(
    subject: Subject, dtype: torch.dtype, lowered: bool, function: Callable[..., Any] | None
) -> tuple[list[Tensor], list[Tensor]]:
    inputs = subject.input_positions
    values = [
        v.detach().to(dtype).requires_grad_(v.requires_grad)
        if lowered and i in inputs and v.is_floating_point()
        else v
        for i, v in enumerate(subject.values(torch.float32))
    ]
    with torch.autocast("cpu", dtype=dtype):
        outputs = subject.call(values, function=function)
    return values, outputs


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
