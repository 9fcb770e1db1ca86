"""Does a module keep its state as modules do? Modes, buffers, state_dict, copies, settings."""

from __future__ import annotations

import copy
import io
import random as python_random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from toque import checks, random
from toque.layers.modes import mode
from toque.layers.tensors import tensors_in
from toque.layers.verification import compare, gradients
from toque.layers.verification.sizes import batch_positions
from toque.layers.verification.subject import NotSupported, Subject, Wrong


def train_and_eval(subject: Subject) -> str:
    """In eval nothing is drawn and no buffer moves; gradients hold in both modes."""
    module = subject.module
    if module is None:
        return "a function has no modes"
    values = subject.values()
    with mode(module, False):
        buffers = subject.fresh_buffers(values)
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        subject.call(values, buffers=buffers)
        for name, buffer in buffers.items():
            if not torch.equal(buffer, before[name]):
                raise Wrong(f"eval changes the buffer `{name}`: is self.training asked?")
        first, other = (subject.call(values, seed=seed, buffers=buffers) for seed in (0, 1))
        try:
            compare.require_outputs(other, first, "in eval, with another torch seed", 0.0)
        except Wrong as wrong:
            raise Wrong(
                f"{wrong}: does it draw (dropout, noise) without asking self.training?"
            ) from None
        _independent_of_neighbours(subject, module)
    with mode(module, not module.training):
        try:
            gradients.first(subject)
        except NotSupported:
            return "no gradient in the other mode"
        except Wrong as wrong:
            now = "eval" if not module.training else "train"
            raise Wrong(f"in {now} mode: {wrong}") from None
    return ""


def _independent_of_neighbours(subject: Subject, module: nn.Module) -> None:
    """A module that gathers statistics in training uses them in eval: each image stands alone."""
    values = subject.values()
    buffers = subject.fresh_buffers(values)
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    with mode(module, True):
        subject.call(values, buffers=buffers)
    if all(torch.equal(buffers[name], before[name]) for name in buffers):
        return
    batched = batch_positions(subject)
    try:
        whole = subject.call(values)
        part = subject.call([v[:1] if i in batched else v for i, v in enumerate(values)])
    except Exception:
        return
    for all_rows, one_row in zip(whole, part, strict=True):
        if not all_rows.dim() or all_rows.shape[1:] != one_row.shape[1:] or one_row.shape[0] != 1:
            continue
        if compare.difference(one_row, all_rows[:1]) > 1e-6:
            raise Wrong(
                "in eval an image's output depends on its neighbours in the batch: are the batch's "
                "own statistics used where the running ones should be?"
            )


def keeps_state(subject: Subject) -> str:
    """state_dict round trip (weights_only), deepcopy after a step, nothing stale or unmoved."""
    if subject.module is None:
        return "a function has no state"
    module = subject.pristine or subject.module
    _no_loose_tensors(module)
    fresh = _copied(module, "before a step")
    used = _copied(module, "before a step")
    arguments = _arguments(subject)
    with mode(used, True):
        random.seed_torch(0, "verify")
        tensors_in(used(*arguments))
    _copied(used, "after a forward")

    file = io.BytesIO()
    torch.save(used.state_dict(), file)
    file.seek(0)
    try:
        state = torch.load(file, weights_only=True)
    except Exception as error:
        raise Wrong(
            f"its state_dict does not load with weights_only=True: {checks.first_line(error)}"
        ) from error
    loaded = _copied(fresh, "before a step")
    loaded.load_state_dict(state)
    hint = "is state kept outside parameters and buffers, or in a non-persistent buffer?"
    _same(loaded, used, arguments, "after load_state_dict into a new copy", hint)

    # Both are given the same new parameters; one has run in eval before.
    unused = _copied(fresh, "before a step")
    unused.load_state_dict(state)
    with torch.no_grad():
        for part in (used, unused):
            for parameter in part.parameters():
                if parameter.is_floating_point():
                    parameter.mul_(1.25).add_(0.05)
    hint = "is a result of the old parameters kept (a stale cache)?"
    _same(used, unused, arguments, "in eval after the parameters changed", hint)
    _forgets_other_inputs(module, arguments)
    return ""


