"""Is it right on inputs that are not the example: other strides, subsets, extremes?"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from toque import checks
from toque.layers.verification import compare
from toque.layers.verification.subject import Outcome, Subject, Wrong, cotangents_for


def _every_second(tensor: Tensor) -> Tensor:
    if tensor.dim() == 0:
        return tensor
    wide = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1])
    view = wide[..., ::2]
    view.copy_(tensor)
    return view


def _transposed(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() < 2 else tensor.transpose(0, -1).contiguous().transpose(0, -1)


def _channels_last(tensor: Tensor) -> Tensor:
    if tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if tensor.dim() == 5:
        return tensor.contiguous(memory_format=torch.channels_last_3d)
    return tensor


def _offset(tensor: Tensor) -> Tensor:
    """The same strides, but beginning inside a larger storage."""
    if not tensor.numel() or not tensor.is_contiguous():
        return tensor
    wide = tensor.new_zeros(tensor.numel() + 3)
    view = wide[3:].view(tensor.shape)
    view.copy_(tensor)
    return view


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "every second element": _every_second,
    "transposed": _transposed,
    "channels_last": _channels_last,
    "with a storage offset": _offset,
}


def strides(subject: Subject) -> str:
    """Non-contiguous, channels_last and zero-stride inputs, one after another and all together."""
    expected = subject.run(subject.values())
    for name, layout in LAYOUTS.items():
        for changed in [*([i] for i in subject.input_positions), subject.wanted]:
            values = subject.values(
                change=lambda i, t, layout=layout, changed=changed: layout(t) if i in changed else t  # type: ignore[misc]
            )
            if name == "channels_last" and all(values[i].dim() < 4 for i in changed):
                continue
            names = ", ".join(f"`{subject.slots[i].name}`" for i in changed)
            found = _said(lambda values=values: subject.run(values), f"{names} {name}")  # type: ignore[misc]
            compare.require_equal(found, expected, f"{names} {name}")
    _zero_stride(subject)
    return f"{len(LAYOUTS) + 1} layouts"


def _zero_stride(subject: Subject) -> None:
    def constant(position: int, tensor: Tensor) -> Tensor:
        if tensor.dim() and tensor.numel() and tensor.is_floating_point():
            return tensor.narrow(0, 0, 1).expand(tensor.shape)
        return tensor

    inputs = subject.input_positions
    expanded = subject.values(change=lambda i, t: constant(i, t) if i in inputs else t)
    plain = [
        v.detach().contiguous().requires_grad_(v.requires_grad)
        for v in subject.values(change=lambda i, t: constant(i, t) if i in inputs else t)
    ]
    try:
        expected = subject.run(plain)
    except Exception:
        return  # equal rows are outside the layer's domain
    found = _said(lambda: subject.run(expanded), "zero-stride (expanded) input")
    compare.require_equal(found, expected, "zero-stride (expanded) input")


def grad_output_strides(subject: Subject) -> str:
    """A gradient that arrives expanded (as from .sum()), transposed or strided."""
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "expanded from one number": lambda t: t.new_full((), 0.7).expand(t.shape),
        "every second element": lambda t: _every_second(t),
        "transposed": lambda t: _transposed(t),
    }
    for name, layout in kinds.items():
        results = []
        for contiguous in (True, False):
            values = subject.values()
            outputs = subject.call(values)
            sources = [output for output in outputs if output.requires_grad]
            arriving = [layout(c) for c in cotangents_for(sources)]
            if contiguous:
                arriving = [c.contiguous() for c in arriving]
            results.append(
                _said(
                    lambda o=outputs, v=values, a=arriving: subject.finish(o, v, a),  # type: ignore[misc]
                    f"grad_output {name}",
                )
            )
        compare.require_equal(results[1], results[0], f"grad_output {name}")
    return ""


def _said(run: Callable[[], Outcome], when: str) -> Outcome:
    try:
        return run()
    except RuntimeError as error:
        text = str(error)
        if "view size is not compatible" in text or "contiguous" in text:
            raise Wrong(
                f"{when}: it calls .view() or asks for contiguous memory; use .reshape()"
            ) from error
        raise


def gradient_subsets(subject: Subject) -> str:
    """Some inputs without gradient: the others' gradients stay the same."""
    whole = subject.run(subject.values()).gradients
    wanted = subject.wanted
    subsets = [
        subset
        for size in range(1, len(wanted))
        for subset in itertools.combinations(wanted, size)
        if size in (1, len(wanted) - 1)
    ][:16]
    for subset in subsets:
        names = ", ".join(f"`{subject.slots[i].name}`" for i in subset)
        try:
            found = subject.run(subject.values(wanted=subset)).gradients
        except Exception as error:
            raise Wrong(
                f"backward fails when only {names} needs a gradient: {checks.first_line(error)}"
            ) from error
        compare.require_gradients(found, whole, f"when only {names} needs a gradient")
    return f"{len(subsets)} subsets"


