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
from toque.data.source import Source

Images = torch.Tensor | Sequence[torch.Tensor]


@dataclass(frozen=True)
class Item:
    """Which image to read, and in which epoch."""

    epoch: int
    index: int


def read_keyed(source: Source, seed: int, item: Item) -> tuple[torch.Tensor, int]:
    """One image and its label; global generators are first reseeded for it if it may use them."""
    if source.serial:
        random.seed_globals(seed, "item", item.epoch, item.index)
    return source.item(item.index)


def read_serially(source: Source, seed: int, items: Sequence[Item]) -> tuple[Images, torch.Tensor]:
    """The images and targets of a batch, read in this thread; generators stay as they were."""
    with random.kept_globals():
        pairs = [read_keyed(source, seed, item) for item in items]
    images, targets = zip(*pairs, strict=True)
    return images, torch.tensor(targets, dtype=torch.int64)


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


_Read = tuple[torch.Tensor, int] | Exception


@dataclass(frozen=True)
class _Packed:
    """The images of a batch in one tensor, so that one piece of shared memory carries them."""

    pixels: torch.Tensor
    shapes: list[tuple[int, ...]]
    channels_last: bool
    targets: torch.Tensor

    def unpack(self) -> tuple[Images, torch.Tensor]:
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        flat = torch.split(self.pixels, sizes)
        images = [one.view(shape) for one, shape in zip(flat, self.shapes, strict=True)]
        if self.channels_last:
            images = [image.permute(2, 0, 1) for image in images]
        return images, self.targets


def _pack(read: Sequence[_Read]) -> _Packed | Exception:
    for one in read:
        if isinstance(one, Exception):
            return one
    pairs = [one for one in read if not isinstance(one, Exception)]
    images = [image for image, _ in pairs]
    channels_last = all(image.permute(1, 2, 0).is_contiguous() for image in images)
    if channels_last:
        images = [image.permute(1, 2, 0) for image in images]
    return _Packed(
        torch.cat([image.reshape(-1) for image in images]),
        [tuple(image.shape) for image in images],
        channels_last,
        torch.tensor([target for _, target in pairs], dtype=torch.int64),
    )


def read_by_workers(
    source: Source, seed: int, batches: Iterator[list[Item]], workers: int
) -> Iterator[tuple[Images, torch.Tensor] | Exception]:
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
        yield packed.unpack()
