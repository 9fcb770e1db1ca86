"""The network that is written into a file: its branches fused, its weights narrowed.

Shape letters: B images, C channels, H W height and width.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from toque import models


def fused(network: nn.Module, images: torch.Tensor) -> tuple[nn.Module, str]:
    """The network with BatchNorm and parallel branches folded, and a sentence on what that did.

    A network that cannot be folded exactly is returned as it is.

    Shape: images [B, C, H, W], prepared as the network expects
    """
    before = _num_layers(network)
    try:
        done = models.fuse(network, images)
    except ValueError as error:
        return network, f"nothing ({error})"
    after = _num_layers(done.model)
    if after == before:
        return network, "nothing to fold"
    return done.model, f"{before} layers to {after}, scores within {done.difference:.1e}"


def halved(network: nn.Module) -> nn.Module:
    """A copy whose matrices and kernels are stored as float16; it computes in float32 as before.

    Biases and scales stay float32: they are few, and rounding them costs most.
    """
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if is_narrowed(parameter):
                parametrize.register_parametrization(module, name, _Widened())
                # Afterwards, since registering insists on one dtype before and behind.
                narrow = nn.Parameter(parameter.detach().half(), requires_grad=False)
                module.parametrizations[name].original = narrow  # type: ignore[index, union-attr]
    return network.eval()


def is_narrowed(tensor: torch.Tensor) -> bool:
    """Whether half precision narrows this tensor of a network."""
    return tensor.ndim >= 2 and tensor.dtype == torch.float32


class _Widened(nn.Module):
    def forward(self, narrow: torch.Tensor) -> torch.Tensor:
        return narrow.float()


def _num_layers(network: nn.Module) -> int:
    return sum(
        not any(module.children()) and not isinstance(module, nn.Identity)
        for module in network.modules()
    )
