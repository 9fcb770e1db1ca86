"""The memory of a training step, predicted without running it.

Two whole steps (forward, loss, backward, optimiser) run on fake CPU tensors, which have shapes and
lifetimes but no bytes; the sizes of all storages alive are added up as they come and go. What a
kernel allocates for itself and frees before it returns (a cuDNN or oneDNN workspace) is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toque import checks
from toque.layers.tensors import tensors_in
from toque.models import shapes

OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step: what stays, and the peak with everything that comes and goes."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    peak_bytes: int

    @property
    def activations_bytes(self) -> int:
        """What the peak holds beside weights, gradients and the optimiser's state."""
        stays = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return max(self.peak_bytes - stays, 0)

    def __str__(self) -> str:
        parts = {
            "weights": self.weights_bytes,
            "gradients": self.gradients_bytes,
            "optimizer": self.optimizer_bytes,
            "activations": self.activations_bytes,
        }
        shown = ", ".join(f"{name} {size / 1e6:,.1f}" for name, size in parts.items())
        return f"peak {self.peak_bytes / 1e6:,.1f} MB ({shown})"


def predict(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    optimizer: str = "sgd",
    foreach: bool = False,
    loss: Callable[[Any], torch.Tensor] | None = None,
) -> Memory:
    """The bytes of a training step of the model, which may be larger than this machine's memory.

    Args:    model: any module, on any device (torch.device("meta") costs nothing)
             input_shape: [B, C, H, W]
             optimizer: "sgd" with momentum, or "adamw"
             foreach: update all parameters at once, as PyTorch does on CUDA by default; the CPU
             updates them one by one
             loss: output -> scalar; the mean of the squares of all outputs if None
    Raises:  ValueError: an unknown optimiser; shapes that do not fit
    Example: >>> print(predict(create("resnet50", num_classes=1000), [256, 3, 224, 224]))
    """
    if optimizer not in OPTIMIZERS:
        raise checks.invalid(
            "predict", "optimizer", "sgd or adamw", repr(optimizer),
            checks.nearest(optimizer, OPTIMIZERS),
        )  # fmt: skip
    shapes.check(model, input_shape)
    live = Live()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        state = shapes.meta_state(model, "cpu")
    learn = list({id(t): t for t in state.values() if t.requires_grad}.values())
    live.add(*state.values())
    weights = live.bytes
    with fake, live:
        made = _optimizer(optimizer, learn, foreach)
        images = shapes.empty_images(state, input_shape, "cpu")
        for _ in range(2):  # the optimiser's state exists from the second step on
            answer = functional_call(model, state, (images,))
            value = squares(answer) if loss is None else loss(answer)
            del answer
            torch.autograd.backward(value)
            del value
            gradients = sum(_size(p.grad) for p in learn if p.grad is not None)
            made.step()
            made.zero_grad(set_to_none=True)
    states = sum(_size(leaf) for leaf in tree_leaves(dict(made.state)) if torch.is_tensor(leaf))
    return Memory(weights, gradients, states, live.peak)


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are alive, and remembers the most.

    Example: >>> with FakeTensorMode(), Live() as live:
             ...     step()
             >>> live.peak
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.peak = 0
        self._known: set[int] = set()

    def add(self, *tensors: torch.Tensor) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if (address := storage._cdata) not in self._known:
                self._known.add(address)
                size = storage.nbytes()
                self.bytes += size
                self.peak = max(self.peak, self.bytes)
                weakref.finalize(storage, self._gone, address, size)

    def _gone(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.bytes -= size

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        self.add(*tensors_in(answer))
        return answer


def _optimizer(name: str, learn: list[torch.Tensor], foreach: bool) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(learn, lr=0.1, momentum=0.9, foreach=foreach)
    return torch.optim.AdamW(learn, lr=1e-3, foreach=foreach)


def squares(answer: Any) -> torch.Tensor:
    """The mean of the squares of all outputs, summed: a scalar loss for any model."""
    return torch.stack([output.square().mean() for output in tensors_in(answer)]).sum()


def _size(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().nbytes()
