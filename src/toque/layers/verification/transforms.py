"""Does it survive what others do to it: vmap, torch.func, compile, checkpoint, fake tensors?"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import CheckpointError, checkpoint

from toque.layers.verification import compare, gradients
from toque.layers.verification.subject import NotSupported, Outcome, Subject, Wrong


def vmap(subject: Subject) -> str:
    """torch.func.vmap over each tensor alone, over all, and over the last axis, against a loop."""
    values = [value.detach() for value in subject.values()]
    wanted = subject.wanted
    tolerance = gradients.tolerance_of(subject)
    tried = 0
    for chosen in [*((i,) for i in wanted[:4]), tuple(wanted)]:
        for axis in (0, -1):
            if axis == -1 and any(values[i].dim() == 0 for i in chosen):
                continue
            stacked = list(values)
            for i in chosen:
                stacked[i] = torch.stack([values[i], 0.9 * values[i], 1.1 * values[i]], axis)
            axes = tuple(axis if i in chosen else None for i in range(len(values)))
            together = torch.func.vmap(
                lambda *v: tuple(subject.call(v)), in_dims=axes, randomness="same"
            )(*stacked)
            for row in range(3):
                alone = subject.call(
                    [s.select(axis, row) if i in chosen else s for i, s in enumerate(stacked)]
                )
                names = ", ".join(f"`{subject.slots[i].name}`" for i in chosen)
                compare.require_outputs(
                    [t[row] for t in together], alone, f"vmap over {names} (axis {axis})", tolerance
                )
            tried += 1
    return f"{tried} choices of in_dims"


def func_gradient(subject: Subject) -> str:
    """torch.func.grad, alone and under vmap, against torch.autograd.grad."""
    values = [value.detach() for value in subject.values()]
    wanted = tuple(subject.wanted)

    def scalar(*changed: Tensor) -> Tensor:
        outputs = [o for o in subject.call(changed) if o.is_floating_point()]
        return torch.stack([_weighted(output) for output in outputs]).sum()

    def expected(changed: Sequence[Tensor]) -> dict[str, Tensor | None]:
        leaves = [v.detach().clone().requires_grad_(i in wanted) for i, v in enumerate(changed)]
        made = torch.autograd.grad(scalar(*leaves), [leaves[i] for i in wanted], allow_unused=True)
        return dict(zip(names, made, strict=True))

    names = [subject.slots[i].name for i in wanted]
    gradient = torch.func.grad(scalar, argnums=wanted)
    found = dict(zip(names, gradient(*values), strict=True))
    tolerance = gradients.tolerance_of(subject)
    compare.require_gradients(found, expected(values), "torch.func.grad", tolerance)
    stacked = [torch.stack([v, 0.9 * v]) if i in wanted else v for i, v in enumerate(values)]
    axes = tuple(0 if i in wanted else None for i in range(len(values)))
    together = torch.func.vmap(gradient, in_dims=axes, randomness="same")(*stacked)
    for row in range(2):
        alone = expected([s[row] if i in wanted else s for i, s in enumerate(stacked)])
        rows = dict(zip(names, (t[row] for t in together), strict=True))
        compare.require_gradients(
            rows, alone, "vmap of torch.func.grad (per-sample gradients)", tolerance
        )
    return ""


def _weighted(output: Tensor) -> Tensor:
    count = max(output.numel(), 1)
    weights = torch.linspace(0.5, 1.5, count, dtype=output.dtype, device=output.device)
    return (torch.sin(output) * weights[: output.numel()].reshape(output.shape)).sum()


def compiled(subject: Subject, backend: str = "aot_eager") -> str:
    """torch.compile(fullgraph=True): the same values and gradients as eager."""
    expected = subject.run(subject.values(torch.float32))
    torch._dynamo.reset()
    target = subject.target
    try:
        made: Any = torch.compile(target, fullgraph=True, backend=backend)
        if subject.module is not None:
            # The module is compiled as users do; its parameters are set in place and put back.
            outcome = _run_compiled_module(subject, made)
        else:
            outcome = subject.run(subject.values(torch.float32), function=made)
    except Exception as error:
        if "_dynamo" in type(error).__module__ or "Unsupported" in type(error).__name__:
            if "RNN, GRU, or LSTM" in str(error):
                raise NotSupported("torch does not compile its RNN, GRU and LSTM") from error
            raise Wrong(
                f"torch.compile(fullgraph=True) breaks the graph: {_reason(error)}"
            ) from error
        raise
    finally:
        torch._dynamo.reset()
        _enable_saved_tensor_hooks()
    compare.require_equal(outcome, expected, "compiled against eager", 1e-4)
    return f"backend {backend}"


def _run_compiled_module(subject: Subject, made: Callable[..., Any]) -> Outcome:
    """A compiled module reads its own parameters, so the values are copied in and back out."""
    module = subject.module
    assert module is not None
    values = subject.values(torch.float32)
    kept = {name: t.detach().clone() for name, t in module.state_dict(keep_vars=True).items()}
    owned = dict(module.named_parameters())
    leaves = list(values)
    try:
        with torch.no_grad():
            for position, slot in enumerate(subject.slots):
                if slot.is_parameter:
                    owned[slot.name].copy_(values[position])
                    leaves[position] = owned[slot.name]
        outputs = subject.call(leaves, function=made)
        return subject.finish(outputs, leaves)
    finally:
        with torch.no_grad():
            state = module.state_dict(keep_vars=True)
            for name, tensor in kept.items():
                if name in state and state[name].shape == tensor.shape:
                    state[name].copy_(tensor)


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [
        line
        for line in lines
        if line.startswith(("Explanation:", "Unsupported", "Hint:")) or line == lines[0]
    ]
    return " ".join(kept[:2])[:260]


def _enable_saved_tensor_hooks() -> None:
    """A compile that failed midway can leave saved-tensor hooks disabled for the process."""
    if torch._C._autograd._saved_tensors_hooks_get_disabled_error_message() is not None:
        torch._C._autograd._saved_tensors_hooks_enable()


def is_operator(target: object) -> bool:
    """True for an operator of torch.library or torch.ops."""
    return isinstance(target, torch._ops.OpOverload | torch._ops.OpOverloadPacket | CustomOpDef)


def custom_op(subject: Subject) -> str:
    """torch.library.opcheck, when the layer is a custom operator."""
    target: Any = subject.target
    if not is_operator(target):
        raise NotSupported("not a torch.library operator")
    values = iter(subject.values(torch.float32))
    leaves = list(subject.leaves)
    for position in subject.tensor_positions:
        leaves[position] = next(values)
    if isinstance(target, torch._ops.OpOverloadPacket):
        target = getattr(target, target.overloads()[0])  # type: ignore[no-untyped-call]
    results = torch.library.opcheck(
        target, tuple(torch.utils._pytree.tree_unflatten(leaves, subject.spec)),
        raise_exception=False,
    )  # fmt: skip
    failed = {name: answer for name, answer in results.items() if answer != "SUCCESS"}
    for name, answer in failed.items():
        raise Wrong(f"torch.library.opcheck {name}: {str(answer).splitlines()[0][:200]}")
    return ", ".join(results)


def checkpointed(subject: Subject) -> str:
    """Under torch.utils.checkpoint: the same gradients when forward runs again in backward."""
    expected = subject.run(subject.values())

    values = subject.values()
    outputs: list[Tensor] = checkpoint(
        lambda *changed: subject.call(changed), *values, use_reentrant=False
    )
    try:
        found = subject.finish(outputs, values)
    except CheckpointError as error:
        if "already unpacked" in str(error):
            raise Wrong(
                "under checkpoint saved tensors may be read once: backward reads "
                "ctx.saved_tensors more than once; read it into names first"
            ) from error
        raise Wrong(
            "under checkpoint forward does not run again as it did: does it save other tensors, "
            "or depend on a counter or on random numbers that are not torch's?"
        ) from error
    compare.require_equal(found, expected, "under checkpoint")
    return ""


def meta(subject: Subject) -> str:
    """On the meta device: shapes and dtypes of outputs and gradients without any value."""
    expected = subject.run(subject.values(torch.float32))
    values = [
        v.detach().to("meta").requires_grad_(v.requires_grad) for v in subject.values(torch.float32)
    ]
    found = _explained(lambda: subject.run(values), "meta")
    return _same_metadata(found, expected, "meta tensors")


def fake(subject: Subject) -> str:
    """With fake tensors (what compile and memory prediction run): shapes, dtypes, strides."""
    expected = subject.run(subject.values(torch.float32))
    real = subject.values(torch.float32)

    def run() -> Outcome:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            values = [
                mode.from_tensor(value.detach()).requires_grad_(value.requires_grad)
                for value in real
            ]
            outputs = subject.call(values)
            sources = [output for output in outputs if output.requires_grad]
            return subject.finish(outputs, values, [torch.ones_like(s) for s in sources])

    return _same_metadata(_explained(run, "fake"), expected, "fake tensors")


_VALUE_WORDS = (
    "item()", "data-dependent", "Data dependent", "_local_scalar", "nonzero", "unbacked",
)  # fmt: skip


def _explained(run: Callable[[], Outcome], kind: str) -> Outcome:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run()
    except Exception as error:
        text = str(error)
        if any(word in text for word in _VALUE_WORDS) or "DataDependent" in type(error).__name__:
            raise Wrong(
                f"it reads a value of a tensor ({kind} tensors have none): .item(), float(), a "
                "Python if on a tensor, nonzero() or a boolean mask?"
            ) from error
        if "same device" in text or ("device" in text and "cpu" in text and "meta" in text):
            raise Wrong(
                "tensors on two devices meet: is one made without device=input.device?"
            ) from error
        if "numpy" in text.lower():
            raise Wrong(
                "it goes through NumPy, which has only CPU values and no gradient"
            ) from error
        raise


def _same_metadata(found: Outcome, expected: Outcome, when: str) -> str:
    for a, b in itertools.zip_longest(found.outputs, expected.outputs):
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            raise Wrong(f"{when}: outputs have another shape or dtype than real ones")
    for name, gradient in found.gradients.items():
        other = expected.gradients[name]
        if gradient is not None and other is not None and gradient.shape != other.shape:
            raise Wrong(f"{when}: the gradient for `{name}` has another shape than the real one")
    return ""


def second_device(subject: Subject) -> str:
    """On an accelerator, where there is one, or on the CPU if it is there: the same values."""
    if not torch.accelerator.is_available():
        raise NotSupported("no second device on this machine")
    here = subject.values(torch.float32)
    cpu = torch.device("cpu")
    device = torch.accelerator.current_accelerator() if here[0].device == cpu else cpu
    there = [v.detach().to(device).requires_grad_(v.requires_grad) for v in here]
    expected, found = (_on_cpu(subject.run(values)) for values in (here, there))
    compare.require_equal(found, expected, f"on {device} against {here[0].device}", 1e-3)
    return str(device)


def _on_cpu(outcome: Outcome) -> Outcome:
    gradients = {n: None if g is None else g.cpu() for n, g in outcome.gradients.items()}
    return Outcome([output.cpu() for output in outcome.outputs], gradients)
