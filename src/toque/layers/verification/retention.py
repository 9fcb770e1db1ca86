"""What it keeps in memory: leaks after backward, and bytes that hooks cannot see."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from toque.layers.tensors import storage_of, tensors_in
from toque.layers.verification import compare
from toque.layers.verification.subject import Subject, Wrong, cotangents_for


def _one_step(subject: Subject, values: list[Tensor]) -> None:
    """Forward and backward by the module's own parameters, as in training."""
    outputs = [output for output in subject.call_directly(values) if output.requires_grad]
    leaves = [values[i] for i in subject.input_positions if values[i].requires_grad]
    if subject.module is not None:
        leaves += [p for p in subject.module.parameters() if p.requires_grad]
    if outputs and leaves:
        torch.autograd.grad(outputs, leaves, cotangents_for(outputs), allow_unused=True)


@dataclass
class _Made:
    storage: StorageWeakRef
    num_bytes: int
    what: str

    def is_gone(self) -> bool:
        return bool(self.storage.expired())  # type: ignore[no-untyped-call]


@dataclass
class _Recorder:
    """Every storage that operations make while it is on, held weakly."""

    made: dict[int, _Made] = field(default_factory=dict)

    def add(self, tensor: Tensor, what: str) -> None:
        storage = tensor.untyped_storage()
        if storage.nbytes() and int(storage._cdata) not in self.made:
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            self.made[int(storage._cdata)] = _Made(
                StorageWeakRef(storage),  # type: ignore[no-untyped-call]
                storage.nbytes(),
                f"{shape} from {what}",
            )

    def alive(self) -> dict[int, _Made]:
        return {key: made for key, made in self.made.items() if not made.is_gone()}


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tensors_in(found):
            self.recorder.add(tensor, func.overloadpacket.__name__)
        return found


def frees_everything(subject: Subject) -> str:
    """After backward nothing of the step is alive, also without the garbage collector."""
    for _ in range(2):  # what it computes once and keeps (a table of positions) is no leak
        subject.run(subject.values(torch.float32))
    # A first run under a dispatch mode may keep things of torch's own, so only a second one counts.
    return _frees(subject) and _frees(subject, final=True)


def _frees(subject: Subject, *, final: bool = False) -> str:
    recorder = _Recorder()
    enabled = gc.isenabled()
    gc.disable()
    try:
        values = subject.values(torch.float32)
        for position in subject.input_positions:
            recorder.add(values[position], f"`{subject.slots[position].name}`")
        with _Recording(recorder):
            _one_step(subject, values)
        del values
        left = _unowned(recorder, subject)
        if not left:
            return ""
        if not final:
            return "again"
        gc.collect()
        stuck = _unowned(recorder, subject)
    finally:
        if enabled:
            gc.enable()
    size = sum(made.num_bytes for made in left.values())
    what = next(iter(left.values())).what
    if not stuck:
        raise Wrong(
            f"{size:,} bytes ({what}) stay alive after backward until the garbage collector runs: "
            "is the output, or ctx itself, kept on ctx (a reference cycle)? Use save_for_backward"
        )
    where = _holder(subject.module, set(stuck))
    raise Wrong(
        f"{size:,} bytes ({what}) stay alive after backward{where}: is an activation kept on the "
        "module, the class or a global?"
    )


def hidden_memory(subject: Subject) -> str:
    """Every byte kept for backward is visible to saved-tensor hooks (offloading, checkpointing)."""
    subject.run(subject.values(torch.float32))
    values = subject.values(torch.float32)
    recorder = _Recorder()
    seen: set[int] = set()
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        seen.add(storage_of(tensor))
        held.append(tensor.detach())
        return tensor

    with _Recording(recorder), saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = subject.call_directly(values)
    if not any(output.requires_grad for output in outputs):
        return ""
    shown = seen | {storage_of(t) for t in [*outputs, *values]}
    held.clear()
    hidden = {key: made for key, made in _unowned(recorder, subject).items() if key not in shown}
    if hidden:
        size = sum(made.num_bytes for made in hidden.values())
        raise Wrong(
            f"{size:,} bytes ({next(iter(hidden.values())).what}) are kept for backward where "
            "saved-tensor hooks cannot see them: kept on ctx and not by save_for_backward?"
        )
    _round_trip(subject)
    return ""


def _round_trip(subject: Subject) -> None:
    """Saved tensors may come back as copies, as they do when they are offloaded."""
    expected = subject.run(subject.values())
    with saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor.clone()):
        found = subject.run(subject.values())
    compare.require_equal(found, expected, "with saved tensors that come back as copies (offload)")


def _unowned(recorder: _Recorder, subject: Subject) -> dict[int, _Made]:
    """What is alive and is no parameter or buffer of the module."""
    alive = recorder.alive()
    if subject.module is not None:
        for tensor in [*subject.module.parameters(), *subject.module.buffers()]:
            alive.pop(storage_of(tensor), None)
    return alive


def _holder(module: nn.Module | None, storages: set[int]) -> str:
    if module is None:
        return ""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            inside: Iterable[Any] = pytree.tree_leaves(value)
            if any(isinstance(v, Tensor) and storage_of(v) in storages for v in inside):
                return f" in `{path + '.' if path else ''}{name}`"
    return ""
