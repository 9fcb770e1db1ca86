"""The memory of a step: predicted before the first one, kept under a limit, and what to do without.

A limit is met by what costs least: first `layers.save_memory` (the same gradients, a few per cent
of time), then smaller parts of a batch, and on a GPU at last saved tensors in host memory.
Checkpointing whole blocks is not chosen: it runs BatchNorm's statistics twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from toque import checks, layers
from toque.models import memory
from toque.train.run import Run
from toque.train.steps.statistics import Statistics

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
# What is not seen: a kernel's own workspace, the allocator's rounding.
_RESERVE = 1.1


@dataclass(frozen=True)
class Plan:
    """How a step is run, and the most memory that it is predicted to hold.

    micro_batch: images at a time; None: all
    """

    micro_batch: int | None
    save_memory: bool
    offload: bool
    peak_bytes: int

    def __str__(self) -> str:
        means = [
            "the whole batch at once"
            if self.micro_batch is None
            else f"{self.micro_batch} images at a time",
            *(["activations made again in backward"] if self.save_memory else []),
            *(["saved tensors in the host's memory"] if self.offload else []),
        ]
        return f"{readable(self.peak_bytes)} predicted with {', '.join(means)}"


def bytes_of(text: str) -> int:
    """ "6GiB" -> 6442450944; also MB, MiB, GB.

    Raises: ValueError: no such size
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*([KMG]?i?B)\s*", text, re.IGNORECASE)
    if not found:
        raise checks.invalid(
            "run.toml", "memory.limit", "a size", repr(text), 'Write it as "6GiB" or "500MB".'
        )
    return round(float(found[1]) * _UNITS[found[2].upper()])


def readable(size: int) -> str:
    """1610612736 -> "1.50 GiB", 300000 -> "0.3 MiB"."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def plan(network: nn.Module, run: Run, image_shape: Sequence[int]) -> Plan:
    """What a run's step needs, or the cheapest way to keep it under `memory.limit`.

    Two steps of the network are run on fake tensors, and its forward on two real images, of
    [C, H, W]; it and its statistics are left as they were.

    Raises: ValueError: nothing keeps it under the limit
    """
    costs = _Costs.of(network, run, image_shape)
    whole = run.memory.micro_batch or run.batch_size
    if run.memory.limit is None:
        return Plan(run.memory.micro_batch, False, False, costs.peak(whole, False, False))
    limit = bytes_of(run.memory.limit)
    for images, saving, offload in _ways(whole, next(network.parameters()).device):
        peak = costs.peak(images, saving, offload)
        if peak <= limit:
            micro_batch = run.memory.micro_batch if images == whole else images
            return Plan(micro_batch, saving, offload, peak)
    least = readable(costs.peak(1, True, False))
    raise checks.invalid(
        "run.toml", "memory.limit", f"at least {least} for this model",
        run.memory.limit, "Raise it, or choose a smaller model or image_size.",
    )  # fmt: skip


def _ways(whole: int, device: torch.device) -> Iterator[tuple[int, bool, bool]]:
    """(images at a time, save_memory, offload), the cheapest first."""
    yield whole, False, False
    images = whole
    while images >= 1:
        yield images, True, False
        images = images // 2 if images > 1 else 0
    if device.type == "cuda":
        yield 1, True, True


@dataclass(frozen=True)
class _Costs:
    """Bytes that stay, bytes for each image, and the share that save_memory leaves of those."""

    stays: float
    fixed: float
    image: float
    saving: float

    @classmethod
    def of(cls, network: nn.Module, run: Run, image_shape: Sequence[int]) -> _Costs:
        optimizer = "sgd" if run.optimizer.name == "sgd" else "adamw"
        few, many = 2, max(4, run.memory.micro_batch or run.batch_size)
        low, high = (
            memory.predict(network, [count, *image_shape], optimizer=optimizer)
            for count in (few, many)
        )
        image = (high.activations_bytes - low.activations_bytes) / (many - few)
        # Beside what `predict` counts: the statistics kept aside, the average, the climb of SAM.
        weights = sum(p.numel() * p.element_size() for p in network.parameters())
        extra = 4 * sum(b.numel() * b.element_size() for b in network.buffers())
        extra += weights * (bool(run.ema.half_life_epochs) + bool(run.optimizer.sam))
        stays = low.weights_bytes + low.gradients_bytes + low.optimizer_bytes + extra
        fixed = max(0.0, low.activations_bytes - few * image)
        return cls(stays, fixed, image, _share_kept(network, image_shape))

    def peak(self, images: int, saving: bool, offload: bool) -> int:
        each = 0.0 if offload else self.image * (self.saving if saving else 1.0)
        return round(_RESERVE * (self.stays + self.fixed + images * each))


def _share_kept(network: nn.Module, image_shape: Sequence[int]) -> float:
    """What save_memory leaves of the saved bytes, measured on two images."""
    first = next(network.parameters())
    images = torch.zeros(2, *image_shape, device=first.device, dtype=first.dtype)
    statistics = Statistics(network)
    statistics.keep()
    had = layers.is_saving_memory(network)
    try:
        plain = layers.saved_bytes(layers.keep_activations(network), images)
        saving = layers.saved_bytes(layers.save_memory(network), images)
    finally:
        statistics.restore()
        if not had:
            layers.keep_activations(network)
    return min(1.0, saving / max(plain, 1))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def not_alike(network: nn.Module) -> str:
    """What differs when a batch goes through in other parts: "" if nothing but rounding."""
    kinds = {
        "BatchNorm takes its statistics over each part": nn.modules.batchnorm._BatchNorm,
        "dropout draws for each part": nn.modules.dropout._DropoutNd,
    }
    found = [
        sentence
        for sentence, kind in kinds.items()
        if any(isinstance(module, kind) for module in network.modules())
    ]
    return " and ".join(found)


def least_part(network: nn.Module) -> int:
    """The fewest images that may be a part by themselves: two where BatchNorm is training."""
    kind = nn.modules.batchnorm._BatchNorm
    return 2 if any(isinstance(m, kind) and m.training for m in network.modules()) else 1


def explained(error: ValueError, num_images: int) -> ValueError | None:
    """BatchNorm's refusal of a single value per channel as a sentence with the fix."""
    if "more than 1 value per channel" not in str(error):
        return None
    return checks.invalid(
        "fit", "the images that go through the model at a time",
        "two or more where BatchNorm has one value per image and channel", num_images,
        "Choose batch_size and memory.micro_batch so that no part has a single image, a larger "
        "image_size, or GroupNorm.",
    )  # fmt: skip
