"""What a run would need and do on many ranks: memory, bytes, images/s, by stated assumptions.

Bytes are counted, on simulated ranks; times are bytes and operations divided by rated speeds. No
figure here was measured on the machines it speaks of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from toque import checks
from toque.models import description, memory
from toque.train.distributed import simulated
from toque.train.distributed.simulated import Traffic


@dataclass(frozen=True)
class Gpu:
    """Rated speeds of a GPU, and the share of its rated operations that training is assumed to use.

    memory_bytes:     of the GPU
    flops_per_s:      dense bfloat16 products
    inside_bytes_s:   one direction, between the GPUs of a host (NVLink)
    outside_bytes_s:  one direction, of each GPU to other hosts
    """

    name: str
    memory_bytes: float
    flops_per_s: float
    inside_bytes_s: float
    outside_bytes_s: float
    used_share: float = 0.35
    gpus_on_a_host: int = 8


# From NVIDIA's data sheets (A100 80GB SXM, H100 SXM, H200 SXM); networks of 200 and 400 Gb/s a GPU.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", 80e9, 312e12, 300e9, 25e9),
        Gpu("h100", 80e9, 989e12, 450e9, 50e9),
        Gpu("h200", 141e9, 989e12, 450e9, 50e9),
    )
}


@dataclass(frozen=True)
class Plan:
    """One number of ranks.

    memory_bytes:     of a rank: weights, gradients, optimiser, activations, what is gathered
    sent_bytes:       by each rank in a step
    compute_s, communication_s: of a step; exposed_s is the part that computing does not hide
    hidden_at_images: images of a rank from which on communication is hidden entirely
    """

    ranks: int
    images_of_a_rank: int
    memory_bytes: int
    traffic: Traffic
    sent_bytes: float
    compute_s: float
    communication_s: float
    hidden_at_images: int

    @property
    def exposed_s(self) -> float:
        return max(0.0, self.communication_s - _BACKWARD_SHARE * self.compute_s)

    @property
    def images_per_s(self) -> float:
        return self.ranks * self.images_of_a_rank / (self.compute_s + self.exposed_s)

    @property
    def efficiency(self) -> float:
        """Images/s beside those of as many ranks that need not communicate."""
        return self.compute_s / (self.compute_s + self.exposed_s)


_BACKWARD_SHARE = 2 / 3  # of a step's operations; communication may run beside them


def assumptions(gpu: Gpu, strategy: str) -> list[str]:
    """The sentences under which the figures of a plan hold."""
    return [
        f"{gpu.name}: {gpu.flops_per_s / 1e12:.0f} TFLOP/s rated (bfloat16, dense), of which "
        f"{gpu.used_share:.0%} are used; a step is 3 x the operations of a forward pass",
        f"ring collectives at {gpu.inside_bytes_s / 1e9:.0f} GB/s within a host of "
        f"{gpu.gpus_on_a_host} GPUs, {gpu.outside_bytes_s / 1e9:.0f} GB/s a GPU beyond; "
        "no latency, no contention",
        "communication hides behind backward (2/3 of a step); data never waits; gradients and "
        "weights travel in float32",
        "activations in float32 without recomputation, by fake tensors; workspaces of kernels and "
        f"fragmentation are not counted ({strategy})",
    ]


def plan(
    model: Callable[[], nn.Module],
    image_shape: Sequence[int],
    ranks: Sequence[int],
    *,
    gpu: str = "h100",
    images_of_a_rank: int = 64,
    optimizer: str = "sgd",
    strategy: str = "ddp",
    say: Callable[[str], None] = lambda sentence: None,
) -> list[Plan]:
    """The plan for each number of ranks; the images of a rank stay, so the batch grows with ranks.

    Args:    model: builds it; image_shape: [C, H, W]
             optimizer: sgd or adamw; strategy: ddp or fsdp
             say: told what takes its time
    Raises:  ValueError: an unknown GPU or optimiser, ranks < 1
    Example: >>> plan(lambda: create("resnet50", num_classes=1000), [3, 224, 224], [8, 64])
    """
    if gpu not in GPUS:
        raise checks.invalid("plan", "--gpu", " or ".join(GPUS), gpu, checks.nearest(gpu, GPUS))
    if any(number < 1 for number in ranks):
        raise checks.invalid("plan", "--ranks", ">= 1", list(ranks), "As in --ranks 8,64.")
    card = GPUS[gpu]
    shape = [images_of_a_rank, *image_shape]
    with torch.device("meta"):
        network = model()
    say(f"predicting the memory of a step of {images_of_a_rank} images, on tensors without bytes")
    need = memory.predict(network, shape, optimizer=optimizer)
    flops = description.describe(network, [1, *image_shape]).root.flops
    compute_s = 3 * flops * images_of_a_rank / (card.flops_per_s * card.used_share)
    plans = []
    sharded = _Sharding(model, network, shape, say) if strategy == "fsdp" else None
    for number in ranks:
        traffic, memory_bytes = _traffic_of(network, number, need, sharded)
        sent = traffic.sent_by_a_rank(number)
        inside = number <= card.gpus_on_a_host
        communication_s = sent / (card.inside_bytes_s if inside else card.outside_bytes_s)
        hidden = communication_s / (_BACKWARD_SHARE * compute_s / images_of_a_rank)
        plans.append(
            Plan(
                number, images_of_a_rank, memory_bytes, traffic, sent, compute_s,
                communication_s, math.ceil(hidden),
            )
        )  # fmt: skip
    return plans


class _Sharding:
    """A step of FSDP2 on any number of ranks.

    Simulating makes tensors for each rank, which for 1,024 takes minutes. So few are simulated, and
    where the rule reckons what they did, to the byte, it reckons the others.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        network: nn.Module,
        shape: Sequence[int],
        say: Callable[[str], None],
    ) -> None:
        self._model, self._network, self._say = model, network, say
        self._shape = [1, *shape[1:]]
        few = self._simulated(_FEW_RANKS)
        self._follows_rule = few == simulated.reckoned_step_of_fsdp(network, _FEW_RANKS)

    def on(self, ranks: int) -> simulated.Sharded:
        if self._follows_rule:
            return simulated.reckoned_step_of_fsdp(self._network, ranks)
        return self._simulated(ranks)

    def _simulated(self, ranks: int) -> simulated.Sharded:
        self._say(f"counting the collectives of a step on {ranks} simulated ranks")
        return simulated.step_of_fsdp(self._model, self._shape, ranks)


_FEW_RANKS = 3  # which most axes do not divide by: padding is seen too


def _traffic_of(
    network: nn.Module, ranks: int, need: memory.Memory, sharded: _Sharding | None
) -> tuple[Traffic, int]:
    """What the collectives of a step carry, and the bytes of a rank."""
    if sharded is not None and ranks > 1:
        step = sharded.on(ranks)
        # Weights, gradients and the optimiser's state in pieces; while a unit computes, the whole
        # of it, of the next one, and of its gradient.
        kept = step.pieces_bytes * (
            need.weights_bytes + need.gradients_bytes + need.optimizer_bytes
        )
        memory_bytes = kept // need.weights_bytes + need.activations_bytes + 3 * step.largest_bytes
        return step.traffic, memory_bytes
    traffic = Traffic()
    memory_bytes = need.peak_bytes
    if ranks > 1:
        traffic.add("all_reduce", sum(p.nbytes for p in network.parameters() if p.requires_grad))
        # DDP gives every rank the buffers of rank 0 before each forward pass.
        if buffers := sum(buffer.nbytes for buffer in network.buffers()):
            traffic.add("broadcast", buffers)
    return traffic, memory_bytes
