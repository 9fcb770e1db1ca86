"""The memory of a step: predicted before the first one, kept under a limit, and what to do without.

What a limit can be met by, with the time of a step as measured (benchmarks/RESULTS.md, "memory"):

everything is kept                        x1
save_memory: cheap tensors made again     x1.05    the same gradients
smaller parts of a batch                  x1.0 .. 1.1 while a part has 16 images, then more
checkpointing: whole blocks made again    x1.3     the same gradients
saved tensors in the host's memory, GPU   x2 and more

The cheapest that fits is taken, so they are tried in that order. Where BatchNorm is training,
smaller parts are other statistics, and so another result: what keeps the parts large comes first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from toque import checks, layers
from toque.layers import checkpointing
from toque.train.distributed import sharding
from toque.train.run import Run
from toque.train.steps import cutting
from toque.train.steps.predicting import Keeping, Prediction

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
# What is not seen: what a kernel takes for itself, the allocator's rounding.
_RESERVE = 1.1
_FULL_PART = 16  # images that still keep a device busy
# Only said, and the order of the ways: see decision 706 for the rows it is the middle of.
_TIME = {"recompute": 1.05, "checkpoint": 1.3}


@dataclass(frozen=True)
class Plan:
    """How a step is run, and the most memory that it is predicted to hold.

    micro_batch:   images at a time; None: all
    keeping:       for backward: "all", "recompute" (save_memory) or "checkpoint" (whole blocks)
    offload:       saved tensors lie in the host's memory
    blocks:        names of the blocks that are computed again
    peak_bytes:    so; free_bytes: with everything kept and the whole batch at once
    """

    micro_batch: int | None
    keeping: Keeping
    offload: bool
    blocks: tuple[str, ...]
    peak_bytes: int
    free_bytes: int

    def prepare(self, network: nn.Module, *, compiled: bool) -> None:
        """Let the network keep for backward what was planned."""
        if self.keeping == "recompute":
            layers.save_memory(network, compiled=compiled)
        if self.keeping == "checkpoint":
            checkpointing.checkpoint_blocks(network, self.blocks)

    def __str__(self) -> str:
        means = [
            "the whole batch at once"
            if self.micro_batch is None
            else f"{self.micro_batch} images at a time",
            *(["activations made again in backward"] if self.keeping == "recompute" else []),
            *(
                [f"{len(self.blocks)} blocks computed again in backward"]
                if self.keeping == "checkpoint"
                else []
            ),
            *(["saved tensors in the host's memory"] if self.offload else []),
        ]
        said = f"{readable(self.peak_bytes)} predicted with {', '.join(means)}"
        if self.peak_bytes == self.free_bytes:
            return said
        slower = f", in about {_TIME[self.keeping]} times the time" if self.keeping != "all" else ""
        return f"{said}{slower}; {readable(self.free_bytes)} without"


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


def plan(prediction: Prediction, run: Run, network: nn.Module, num_images: int) -> Plan:
    """The cheapest way to keep a rank's step of `num_images` images under `memory.limit`.

    Raises: ValueError: nothing does, or the network cannot be looked at without numbers
    """
    assert run.memory.limit is not None
    if sharding.is_sharded(network):
        raise checks.invalid(
            "run.toml", "memory.limit", f"unset with {run.distributed.strategy}", run.memory.limit,
            "Set memory.micro_batch instead; toque plan predicts what a rank holds.",
        )  # fmt: skip
    limit = bytes_of(run.memory.limit)
    given = min(run.memory.micro_batch or num_images, num_images)
    try:
        free = _reserved(prediction.peak(given, "all"))
        least = free
        for images, keeping, offload in _ways(network, run, given, prediction):
            peak = _reserved(prediction.peak(images, keeping, offload))
            least = min(least, peak)
            if peak <= limit:
                micro_batch = run.memory.micro_batch if images == given else images
                blocks = prediction.blocks() if keeping == "checkpoint" else ()
                return Plan(micro_batch, keeping, offload, blocks, peak, free)
    except RuntimeError as error:
        raise checks.invalid(
            "run.toml", "memory.limit", "unset for a model whose memory cannot be predicted",
            f"{run.memory.limit} ({str(error).splitlines()[0]})",
            "Set memory.micro_batch instead: parts are halved when memory runs out.",
        ) from error  # fmt: skip
    raise checks.invalid(
        "run.toml", "memory.limit", f"at least {readable(least)} for this model",
        run.memory.limit, "Raise it, or choose a smaller model or image_size.",
    )  # fmt: skip


def _reserved(peak: int) -> int:
    return round(_RESERVE * peak)


def _ways(
    network: nn.Module, run: Run, given: int, prediction: Prediction
) -> Iterator[tuple[int, Keeping, bool]]:
    """(images at a time, what is kept, offload), the cheapest first."""
    # Shards that ranks divide among themselves are not cut again; a compiler recomputes by itself.
    least = cutting.least_part(network)
    sizes = [given] if run.distributed.virtual_shards else _sizes(given, least)
    blocks = () if run.compile else prediction.blocks()
    yield given, "all", False
    if least > 1:
        for images in sizes:
            yield images, "recompute", False
            if blocks:
                yield images, "checkpoint", False
    else:
        large = [images for images in sizes if images == given or images >= _FULL_PART]
        for images in large:
            yield images, "recompute", False
        for images in sizes if blocks else ():
            yield images, "checkpoint", False
        for images in sizes[len(large) :]:
            yield images, "recompute", False
    if next(network.parameters()).device.type == "cuda":
        for images in sizes:
            yield images, "recompute", True


def _sizes(given: int, least: int) -> list[int]:
    """The parts of a batch, from all images to the fewest that may be alone."""
    sizes: list[int] = []
    images = given
    while images >= 1 and (images >= least or not sizes):
        sizes.append(images)
        images //= 2
    return sizes


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
