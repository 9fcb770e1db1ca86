"""Batches from a source, decoded and augmented ahead by threads, always in the same order.

A part of the stream of images is cut into chunks (whose parameters are drawn in one go), a chunk
into blocks (one piece of output memory, of one batch or of several small ones), and a block into
slices, each the job of one thread. Nothing of this shows in the pixels: they depend on the seed,
the epoch and the index of each image alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch

from toque import checks
from toque.data.batch import Batch, Pipeline
from toque.data.buffers import Buffers, Form
from toque.data.order import stream
from toque.data.reading import Images, items_of, read_by_workers, read_serially
from toque.data.source import Source
from toque.random import Key

# Drawing parameters costs 7-12 us an image for 64 images at a time and 1.4 us for 512.
_CHUNK_IMAGES = 512
_BATCHES_AHEAD = 3
_AHEAD_BYTES = 2**30
# Small images in memory are prepared by the block, so that handing it from thread to thread costs
# little for each batch.
_BLOCK_BYTES = 16 * 2**20
_SLICE_IMAGES = 16
_DECODED_BYTES = 32 * 2**20  # decoded images that one thread holds before they are augmented


def train_batches(
    source: Source,
    pipeline: Pipeline | None,
    *,
    seed: int,
    batch_size: int,
    start_images: int,
    stop_images: int,
    threads: int,
    workers: int = 0,
) -> Generator[Batch]:
    """Training batches start_images .. stop_images of the endless stream.

    Every batch is full; a batch may hold the end of one epoch and the start of the next, and the
    last batch goes past stop_images where that is no whole number of batches away. Closing the
    iterator ends the threads and processes. At most three batches are prepared ahead.

    Args:    source: the images
             pipeline: what to do with them; None stacks them as they are
             seed: of the order and of the draws
             batch_size: images in a batch
             start_images, stop_images: the part of the stream, in images seen
             threads: that decode and augment; 0 does all in the caller's thread
             workers: processes that read the images, for a Dataset that is slow in Python
    Raises:  ValueError: counts out of range
    Example: >>> batches = train_batches(splits.train, pipeline, seed=0, batch_size=64,
             ...                         start_images=0, stop_images=10_000, threads=2)
             >>> next(batches).images.shape
             torch.Size([64, 1, 28, 28])
    """
    _check_counts("train_batches", source, batch_size, threads, workers)
    if not 0 <= start_images <= stop_images:
        raise checks.invalid(
            "train_batches", "start_images, stop_images", "0 <= start_images <= stop_images",
            (start_images, stop_images), "Count images seen from 0.",
        )  # fmt: skip
    num_batches = -(-(stop_images - start_images) // batch_size)
    order = partial(stream, seed, len(source))
    stop = start_images + num_batches * batch_size
    plan = _Plan(source, pipeline, order, seed, start_images, stop, batch_size, threads, workers)
    return plan.batches()


def evaluation_batches(
    source: Source,
    pipeline: Pipeline | None,
    *,
    batch_size: int,
    threads: int,
    workers: int = 0,
) -> Generator[Batch]:
    """Every image once, in the order of the source; the last batch may be smaller.

    Args:   as for train_batches; what a pipeline draws here is keyed by seed 0 and epoch 0
    Raises: ValueError: counts out of range
    """
    _check_counts("evaluation_batches", source, batch_size, threads, workers)
    plan = _Plan(source, pipeline, _in_order, 0, 0, len(source), batch_size, threads, workers)
    return plan.batches()


def _check_counts(where: str, source: Source, batch_size: int, threads: int, workers: int) -> None:
    if len(source) == 0:
        raise checks.invalid(where, "source", "at least one image", "none", "Add images.")
    for argument, value, least in (
        ("batch_size", batch_size, 1),
        ("threads", threads, 0),
        ("workers", workers, 0),
    ):
        if value < least:
            raise checks.invalid(where, argument, f">= {least}", value, "Raise it.")


def _in_order(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    indices = np.arange(start, stop, dtype=np.int64)
    return indices, np.zeros_like(indices)


class _Chunk:
    """A part of the stream; its order and draws are made once, by whoever needs them first."""

    def __init__(self, plan: _Plan, start: int, stop: int) -> None:
        self._plan = plan
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
        indices, epochs = self._plan.order(self._start, self._stop)
        pipeline = self._plan.pipeline
        if pipeline is None:
            return indices, epochs, None
        return indices, epochs, pipeline.draw(Key(self._plan.seed, epochs, indices))


class _Block:
    """One or several batches that share one piece of output memory."""

    def __init__(self, plan: _Plan, chunk: _Chunk, start: int, stop: int) -> None:
        self._plan = plan
        self._chunk = chunk
        self._start = start
        self._stop = stop
        self._given: tuple[Images, torch.Tensor] | None = None
        self._out: torch.Tensor | None = None
        self._jobs: list[Future[torch.Tensor]] = []
        self.failure: Exception | None = None

    def begin(
        self, pool: ThreadPoolExecutor | None, reads: Reads | None, buffers: Buffers | None
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
        slice_images = num_images
        if buffers is not None:
            self._out = buffers.take(num_images)
            slice_images = self._plan.slice_images
        if pool is not None:
            self._jobs = [
                pool.submit(self._prepare, first, min(first + slice_images, num_images))
                for first in range(0, num_images, slice_images)
            ]

    def batches(self) -> list[Batch]:
        """The batches, as soon as they are ready."""
        if self.failure is not None:
            raise self.failure
        num_images, batch_size = self._stop - self._start, self._plan.batch_size
        if self._jobs:
            parts = [job.result() for job in self._jobs]
        else:
            parts = [self._prepare(0, num_images)]
        images = parts[0] if self._out is None else self._out
        indices, epochs, _ = self._chunk.part(self._start, self._stop)
        targets = self._given[1] if self._given else self._plan.targets[torch.from_numpy(indices)]
        if num_images <= batch_size:
            return [Batch(images, targets, indices, epochs)]
        cuts = range(batch_size, num_images, batch_size)
        return [
            Batch(*parts)
            for parts in zip(
                torch.split(images, batch_size),
                torch.split(targets, batch_size),
                np.split(indices, cuts),
                np.split(epochs, cuts),
                strict=True,
            )
        ]

    def _prepare(self, first: int, last: int) -> torch.Tensor:
        """Read and augment images first .. last of the block, in any thread."""
        indices, _, parameters = self._chunk.part(self._start + first, self._start + last)
        pipeline, done, ready = self._plan.pipeline, 0, []
        for images in self._read(indices, first, last):
            if pipeline is None:
                ready.append(_stacked(images))
                continue
            now = slice(done, done + len(images))
            out = None if self._out is None else self._out[first + done : first + now.stop]
            ready.append(pipeline.apply(images, parameters[now], out=out))
            done = now.stop
        return ready[0] if len(ready) == 1 or self._out is not None else torch.cat(ready)

    def _read(self, indices: np.ndarray, first: int, last: int) -> Iterator[Images]:
        """The images, in parts of bounded size."""
        if self._given is not None:
            yield self._given[0][first:last]
            return
        source = self._plan.source
        if source.in_memory:
            yield source.read_many(indices)
            return
        images: list[torch.Tensor] = []
        num_bytes = 0
        for index in indices.tolist():
            images.append(source.read(index))
            num_bytes += images[-1].numel()
            if num_bytes > _DECODED_BYTES:
                yield images
                images, num_bytes = [], 0
        if images:
            yield images


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


Reads = Iterator[tuple[Images, torch.Tensor] | Exception]


class _Plan:
    """How one pass over a part of the stream is cut up and carried out."""

    def __init__(
        self,
        source: Source,
        pipeline: Pipeline | None,
        order: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
        seed: int,
        start: int,
        stop: int,
        batch_size: int,
        threads: int,
        workers: int,
    ) -> None:
        self.source = source
        self.pipeline = pipeline
        self.order = order
        self.seed = seed
        self.batch_size = batch_size
        self._start, self._stop = start, stop
        self._threads = threads
        self._workers = 0 if source.in_memory else workers
        self._given = source.serial or self._workers > 0
        if not self._given:
            self.targets = torch.from_numpy(source.labels)
        batches_in_block = self._batches_in_block() if source.in_memory else 1
        self._block_images = batches_in_block * batch_size
        self._chunk_images = -(-_CHUNK_IMAGES // self._block_images) * self._block_images
        share = -(-batch_size // max(1, threads))
        self.slice_images = (
            self._block_images if batches_in_block > 1 else min(_SLICE_IMAGES, share)
        )

    def _batches_in_block(self) -> int:
        image = self.source.read(0)
        height, width = (self.pipeline and self.pipeline.size) or image.shape[1:]
        batch_bytes = 4 * self.batch_size * image.shape[0] * height * width
        return max(1, _BLOCK_BYTES // batch_bytes)

    def batches(self) -> Generator[Batch]:
        pool = ThreadPoolExecutor(self._threads, "toque-data") if self._threads else None
        reads = self._reads() if self._given else None
        buffers: Buffers | None = None
        pending: deque[_Block] = deque()
        try:
            for block in self._blocks():
                block.begin(pool, reads, buffers)
                pending.append(block)
                if block.failure is not None:
                    break
                while len(pending) > self._blocks_ahead(buffers):
                    ready = pending.popleft().batches()
                    buffers = buffers or self._buffers(ready[0].images)
                    yield from ready
            while pending:
                yield from pending.popleft().batches()
        finally:
            pending.clear()
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
            if reads is not None:
                reads.close()

    def _blocks(self) -> Iterator[_Block]:
        for chunk_start in range(self._start, self._stop, self._chunk_images):
            chunk_stop = min(self._stop, chunk_start + self._chunk_images)
            chunk = _Chunk(self, chunk_start, chunk_stop)
            for start in range(chunk_start, chunk_stop, self._block_images):
                yield _Block(self, chunk, start, min(chunk_stop, start + self._block_images))

    def _blocks_ahead(self, buffers: Buffers | None) -> int:
        if self._threads == 0:
            return 0
        if buffers is None:
            return _BATCHES_AHEAD
        block_bytes = self._block_images * buffers.form.image_bytes
        return max(1, min(_BATCHES_AHEAD, _AHEAD_BYTES // block_bytes))

    def _buffers(self, images: torch.Tensor) -> Buffers | None:
        """Output memory like the first batch's, where every batch will be like it."""
        if self.pipeline is None or self.pipeline.size is None:
            return None
        return Buffers(Form.of(images), self._block_images, _BATCHES_AHEAD + 2)

    def _reads(self) -> Generator[tuple[Images, torch.Tensor] | Exception]:
        items = (
            items_of(*self.order(start, min(self._stop, start + self.batch_size)))
            for start in range(self._start, self._stop, self.batch_size)
        )
        if self._workers:
            yield from read_by_workers(self.source, self.seed, items, self._workers)
            return
        for some in items:
            yield read_serially(self.source, self.seed, some)
