"""Does it leave alone what is not its own? Aliases, changes in place, leaks, repetition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from toque.layers.tensors import storage_of, tensors_in
from toque.layers.verification import compare
from toque.layers.verification.subject import Outcome, Subject, Wrong, cotangents_for


def leaves_inputs_alone(subject: Subject) -> str:
    """Neither forward nor backward changes inputs, parameters or the gradient that arrives."""
    values = subject.values()
    before = [value.detach().clone() for value in values]

    def look(when: str) -> None:
        if subject.is_in_place:
            return
        for slot, value, kept in zip(subject.slots, values, before, strict=True):
            if not torch.equal(value.detach().nan_to_num(), kept.nan_to_num()):
                raise Wrong(
                    f"{when} changes `{slot.name}` in place without saying so: call "
                    "ctx.mark_dirty, or work on a copy"
                )

    outputs = subject.call(values)
    look("forward")
    sources = [output for output in outputs if output.requires_grad]
    arriving = cotangents_for(sources)
    copies = [c.clone() for c in arriving]
    outcome = subject.finish(outputs, values, arriving)
    look("backward")
    for cotangent, copy in zip(arriving, copies, strict=True):
        if not torch.equal(cotangent, copy):
            raise Wrong("backward writes into grad_output, which other layers still read")
    memory = {
        storage_of(v): s.name for s, v in zip(subject.slots, values, strict=True) if v.numel()
    }
    for name, gradient in outcome.gradients.items():
        if gradient is not None and gradient.numel() and storage_of(gradient) in memory:
            other = memory[storage_of(gradient)]
            raise Wrong(
                f"the gradient for `{name}` lies in the memory of `{other}`: an optimizer that "
                "changes one changes both"
            )
    return ""


def views(subject: Subject) -> str:
    """An output that shares memory with an input is a view that autograd knows."""
    if subject.is_in_place:
        return "works in place"
    values = [
        v.clone() if v.requires_grad else v for v in subject.values()
    ]  # no leaves: they may be changed in place
    outputs = subject.call(values)
    memory = {storage_of(value): s.name for s, value in zip(subject.slots, values, strict=True)}
    for output in outputs:
        if not output.numel() or storage_of(output) not in memory:
            continue
        name = memory[storage_of(output)]
        if any(output is value for value in values):
            continue
        if not output._is_view():
            raise Wrong(
                f"the output shares memory with `{name}` and autograd does not know it: is "
                ".detach() or .data returned? Return a copy"
            )
        if output.requires_grad:
            try:
                output.add_(1)
            except RuntimeError as error:
                if "custom Function" in str(error):
                    raise Wrong(
                        f"forward returns a view of `{name}` from an autograd.Function, which "
                        "cannot be changed in place afterwards: return a copy"
                    ) from error
    return ""


def changes_are_caught(subject: Subject) -> str:
    """A tensor changed in place between forward and backward raises, or does not matter."""
    if subject.is_in_place:
        return "works in place"
    expected = subject.run(subject.values()).gradients
    floating = [i for i, v in enumerate(subject.examples) if v.is_floating_point() and v.numel()]
    for position in floating[:8]:
        values = subject.values()
        outputs = subject.call(values)
        with torch.no_grad():
            values[position].mul_(1.5).add_(0.25)
        _require_caught(subject, outputs, values, expected, f"`{subject.slots[position].name}`")
    values = subject.values()
    outputs = subject.call(values)
    with torch.no_grad():
        for output in outputs:
            if output.is_floating_point() and not output._is_view():
                output.mul_(1.5).add_(0.25)
    _require_caught(subject, outputs, values, expected, "the output")
    return ""


def _require_caught(
    subject: Subject,
    outputs: list[Tensor],
    values: list[Tensor],
    expected: dict[str, Tensor | None],
    what: str,
) -> None:
    try:
        found = subject.finish(outputs, values).gradients
    except RuntimeError:
        return
    try:
        compare.require_gradients(found, expected, "")
    except Wrong:
        raise Wrong(
            f"when {what} is changed in place after forward, backward silently gives another "
            "gradient: is a tensor kept on ctx or through .data and not by save_for_backward?"
        ) from None


def called_twice(subject: Subject) -> str:
    """Two forwards, then two backwards: each gets its own gradients."""

    def scaled() -> list[Tensor]:
        return [
            (v.detach() * 0.9).requires_grad_(v.requires_grad) if v.is_floating_point() else v
            for v in subject.values()
        ]

    alone = [subject.run(subject.values()), subject.run(scaled())]
    values = [subject.values(), scaled()]
    outputs = [subject.call(v) for v in values]
    for number, (o, v, expected) in enumerate(zip(outputs, values, alone, strict=True)):
        try:
            compare.require_equal(
                subject.finish(o, v), expected, f"call {number + 1} of two before backward"
            )
        except Wrong as wrong:
            raise Wrong(
                f"{wrong}: is something kept on the module or the class between forward and "
                "backward?"
            ) from None
    _keeps_results_apart(subject)
    return ""


def _keeps_results_apart(subject: Subject) -> None:
    """Outputs and gradients of one call are not overwritten by the next."""
    results: list[tuple[str, Tensor]] = []
    for factor in (1.0, 0.9):
        values = [
            (v.detach() * factor).requires_grad_(v.requires_grad) if v.is_floating_point() else v
            for v in subject.values()
        ]
        outputs = subject.call(values)
        sources = [output for output in outputs if output.requires_grad]
        leaves = [v for v in values if v.requires_grad]
        found: tuple[Tensor | None, ...] = ()
        if sources and leaves:
            cotangents = [factor * c for c in cotangents_for(sources)]
            found = torch.autograd.grad(sources, leaves, cotangents, allow_unused=True)
        if not results:
            results = [("the output", output) for output in outputs]
            results += [("a gradient", g) for g in found if g is not None]
            kept = [result.detach().clone() for _, result in results]
    for (name, result), before in zip(results, kept, strict=True):
        with torch.no_grad():
            same = torch.equal(result.nan_to_num(), before.nan_to_num())
        if not same:
            raise Wrong(
                f"{name} of one call is overwritten by the next call: is a buffer used again?"
            )


def backward_twice(subject: Subject) -> str:
    """With retain_graph: the same gradients again, and proportional to the arriving gradient."""
    values = subject.values()
    outputs = subject.call(values)
    sources = [output for output in outputs if output.requires_grad]
    arriving = cotangents_for(sources)

    def backward(factor: float) -> Outcome:
        scaled = [factor * c for c in arriving]
        found = subject.finish(outputs, values, scaled, retain_graph=True)
        copied = {n: None if g is None else g.clone() for n, g in found.gradients.items()}
        return Outcome(found.outputs, copied)

    once = backward(1.0)
    hint = "does backward change a saved tensor, or count its calls?"
    try:
        compare.require_equal(backward(1.0), once, "the second backward of the same graph", 1e-12)
    except Wrong as wrong:
        raise Wrong(f"{wrong}: {hint}") from None
    for factor in (2.0, 0.0):
        scaled = {n: None if g is None else factor * g for n, g in once.gradients.items()}
        try:
            compare.require_gradients(
                backward(factor).gradients,
                scaled,
                f"backward of {factor:g} times the gradient",
                1e-9,
            )
        except Wrong as wrong:
            raise Wrong(
                f"{wrong}: backward is not linear in grad_output, so it does not use all of it"
            ) from None
    return ""


def deterministic(subject: Subject) -> str:
    """The same values and torch seed give the same bits."""
    first = subject.run(subject.values(torch.float32))
    for _ in range(2):
        again = subject.run(subject.values(torch.float32))
        try:
            compare.require_equal(again, first, "the same call again", 0.0)
        except Wrong as wrong:
            raise Wrong(
                f"{wrong}: does it draw from another generator than torch's (Python's random, "
                "NumPy), read uninitialised memory, or keep a counter?"
            ) from None
    return ""


def skips_unneeded_work(subject: Subject) -> str:
    """A hand-written backward does less when fewer gradients are needed."""
    if len(subject.wanted) < 2:
        return ""
    whole = _backward_operations(subject, subject.wanted)
    if whole is None:
        return ""
    for position in subject.wanted:
        part = _backward_operations(subject, [position])
        if part is not None and part >= whole:
            raise Wrong(
                f"backward does the same work when only `{subject.slots[position].name}` needs a "
                "gradient: ask ctx.needs_input_grad"
            )
    return ""


def _backward_operations(subject: Subject, wanted: list[int]) -> int | None:
    """Operations of one backward; None unless the output's node is a Python autograd.Function."""
    values = subject.values(wanted=wanted)
    outputs = [output for output in subject.call(values) if output.requires_grad]
    functions = torch.autograd.function.BackwardCFunction
    if not outputs or not all(isinstance(output.grad_fn, functions) for output in outputs):
        return None
    counter = _Counting()
    cotangents = cotangents_for(outputs)
    with counter:
        subject.finish(outputs, values, cotangents)
    return counter.elements


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the elements that operations write: a measure of work that has no noise."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in ("detach", "view", "expand", "t", "alias", "_unsafe_view"):
            self.elements += sum(tensor.numel() for tensor in tensors_in(found))
        return found
