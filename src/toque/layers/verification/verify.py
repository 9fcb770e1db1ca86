"""verify: every check on one layer, in order, and the smallest input on which a check fails."""

from __future__ import annotations

import contextlib
import copy
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from toque import checks, random
from toque.layers.modes import mode
from toque.layers.saved import trace_saved
from toque.layers.verification import (
    gradients,
    graph,
    inputs,
    lifetime,
    precision,
    reference,
    retention,
    sizes,
    state,
    transforms,
)
from toque.layers.verification.report import Finding, Report, SavedTensor
from toque.layers.verification.subject import NotSupported, Subject, Wrong, subject_of

Check = Callable[[Subject], str]

CHECKS: dict[str, Check] = {
    "gradients": gradients.first,
    "gradients at other scales": gradients.at_other_scales,
    "shapes of gradients": graph.gradient_shapes,
    "weights are parameters": graph.own_leaves,
    "inputs left alone": lifetime.leaves_inputs_alone,
    "views": lifetime.views,
    "changes in place caught": lifetime.changes_are_caught,
    "some inputs without gradient": inputs.gradient_subsets,
    "no unneeded work": lifetime.skips_unneeded_work,
    "called twice": lifetime.called_twice,
    "backward twice": lifetime.backward_twice,
    "deterministic": lifetime.deterministic,
    "nothing kept alive": retention.frees_everything,
    "saved memory visible": retention.hidden_memory,
    "strides": inputs.strides,
    "strides of grad_output": inputs.grad_output_strides,
    "empty batch": sizes.empty_batch,
    "other sizes": sizes.odd_sizes,
    "images apart": sizes.images_apart,
    "zeros": inputs.zeros,
    "large values": inputs.large_values,
    "float32": precision.single,
    "bfloat16 and float16": precision.half,
    "autocast": precision.autocast,
    "no_grad and inference_mode": inputs.without_gradient,
    "train and eval": state.train_and_eval,
    "state": state.keeps_state,
    "process-wide settings": state.leaves_globals_alone,
    "reference": reference.values_and_gradients,
    "reference, second derivatives": reference.second_derivatives,
    "second derivatives": gradients.second,
    "forward-mode AD": gradients.forward_mode,
    "batched gradients": gradients.batched,
    "vmap": transforms.vmap,
    "torch.func.grad": transforms.func_gradient,
    "checkpoint": transforms.checkpointed,
    "meta tensors": transforms.meta,
    "fake tensors": transforms.fake,
    "torch.compile": transforms.compiled,
    "custom operator": transforms.custom_op,
    "second device": transforms.second_device,
}

# What a layer may refuse aloud: an error there is an answer, not a wrong result.
_MAY_REFUSE = {
    "second derivatives", "reference, second derivatives", "forward-mode AD", "batched gradients",
    "vmap", "torch.func.grad", "meta tensors", "fake tensors", "bfloat16 and float16", "autocast",
}  # fmt: skip
_REFUSALS = (
    "not implemented", "isn't implemented", "not supported", "does not support", "not yet",
    "doesn't support", "no kernel", "no batching rule", "unsupported",
)  # fmt: skip
# Slow, or not a matter of the input's size.
_NOT_SHRUNK = {
    "torch.compile", "state", "process-wide settings", "second device", "nothing kept alive",
}  # fmt: skip
_MAX_SHRINKING_S = 0.5
# They compare layouts or dtypes, for which torch draws other numbers from the same seed.
_NEED_NO_DRAWS = {
    "strides",
    "images apart",
    "float32",
    "bfloat16 and float16",
    "autocast",
    "large values",
}


