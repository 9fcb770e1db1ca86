"""Reading the images of a batch: in this process, or by worker processes.

Both give the same pixels, also where a user's Dataset draws from the global generators.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from toque import checks, random
from toque.data.source import Source, Target
from toque.data.targets import stacked

Images = torch.Tensor | Sequence[torch.Tensor]
Targets = torch.Tensor | Sequence[torch.Tensor]
"""Class numbers [B] or rows [B, K]; or masks [H, W], which may differ in size."""


@dataclass(frozen=True)
class Item:
    """Which image to read, and in which epoch."""

    epoch: int
    index: int


def read_keyed(source: Source, seed: int, item: Item) -> tuple[torch.Tensor, Target]:
    """One image and its target; global generators are first reseeded for it if it may use them."""
    if source.serial:
        random.seed_globals(seed, "item", item.epoch, item.index)
    return source.item(item.index)


def read_serially(source: Source, seed: int, items: Sequence[Item]) -> tuple[Images, Targets]:
    """The images and targets of a batch, read in this thread; generators stay as they were."""
    with random.kept_globals():
        pairs = [read_keyed(source, seed, item) for item in items]
    images, targets = zip(*pairs, strict=True)
    return images, stacked(targets)


def items_of(indices: np.ndarray, epochs: np.ndarray) -> list[Item]:
    """The items of a part of the stream."""
    pairs = zip(epochs.tolist(), indices.tolist(), strict=True)
    return [Item(epoch, index) for epoch, index in pairs]


class _KeyedItems(torch.utils.data.Dataset["_Read"]):
    """The source as worker processes see it."""

    def __init__(self, source: Source, seed: int) -> None:
        self._source = source
        self._seed = seed

    def __getitem__(self, item: Item) -> _Read:
        try:
            return read_keyed(self._source, self._seed, item)
        except Exception as error:  # given in its place, and raised again in the training process
            return _portable(error)


def _portable(error: Exception) -> Exception:
    """The error, or what can be told of it where it cannot travel between processes."""
    text = "".join(traceback.format_exception(error))
    try:
        travelled = pickle.loads(pickle.dumps(error))
    except Exception:  # an exception's own __init__ or content may forbid it in any way
        travelled = RuntimeError(f"{type(error).__name__}: {error}")
    assert isinstance(travelled, Exception)
    if not isinstance(travelled, checks.UserMistake):
        travelled.add_note(f"In a worker process:\n{text}")
    return travelled


_Read = tuple[torch.Tensor, Target] | Exception


@dataclass(frozen=True)
class _Packed:
    """Tensors of one dtype in one, so that one piece of shared memory carries them."""

    values: torch.Tensor
    shapes: list[tuple[int, ...]]
    channels_last: bool

    @staticmethod
    def of(tensors: Sequence[torch.Tensor]) -> _Packed:
        channels_last = all(
            one.ndim == 3 and one.permute(1, 2, 0).is_contiguous() for one in tensors
        )
        if channels_last:
            tensors = [one.permute(1, 2, 0) for one in tensors]
        values = torch.cat([one.reshape(-1) for one in tensors])
        return _Packed(values, [tuple(one.shape) for one in tensors], channels_last)

    def unpack(self) -> list[torch.Tensor]:
        flat = torch.split(self.values, [int(np.prod(shape)) for shape in self.shapes])
        tensors = [one.view(shape) for one, shape in zip(flat, self.shapes, strict=True)]
        return [one.permute(2, 0, 1) for one in tensors] if self.channels_last else tensors


_PackedBatch = tuple[_Packed, torch.Tensor | _Packed]


def _pack(read: Sequence[_Read]) -> _PackedBatch | Exception:
    pairs = []
    for one in read:
        if isinstance(one, Exception):
            return one
        pairs.append(one)
    images, targets = zip(*pairs, strict=True)
    together = stacked(targets)
    packed = together if isinstance(together, torch.Tensor) else _Packed.of(together)
    return _Packed.of(images), packed


def read_by_workers(
    source: Source, seed: int, batches: Iterator[list[Item]], workers: int
) -> Iterator[tuple[Images, Targets] | Exception]:
    """The images and targets of each batch, read by worker processes and given in order.

    An exception is given in its place instead of raised, and nothing after it. The processes end
    when the iterator is closed or dropped.
    """
    loader = torch.utils.data.DataLoader(
        _KeyedItems(source, seed),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_pack,
        # Its seed for the workers is drawn from this, not from the generator of the training.
        generator=torch.Generator(),
    )
    for packed in loader:
        if isinstance(packed, Exception):
            yield packed
            return
        images, targets = packed
        yield images.unpack(), targets.unpack() if isinstance(targets, _Packed) else targets