def _forgets_other_inputs(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    """A copy that has seen other inputs of the same shapes gives what a new copy gives."""
    others = pytree.tree_map_only(
        Tensor, lambda t: 0.5 * t + 0.2 if t.is_floating_point() else t.flip(0), arguments
    )
    seen = _copied(module, "before a step")
    with mode(seen, False), torch.no_grad():
        try:
            seen(*others)
        except Exception:  # outside the layer's domain
            return
    hint = "is something that depends on the inputs' values cached by their shape alone?"
    _same(seen, module, arguments, "in eval after other inputs of the same shape", hint)


def _same(a: nn.Module, b: nn.Module, arguments: tuple[Any, ...], when: str, hint: str) -> None:
    outputs = []
    for module in (a, b):
        with mode(module, False), torch.no_grad():
            random.seed_torch(0, "verify")
            outputs.append(tensors_in(module(*arguments)))
    try:
        compare.require_outputs(outputs[0], outputs[1], when, 1e-6)
    except Wrong as wrong:
        raise Wrong(f"{wrong}: {hint}") from None


def _no_loose_tensors(module: nn.Module) -> None:
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name.startswith("_") and name != "_" and isinstance(value, dict):
                continue  # nn.Module's own tables
            if isinstance(value, Tensor):
                where = f"{path}.{name}" if path else name
                raise Wrong(
                    f"`{where}` is a plain tensor: .to(), .double() and state_dict() pass it by; "
                    "use register_buffer"
                )


def _copied(module: nn.Module, when: str) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise Wrong(
            f"copy.deepcopy fails {when} ({checks.first_line(error)}): is a tensor with a graph "
            "kept on the module? EMA and sharding copy modules"
        ) from error


def _arguments(subject: Subject) -> tuple[Any, ...]:
    leaves = list(subject.leaves)
    for position, slot_position in zip(
        subject.tensor_positions, subject.input_positions, strict=True
    ):
        leaves[position] = subject.examples[slot_position].detach().clone()
    arguments: tuple[Any, ...] = pytree.tree_unflatten(leaves, subject.spec)
    return arguments


def leaves_globals_alone(subject: Subject) -> str:
    """torch's seeds, grad mode, default dtype and other process-wide settings stay as they were."""
    before = process_settings()
    try:
        subject.call(subject.values(torch.float32))
        after = process_settings()
    finally:
        restore(before)
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        raise Wrong(f"it changes torch's {', '.join(changed)} for the whole process")
    states = []
    for seed in (0, 1):
        # `call` seeds torch's alone.
        random.seed_globals(seed, "verify")
        subject.call(subject.values(torch.float32), seed=seed)
        states.append(_generators())
    for name, state in states[0].items():
        if state == states[1][name]:
            raise Wrong(
                f"it reseeds {name}'s generator: every draw after it repeats; draw with a "
                "generator of its own"
            )
    return ""


def _generators() -> dict[str, object]:
    """The states of the process-wide generators, comparable with ==."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "Python": python_random.getstate(),
        "NumPy": [np.asarray(part).tolist() for part in np.random.get_state()],
    }


def process_settings() -> dict[str, Any]:
    """What a layer could change for everybody."""
    return {
        "grad mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "number of threads": torch.get_num_threads(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }


def restore(settings: dict[str, Any]) -> None:
    """Put the settings back."""
    torch.set_grad_enabled(settings["grad mode"])
    torch.set_default_dtype(settings["default dtype"])
    torch.use_deterministic_algorithms(settings["deterministic mode"])
    if torch.get_num_threads() != settings["number of threads"]:
        torch.set_num_threads(settings["number of threads"])
    torch.autograd.set_detect_anomaly(settings["anomaly mode"])
    torch.set_autocast_enabled("cpu", settings["autocast"])
