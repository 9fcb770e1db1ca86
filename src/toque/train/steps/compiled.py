"""torch.compile with static shapes: one graph to train with and one to evaluate with.

The network is compiled in place (`nn.Module.compile`), so names in its state never get a prefix.
A batch of another size would compile anew for a minute and may leave the rest slower: training
batches are all full, and the last batch of an evaluation is filled up, its filling cut off again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BACKEND = "inductor"


def compile_in_place(network: nn.Module) -> None:
    """Compile the network's calls; static shapes, so that each new shape compiles anew."""
    if not type(network).forward.__module__.startswith("torch."):
        network.compile(backend=BACKEND, dynamic=False)
        return

    # The compiler of torch 2.11 passes over calls of torch's own modules (nn.Sequential), in
    # silence: it needs a function from elsewhere to begin in.
    def call(*args: Any, **kwargs: Any) -> Any:
        return network._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]

    network._compiled_call_impl = torch.compile(call, backend=BACKEND, dynamic=False)


def is_compiled(network: nn.Module) -> bool:
    return getattr(network, "_compiled_call_impl", None) is not None


def filled(images: Tensor, num_images: int) -> Tensor:
    """[B, ...] -> [num_images, ...]: copies of the last image fill up; whoever asks cuts them off.

    Example: >>> model(filled(images, 64))[: len(images)]
    """
    missing = num_images - len(images)
    if missing <= 0:
        return images
    # With the strides that were compiled for: torch.cat would choose its own.
    full = images.new_empty_strided((num_images, *images.shape[1:]), images.stride())
    full[: len(images)] = images
    full[len(images) :] = images[-1:]
    return full