def without_gradient(subject: Subject) -> str:
    """Under no_grad and inference_mode: the same outputs."""
    expected = [output.detach() for output in subject.call(subject.values())]
    with torch.no_grad():
        compare.require_outputs(subject.call(subject.values()), expected, "under no_grad")
    with torch.inference_mode():
        found = subject.call(subject.values())
        compare.require_outputs(found, expected, "under inference_mode")
    return ""


def zeros(subject: Subject) -> str:
    """Inputs of zeros, as a black image or a dead feature: no NaN, and finite gradients."""
    inputs = [
        i for i in subject.input_positions if i in subject.wanted and subject.examples[i].numel()
    ]
    if not inputs:
        return "no input has a gradient"
    for rows in (slice(None), slice(1)):

        def black(position: int, tensor: Tensor, rows: slice = rows) -> Tensor:
            if position in inputs:
                (tensor[rows] if tensor.dim() else tensor).zero_()
            return tensor

        try:
            values = subject.values(change=black)
            outcome = subject.run(values)
        except (ValueError, RuntimeError, ArithmeticError) as error:
            return f"zeros are refused: {checks.first_line(error)}"
        floating = [output for output in outcome.outputs if output.is_floating_point()]
        if any(bool(output.isnan().any()) for output in floating):
            raise Wrong(
                "the output is NaN for an input of zeros (a black image, a dead feature): is "
                "something divided by a norm, a sum or a standard deviation without an eps?"
            )
        if any(bool(output.isinf().any()) for output in floating):
            return "the output is infinite at zero"
        for name, gradient in outcome.gradients.items():
            if gradient is not None and not bool(torch.isfinite(gradient).all()):
                raise Wrong(
                    f"the gradient for `{name}` is not finite for an input of zeros, where the "
                    "output is: a square root, norm or power at 0 without an eps?"
                )
    return ""


def large_values(subject: Subject) -> str:
    """Inputs of size 100 in float32: finite where the same in float64 is finite."""
    inputs = subject.input_positions

    def grown(dtype: torch.dtype) -> list[Tensor]:
        return [
            (v.detach() * (100.0 / v.detach().abs().max().clamp(min=1e-6))).requires_grad_(
                v.requires_grad
            )
            if i in inputs and v.is_floating_point() and v.numel()
            else v
            for i, v in enumerate(subject.values(dtype))
        ]

    try:
        truth = subject.run(grown(torch.float64))
        found = subject.run(grown(torch.float32))
    except (ValueError, RuntimeError) as error:
        return f"values of 100 are refused: {checks.first_line(error)}"
    pairs = [("the output", a, b) for a, b in zip(found.outputs, truth.outputs, strict=True)]
    pairs += [
        (f"the gradient for `{n}`", g, truth.gradients[n])  # type: ignore[misc]
        for n, g in found.gradients.items()
        if g is not None and truth.gradients[n] is not None
    ]
    for name, a, b in pairs:
        if not a.is_floating_point():
            continue
        representable = torch.isfinite(b) & (b.abs() < 1e37)
        if bool((~torch.isfinite(a) & representable).any()):
            raise Wrong(
                f"{name} is not finite in float32 for inputs of size 100, where float64 is: is an "
                "exponential taken before it is bounded (use logsumexp, softplus, log_softmax)?"
            )
    return ""
