"""The pieces that a pass over the images is cut into, and what is done with each.

A part of the stream is cut into chunks, whose order and parameters are computed in one go; a chunk
into blocks, one piece of output memory each, for one batch or for several small ones; and a block
into slices, each the job of one thread.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from toque import checks
from toque.data.batch import Batch, Pipeline, Reducing, applied
from toque.data.buffers import Buffers
from toque.data.reading import Images, Targets
from toque.data.scratch import Scratch
from toque.data.source import Source
from toque.data.upload import Arriving, Sizes, Staged, Upload
from toque.random import Key

Item = TypeVar("Item")
DECODED_BYTES = 32 * 2**20  # decoded images that one thread holds before they are augmented

_scratch = Scratch()

Reads = Generator[tuple[Images, Targets] | Exception]


@dataclass(frozen=True, eq=False)
class Work:
    """What to do with which images: order(start, stop) gives the indices and epochs of a part.

    reduces: whether files are decoded no larger than the draws of the pipeline ask for
    upload:  brings batches to their device; None leaves them where they are made
    """

    source: Source
    pipeline: Pipeline | None
    order: Callable[[int, int], tuple[np.ndarray, np.ndarray]]
    seed: int
    batch_size: int
    reduces: bool = False
    upload: Upload | None = None

    @property
    def stages(self) -> bool:
        """Whether images are only read here, and augmented on the device."""
        return self.upload is not None and self.upload.augments and self.pipeline is not None

    @functools.cached_property
    def targets(self) -> torch.Tensor:
        """What belongs to every image of the source: int64 [N] or float32 [N, K]."""
        return torch.from_numpy(self.source.labels)

    @functools.cached_property
    def masked(self) -> bool:
        """Whether it is a mask instead."""
        return self.source.task == "segmentation"


class Chunk:
    """A part of the stream; its order and draws are made once, by whoever needs them first."""

    def __init__(self, work: Work, start: int, stop: int) -> None:
        self._work = work
        self._start = start
        self._stop = stop
        self._lock = threading.Lock()
        self._content: tuple[np.ndarray, np.ndarray, Any] | None = None

    def part(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, Any]:
        """Indices, epochs and parameters of images start .. stop of the stream."""
        with self._lock:
            if self._content is None:
                self._content = self._compute()
        indices, epochs, parameters = self._content
        within = slice(start - self._start, stop - self._start)
        if parameters is not None:
            parameters = parameters[within]
        return indices[within], epochs[within], parameters

    def _compute(self) -> tuple[np.ndarray, np.ndarray, Any]:
        indices, epochs = self._work.order(self._start, self._stop)
        pipeline = self._work.pipeline
        if pipeline is None:
            return indices, epochs, None
        return indices, epochs, pipeline.draw(Key(self._work.seed, epochs, indices))


class _Ready(NamedTuple):
    """Some prepared images, with their masks where the targets are masks.

    staged: what was read, where the device augments; `images` are none then
    """

    images: torch.Tensor
    masks: torch.Tensor | None = None
    staged: Sequence[Staged] = ()


class Block:
    """One or several batches that share one piece of output memory."""

    def __init__(self, work: Work, chunk: Chunk, start: int, stop: int) -> None:
        self._work = work
        self._chunk = chunk
        self._start = start
        self._stop = stop
        self._given: tuple[Images, Targets] | None = None
        self._out: torch.Tensor | None = None
        self._jobs: list[Future[_Ready]] = []
        self._arriving: Future[Arriving] | None = None
        self.num_bytes = 0
        self.failure: Exception | None = None

    def begin(
        self,
        pool: ThreadPoolExecutor | None,
        reads: Reads | None,
        buffers: Buffers | None,
        slice_images: int,
    ) -> None:
        """Start to prepare; what goes wrong here is raised in its place, by `batches`."""
        num_images = self._stop - self._start
        if reads is not None:
            try:
                given = next(reads)
            except Exception as error:
                self.failure = error
                return
            if isinstance(given, Exception):
                self.failure = given
                return
            self._given = given
        if buffers is not None:
            self._out = buffers.take(num_images)
        elif not self._work.stages:
            slice_images = num_images
        if pool is not None:
            self._jobs = [
                pool.submit(self._prepare, first, min(first + slice_images, num_images))
                for first in range(0, num_images, slice_images)
            ]

    def send(self, sender: Executor) -> None:
        """Bring it to the device as soon as it is ready, in the sender's thread."""
        if self._work.upload is not None and self.failure is None and self._jobs:
            self._arriving = sender.submit(self._upload, self._work.upload)

    def batches(self) -> list[Batch]:
        """The batches, as soon as they are ready; on the device, where there is one to go to."""
        if self.failure is not None:
            raise self.failure
        num_images, batch_size = self._stop - self._start, self._work.batch_size
        indices, epochs, _ = self._chunk.part(self._start, self._stop)
        if self._work.upload is not None:
            images, targets = self._uploaded(self._work.upload).arrived()
        else:
            images, targets, _ = self._prepared(indices)
        if num_images <= batch_size:
            return [Batch(images, targets, indices, epochs)]
        cuts = [slice(start, start + batch_size) for start in range(0, num_images, batch_size)]
        each = zip(
            torch.split(images, batch_size), torch.split(targets, batch_size), cuts, strict=True
        )
        return [Batch(image, target, indices[cut], epochs[cut]) for image, target, cut in each]

    def _prepared(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, list[Staged]]:
        """Images, targets, and in the images' place what was staged of them."""
        if self._jobs:
            parts = [job.result() for job in self._jobs]
        else:
            parts = [self._prepare(0, self._stop - self._start)]
        images = parts[0].images if self._out is None else self._out
        staged = [one for part in parts for one in part.staged]
        self.num_bytes = images.nbytes + sum(one.values.nbytes for one in staged)
        return images, self._targets(parts, indices), staged

    def _uploaded(self, upload: Upload) -> Arriving:
        if self._arriving is not None:
            with contextlib.suppress(torch.OutOfMemoryError):
                return self._arriving.result()
            # The step before had filled the device, and has given most of it back by now.
        return self._upload(upload)

    def _upload(self, upload: Upload) -> Arriving:
        indices, _, parameters = self._chunk.part(self._start, self._stop)
        images, targets, staged = self._prepared(indices)
        if not staged:
            return upload.send(images, targets)
        assert self._work.pipeline is not None
        return upload.augment(staged, self._work.pipeline, parameters, targets)

    def _targets(self, parts: Sequence[_Ready], indices: np.ndarray) -> torch.Tensor:
        masks = [part.masks for part in parts if part.masks is not None]
        if masks:
            return masks[0] if len(masks) == 1 else torch.cat(masks)
        if self._given:
            assert isinstance(self._given[1], torch.Tensor)
            return self._given[1]
        return self._work.targets[torch.from_numpy(indices)]

    def _prepare(self, first: int, last: int) -> _Ready:
        """Read and augment images first .. last of the block, in any thread."""
        indices, _, parameters = self._chunk.part(self._start + first, self._start + last)
        pipeline, done, ready = self._work.pipeline, 0, []
        staged: list[Staged] = []
        for images, sizes in self._read(indices, parameters, first, last):
            if self._work.stages:
                assert self._work.upload is not None
                staged.append(self._work.upload.stage(images, sizes))
                continue
            if pipeline is None:
                ready.append(_stacked(images))
                continue
            now = slice(done, done + len(images))
            out = None if self._out is None else self._out[first + done : first + now.stop]
            ready.append(applied(pipeline, images, parameters[now], sizes, out))
            done = now.stop
        if staged:
            together = torch.empty(0)
        else:
            together = ready[0] if len(ready) == 1 or self._out is not None else torch.cat(ready)
        masks = self._masks(indices, first, last)
        if masks is None:
            return _Ready(together, staged=staged)
        if pipeline is None:
            return _Ready(together, _stacked(masks))
        return _Ready(together, pipeline.apply_to_masks(masks, parameters), staged)

    def _masks(self, indices: np.ndarray, first: int, last: int) -> Targets | None:
        if self._given is not None:
            targets = self._given[1]
            return None if isinstance(targets, torch.Tensor) else targets[first:last]
        return self._work.source.masks(indices) if self._work.masked else None

    def _read(
        self, indices: np.ndarray, parameters: Any, first: int, last: int
    ) -> Iterator[tuple[Images, Sizes | None]]:
        """The images, in parts of bounded size; where files were reduced, with their own sizes."""
        if self._given is not None:
            yield self._given[0][first:last], None
            return
        source, pipeline = self._work.source, self._work.pipeline
        if source.in_memory:
            yield source.read_many(indices), None
        elif self._work.reduces and isinstance(pipeline, Reducing):
            yield from _read_reduced(source, pipeline, indices, parameters)
        else:
            for images in _parts(map(source.read, indices.tolist()), torch.Tensor.numel):
                yield images, None