def verify(
    target: Callable[..., Any],
    *example_inputs: Any,
    reference: Callable[..., Any] | None = None,
    required: Collection[str] = (),
    skip: Collection[str] = (),
    only: Collection[str] = (),
) -> Report:
    """Prove a layer: an nn.Module, a function, an autograd.Function's apply, or a custom operator.

    Every check runs on a copy of the module, in float64 unless it is about another dtype. A check
    fails on a wrong answer; where a layer refuses aloud (no double backward, no vmap), the finding
    says "not supported", unless the check is in `required`.

    Args:    target: what is called with the example inputs; random draws inside must be torch's
             example_inputs: small ones (a few hundred numbers); those that require gradients are
             differentiated, all floating ones when none does
             reference: the plain composition the layer stands for, called with the same inputs
             required: names of checks that must be supported, as in `CHECKS`
             skip, only: names of checks to leave out, or to run alone
    Raises:  ValueError: an unknown check name, no tensor among the inputs and parameters
             Whatever the layer raises on its own example
    Example: >>> report = verify(torch.nn.GELU(), torch.randn(3, 5))
             >>> report.passed
             True
    Cost:    about one second, half of it torch.compile; the example is best small
    """
    if not callable(target):
        raise checks.invalid_type(
            "verify", "target", "a module or a function", type(target).__name__,
            "Give what is called with the example inputs.",
        )  # fmt: skip
    if not isinstance(target, nn.Module) and isinstance(target, type):
        raise checks.invalid_type(
            "verify", "target", "a module or a function", f"the class {target.__name__}",
            f"Give {target.__name__}(…), or of an autograd.Function its apply.",
        )  # fmt: skip
    for name in (*required, *skip, *only):
        if name not in CHECKS:
            raise checks.invalid(
                "verify", "check", "a known one", name, checks.nearest(name, CHECKS)
            )
    with random.kept_globals(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong is said in the report
        return _verified(target, example_inputs, reference, required, skip, only)


def _verified(
    target: Callable[..., Any],
    example_inputs: tuple[Any, ...],
    reference: Callable[..., Any] | None,
    required: Collection[str],
    skip: Collection[str],
    only: Collection[str],
) -> Report:
    pristine = None
    if isinstance(target, nn.Module):
        with contextlib.suppress(Exception):  # the check of the state says that it cannot be copied
            target, pristine = copy.deepcopy(target), copy.deepcopy(target)
    subject = subject_of(target, example_inputs, reference)
    subject.pristine = pristine
    if not subject.slots:
        raise checks.invalid(
            "verify", "example_inputs", "at least one tensor", "none", "Give what the layer reads."
        )
    subject.is_in_place = _works_in_place(subject)
    draws = _draws(subject)
    findings = []
    for name, check in CHECKS.items():
        if name in skip or (only and name not in only):
            continue
        if name.startswith("reference") and reference is None:
            continue
        if name in ("custom operator", "second device") and not required and not only:
            if name == "second device" and not torch.accelerator.is_available():
                continue
            if name == "custom operator" and not transforms.is_operator(target):
                continue
        if draws and name in _NEED_NO_DRAWS:
            check = _in_eval(check)
        findings.append(_answer(name, check, subject, name in required))
    return Report(
        subject.name, subject.shapes(), tuple(findings), _saved(subject), torch.__version__
    )


def _answer(name: str, check: Check, subject: Subject, is_required: bool) -> Finding:
    started = time.perf_counter()
    settings = state.process_settings()
    smallest = ""
    try:
        cause = check(subject)
        status = "passed"
    except NotSupported as refusal:
        status, cause = "not supported", str(refusal)
    except Wrong as wrong:
        status, cause = "failed", str(wrong)
        if name not in _NOT_SHRUNK:
            smallest = _smallest(check, subject)
    except Exception as error:
        text = f"{type(error).__name__}: {checks.first_line(error)}"
        loud = name in _MAY_REFUSE or isinstance(error, NotImplementedError)
        loud = loud or any(word in str(error).lower() for word in _REFUSALS)
        status, cause = ("not supported" if loud else "failed"), text
    state.restore(settings)
    if status == "not supported" and is_required:
        status, cause = "failed", f"required, but {cause}"
    seconds = time.perf_counter() - started
    return Finding(name, status, cause, smallest, seconds)  # type: ignore[arg-type]


def _works_in_place(subject: Subject) -> bool:
    """Runs the layer once; True when it writes into its input, as ReLU(inplace=True) does."""
    settings = state.process_settings()
    try:
        subject.run(subject.values())
    except RuntimeError as error:
        # Any other error is said by the first check.
        return "leaf Variable that requires grad is being used in an in-place" in str(error)
    finally:
        state.restore(settings)
    return False


def _draws(subject: Subject) -> bool:
    """True when another torch seed gives another output, as Dropout does."""
    settings = state.process_settings()
    try:
        with torch.no_grad():
            first, other = (
                [output.clone() for output in subject.call(subject.values(), seed=seed)]
                for seed in (0, 1)
            )
    except Exception:
        return False
    finally:
        state.restore(settings)
    pairs = zip(first, other, strict=False)
    return any(not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def _in_eval(check: Check) -> Check:
    def run(subject: Subject) -> str:
        if subject.module is None:
            return "draws random numbers: not compared"
        with mode(subject.module, False):
            if _draws(subject):
                return "draws random numbers: not compared"
            return check(subject)

    return run


def _smallest(check: Check, subject: Subject) -> str:
    """Halve the axes of the inputs while the check keeps failing."""
    started = time.perf_counter()
    shrinking = True
    while shrinking:
        shrinking = False
        for smaller in _smaller(subject):
            if time.perf_counter() - started > _MAX_SHRINKING_S:
                return subject.shapes()
            try:
                smaller.call(smaller.values())
                check(smaller)
            except Wrong:
                subject, shrinking = smaller, True
                break
            except Exception:
                continue
    return subject.shapes()


def _smaller(subject: Subject) -> Iterator[Subject]:
    """Subjects with one axis of the inputs halved, or all axes of one length."""
    shapes = [subject.examples[i].shape for i in subject.input_positions]
    lengths = sorted({length for shape in shapes for length in shape if length > 1}, reverse=True)
    deepest = max((len(shape) for shape in shapes), default=0)
    for length in lengths:
        for only_axis in (None, *range(deepest)):

            def resize(
                _: int, t: Tensor, length: int = length, only_axis: int | None = only_axis
            ) -> Tensor:
                for axis in range(t.dim()):
                    if t.shape[axis] == length and only_axis in (None, axis):
                        t = t.narrow(axis, 0, length // 2)
                return t

            yield subject.resized(resize)


def _saved(subject: Subject) -> tuple[SavedTensor, ...]:
    values = subject.values(torch.float32)
    settings = state.process_settings()
    try:
        trace = trace_saved(lambda *v: subject.call(v), *values)
    except Exception:
        return ()
    finally:
        state.restore(settings)
    return tuple(
        SavedTensor(f"{node.name}.{t.name}", t.shape, t.dtype, t.num_bytes, t.kind == "own")
        for node in trace.nodes
        for t in node.saves
    )
