"""FSDP2: every rank keeps a piece of each parameter, and gathers the whole where it computes.

A parameter is cut along its longest axis that divides: along the first,
as torch does by default, one whose first axis is shorter than the number of ranks is padded on
every rank (ViT-L on 1,024 ranks: 823 MB of padding for the position embedding alone).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Shard

_UNIT_PARAMETERS = 100_000  # a smaller part is gathered together with what it lies in
_WAYS = ("fused", "foreach", "capturable", "differentiable")  # of computing the same step


def shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a network in place over the ranks of a mesh; of two axes the first keeps copies (HSDP).

    What is gathered at one time is a unit without those inside it, and last what remains.
    """
    # Imported here: it costs a second that a run on one device should not pay.
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard

    ranks = mesh.size(mesh.ndim - 1)

    def placement(parameter: nn.Parameter) -> Shard:
        return Shard(_axis(parameter.shape, ranks))

    for parameter in network.parameters():
        # FSDP2 takes no other layout; the images may stay channels_last.
        parameter.data = parameter.data.contiguous()
    for part in (*reversed(units(network)), network):
        fully_shard(part, mesh=mesh, shard_placement_fn=placement)
    return network


def units(network: nn.Module) -> list[nn.Module]:
    """Elements of a Sequential or ModuleList with at least 100,000 parameters, outer ones first."""
    return [
        child
        for parent in network.modules()
        if isinstance(parent, nn.Sequential | nn.ModuleList)
        for child in parent.children()
        if sum(p.numel() for p in child.parameters()) >= _UNIT_PARAMETERS
        and not isinstance(child, nn.Sequential | nn.ModuleList)
    ]


def _axis(shape: torch.Size, ranks: int) -> int:
    """The axis to cut: the longest of those that all ranks can share evenly; else the first."""
    even = [axis for axis, length in enumerate(shape) if length % ranks == 0]
    return max(even, key=lambda axis: shape[axis], default=0)


def piece_bytes(tensor: Tensor, ranks: int) -> int:
    """Of the largest piece where so many ranks share a tensor: what each piece takes on its way."""
    if tensor.ndim == 0:
        return tensor.nbytes
    length = tensor.shape[_axis(tensor.shape, ranks)]
    return tensor.nbytes // max(length, 1) * -(-length // ranks)


def piece(tensor: Tensor) -> Tensor:
    """This rank's piece of a sharded tensor, in the same memory; another tensor as it is."""
    if not is_piece(tensor):
        return tensor
    with torch.no_grad():
        local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
        return local


def is_sharded(network: nn.Module) -> bool:
    """Whether the parameters are pieces of what other ranks hold too."""
    return any(is_piece(parameter) for parameter in network.parameters())


def is_piece(tensor: Any) -> bool:
    """Whether a tensor is a DTensor; where their module was never imported there is none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def gathered(state: Any, *, keep: bool) -> Any:
    """A state with every sharded tensor whole, on the CPU; all ranks must call it.

    One after the other, so that no device holds more than one of them.

    Args: keep: on a rank that only takes part each is let go at once, and None stands in its place
    """
    if is_piece(state):
        with torch.no_grad():
            tensor = state.full_tensor()
            return tensor.cpu() if keep else None
    if isinstance(state, Mapping):
        return {key: gathered(value, keep=keep) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [gathered(value, keep=keep) for value in state]
    return state


def load_module(network: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a state of whole tensors, or of pieces, into a network that may be sharded.

    Raises: RuntimeError: as `load_state_dict`
    """
    network.load_state_dict(all_like(network.state_dict(), state))


def all_like(target: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """The whole tensors of a state, each cut as the one of that name in `target`."""
    return {
        name: like(target[name], value) if name in target else value
        for name, value in state.items()
    }


@torch.no_grad()
def put_all(network: nn.Module, average: Mapping[str, Tensor]) -> None:
    """Give a network the weights and buffers of the state of an EMA."""
    for kind, tensors in (
        ("parameters", network.named_parameters()),
        ("buffers", network.named_buffers()),
    ):
        for name, tensor in tensors:
            tensor.copy_(average[f"{kind}.{name}"])


def like(target: Tensor, value: Tensor) -> Tensor:
    """A whole tensor, cut as `target` is."""
    if not is_piece(target) or is_piece(value):
        return value
    if value.shape != target.shape:
        return value  # whoever loads it names the shapes
    value = value.to(target.device, target.dtype)
    from torch.distributed.tensor import distribute_tensor

    # Every rank has the whole: it takes its own piece, and nothing travels.
    piece: Any = target
    return distribute_tensor(value, piece.device_mesh, piece.placements, src_data_rank=None)


def load_optimizer(part: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state of whole tensors, or of pieces, into an optimiser, sharded or not."""
    # How a step is computed belongs to this start: fused kernels may know no pieces.
    if len(state["param_groups"]) == len(part.param_groups):
        groups = [
            {**saved, **{way: own[way] for way in _WAYS if way in own}}
            for saved, own in zip(state["param_groups"], part.param_groups, strict=True)
        ]
        state = {**state, "param_groups": groups}
    if not any(is_piece(p) for group in part.param_groups for p in group["params"]):
        part.load_state_dict(dict(state))
        return
    parameters = [p for group in part.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    by_number = dict(zip(numbers, parameters, strict=True))
    cut = {
        number: {
            name: like(by_number[number], value)
            if isinstance(value, Tensor) and value.shape == by_number[number].shape
            else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    part.load_state_dict({"state": cut, "param_groups": state["param_groups"]})