def _read_reduced(
    source: Source, pipeline: Reducing, indices: np.ndarray, parameters: Any
) -> Iterator[tuple[Images, Sizes | None]]:
    """Each file decoded no larger than its draw needs.

    The pixels lie in memory that is used again: each part is augmented before the next is read.
    """
    start = 0
    _scratch.reset()
    for files in _parts(map(source.encoded, indices.tolist()), lambda file: file.num_bytes):
        now, sizes = parameters[start : start + len(files)], [file.size for file in files]
        scales = pipeline.decoding_scale(now, sizes).tolist()
        boxes = pipeline.decoding_box(now, sizes).tolist()
        start += len(files)
        decoded = (
            (file.decode(scale, _scratch, box), file.size)
            for file, scale, box in zip(files, scales, boxes, strict=True)
        )
        for part in _parts(decoded, lambda pair: pair[0].numel()):
            reduced = any(image.shape[1:] != size for image, size in part)
            yield [image for image, _ in part], [size for _, size in part] if reduced else None
            _scratch.reset()


def _parts(items: Iterable[Item], num_bytes: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Lists of items that each end where they come to hold more than DECODED_BYTES."""
    held: list[Item] = []
    total = 0
    for item in items:
        held.append(item)
        total += num_bytes(item)
        if total > DECODED_BYTES:
            yield held
            held, total = [], 0
    if held:
        yield held


def _stacked(images: Images) -> torch.Tensor:
    if isinstance(images, torch.Tensor):
        return images
    for image in images:
        if image.shape != images[0].shape:
            raise checks.invalid(
                "batch", "images without a pipeline", "of one size",
                f"{list(images[0].shape)} and {list(image.shape)}",
                "Give a pipeline that resizes, or resize in the Dataset.",
            )  # fmt: skip
    return torch.stack(list(images))
