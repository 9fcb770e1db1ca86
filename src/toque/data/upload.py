"""The way of a batch to a GPU: staged in page-locked memory, copied while the last one is used.

Two ways, and what a training step sees is on its device in both:

augmented here   the pixels of the batch go over as floats, when the threads have made them
augmented there  the bytes of the sources go over, a fourth or less, and the one pass is the GPU's

A copy out of ordinary memory would make the host wait for all that the GPU still has to do. A
stream of its own, and page-locked memory, let the copy, the pass and the step before overlap.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from toque.data.batch import Pipeline, applied
from toque.data.reading import Images

Sizes = list[tuple[int, int]]  # (height, width) of each image

_SOURCE_BYTES = 2**28


@dataclass(frozen=True, eq=False, slots=True)
class Staged:
    """Images as they were read, in one piece of memory that a GPU can fetch.

    values: [n, C, H, W], or all values of images of different sizes one after the other, [N]
    shapes: of each of the latter, [C, H, W], and whether its channels lie last; None for the former
    sizes:  what each measured before a decoder made it smaller; None where none did
    """

    values: torch.Tensor
    shapes: list[tuple[torch.Size, bool]] | None
    sizes: Sizes | None

    def on(self, device: torch.device) -> Images:
        """The images there, in one copy that nothing waits for."""
        values = self.values.to(device, non_blocking=True)
        if self.shapes is None:
            return values
        images, start = [], 0
        for (channels, height, width), last in self.shapes:
            part = values[start : start + channels * height * width]
            start += len(part)
            if last:
                images.append(part.view(height, width, channels).permute(2, 0, 1))
            else:
                images.append(part.view(channels, height, width))
        return images


@dataclass(frozen=True, eq=False, slots=True)
class Arriving:
    """What was queued for a device: images and targets there, and the event after them."""

    images: torch.Tensor
    targets: torch.Tensor
    event: torch.cuda.Event | None

    def arrived(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for the stream of the caller, whose next work comes after the copy."""
        if self.event is not None:
            stream = torch.cuda.current_stream(self.images.device)
            stream.wait_event(self.event)
            # Their memory is the copying stream's, which would use it again too soon.
            self.images.record_stream(stream)
            self.targets.record_stream(stream)
        return self.images, self.targets


class Upload:
    """Brings batches to a device; called from one thread at a time.

    Args: device: where to; on a CPU nothing is copied, and the pass is made at the same place
          augments: whether the pipeline runs there, on the bytes as they were read
    """

    def __init__(self, device: torch.device, augments: bool) -> None:
        self.device = device
        self.augments = augments
        self._locks_pages = device.type == "cuda"
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def stage(self, images: Images, sizes: Sizes | None) -> Staged:
        """A copy of images uint8 or float, whose memory may be written over then; in any thread."""
        if isinstance(images, torch.Tensor):
            return Staged(self._locked(images), None, sizes)
        rows = [_as_it_lies(image) for image in images]
        values = torch.empty(
            sum(row.numel() for row, _ in rows), dtype=images[0].dtype, pin_memory=self._locks_pages
        )
        start = 0
        for row, _ in rows:
            _copy(row, values[start : start + len(row)])
            start += len(row)
        shapes = [(image.shape, last) for image, (_, last) in zip(images, rows, strict=True)]
        return Staged(values, shapes, sizes)

    def augment(
        self, staged: Sequence[Staged], pipeline: Pipeline, parameters: Any, targets: torch.Tensor
    ) -> Arriving:
        """Copy the sources and queue the pipeline's pass, over all of them if it can."""
        made, done = [], 0
        with self._queued():
            for group in _groups(staged):
                images = _together([part.on(self.device) for part in group])
                now = parameters[done : done + len(images)]
                made.append(applied(pipeline, images, now, _sizes(group)))
                done += len(images)
            return self._sent(made[0] if len(made) == 1 else torch.cat(made), targets)

    def send(self, images: torch.Tensor, targets: torch.Tensor) -> Arriving:
        """Copy a batch that is made."""
        with self._queued():
            return self._sent(self._moved(images), targets)

    def _sent(self, images: torch.Tensor, targets: torch.Tensor) -> Arriving:
        targets = self._moved(targets)
        event = None if self._stream is None else self._stream.record_event()
        return Arriving(images, targets, event)

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._locked(tensor).to(self.device, non_blocking=True)

    def _locked(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self._locks_pages:
            return tensor
        locked = torch.empty_like(tensor, pin_memory=True)
        _copy(tensor, locked)
        return locked

    @contextlib.contextmanager
    def _queued(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            yield


def _as_it_lies(image: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """The values of an image in the order of memory, flat; and whether its channels lie last."""
    last = image.permute(1, 2, 0)
    if last.is_contiguous() and not image.is_contiguous():
        return last.reshape(-1), True
    return image.reshape(-1), False


def _copy(source: torch.Tensor, target: torch.Tensor) -> None:
    """One thread's copy: torch would wake all its own threads, for each of those that call this."""
    if source.is_contiguous() and target.is_contiguous():
        np.copyto(target.view(torch.uint8).numpy(), source.view(torch.uint8).numpy())
    else:
        target.copy_(source)


def _groups(staged: Sequence[Staged]) -> Iterator[list[Staged]]:
    """Parts that are on the device at a time: as many as fit in `_SOURCE_BYTES`, at least one."""
    group: list[Staged] = []
    for part in staged:
        if group and sum(one.values.nbytes for one in (*group, part)) > _SOURCE_BYTES:
            yield group
            group = []
        group.append(part)
    yield group


def _together(parts: Sequence[Images]) -> Images:
    """One tensor where all images have one size, else one list."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, torch.Tensor) for part in parts):
        tensors = [part for part in parts if isinstance(part, torch.Tensor)]
        if len({part.shape[1:] for part in tensors}) == 1:
            return torch.cat(tensors)
    return [image for part in parts for image in part]


def _sizes(staged: Sequence[Staged]) -> Sizes | None:
    """What the images measured before some of them were made smaller; None where none was."""
    if all(part.sizes is None for part in staged):
        return None
    sizes: Sizes = []
    for part in staged:
        if part.sizes is not None:
            sizes += part.sizes
        elif part.shapes is not None:
            sizes += [(shape[1], shape[2]) for shape, _ in part.shapes]
        else:
            count, _, height, width = part.values.shape
            sizes += [(height, width)] * count
    return sizes
