"""Batches from a source, decoded and augmented ahead by threads, always in the same order.

How the work is cut up, and by how many threads or processes it is done, does not show in the
pixels: they depend on the seed, the epoch and the index of each image alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator

import numpy as np
import torch

from toque import checks
from toque.data.batch import Batch, Pipeline, Reducing
from toque.data.blocks import Block, Chunk, Reads, Work
from toque.data.buffers import Buffers, Form
from toque.data.order import share
from toque.data.reading import items_of, read_by_workers, read_serially
from toque.data.sampling import Sampling, order_of
from toque.data.source import Source
from toque.data.upload import Upload
from toque.threads import threads_beside

# Drawing parameters costs 7-12 us an image for 64 images at a time and 1.4 us for 512.
_CHUNK_IMAGES = 512
_BATCHES_AHEAD = 3
_AHEAD_BYTES = 2**30
# Small images in memory are prepared by the block, so that handing it from thread to thread costs
# little for each batch.
_BLOCK_BYTES = 8 * 2**20
_SLICE_IMAGES = 16


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
    scaled_decoding: bool = True,
    sampling: Sampling | None = None,
    rank: int = 0,
    ranks: int = 1,
    upload: Upload | None = None,
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
             workers: processes that read the images, for a Dataset that is slow in Python; files
             are always decoded by threads
             scaled_decoding: decode a JPEG at 1/2, 1/4 or 1/8 where the drawn crop keeps at least
             the pixels of the result
             sampling: which images, how often; every one once an epoch if unset
             rank, ranks: give that rank's part of every batch only: `batch_size` and the counts of
             images stay those of all ranks together, and so does every pixel
             upload: brings each batch to a device while the one before is used; two of them are
             there at a time
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
    order = order_of(source, sampling or Sampling(), seed)
    start = start_images
    if ranks > 1:
        if start_images % batch_size:
            raise checks.invalid(
                "train_batches", "start_images", "a whole number of batches, for several ranks",
                start_images, f"Start at a multiple of {batch_size}.",
            )  # fmt: skip
        order, share_size = share(order, batch_size, rank, ranks)
        start, batch_size = start_images // batch_size * share_size, share_size
    stop = start + num_batches * batch_size
    reduces = scaled_decoding and source.has_files and isinstance(pipeline, Reducing)
    work = Work(source, pipeline, order, seed, batch_size, reduces, upload)
    return _Pass(work, start, stop, threads, workers).batches()


def evaluation_batches(
    source: Source,
    pipeline: Pipeline | None,
    *,
    batch_size: int,
    threads: int,
    workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
    upload: Upload | None = None,
) -> Generator[Batch]:
    """Every image once, in the order of the source; the last batch may be smaller.

    Files are decoded at their full size, as toque predict and exported models see them.
    Several ranks share whole batches, one after the other, so that what a model answers on a batch
    does not depend on how many they are; a rank may get one batch less than another, or none.

    Args:   as for train_batches; what a pipeline draws here is keyed by seed 0 and epoch 0
    Raises: ValueError: counts out of range
    """
    _check_counts("evaluation_batches", source, batch_size, threads, workers)
    work = Work(source, pipeline, _in_order, 0, batch_size, upload=upload)
    num_batches = -(-len(source) // batch_size)
    start = rank * num_batches // ranks * batch_size
    stop = min(len(source), (rank + 1) * num_batches // ranks * batch_size)
    return _Pass(work, start, stop, threads, workers).batches()


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


class _Pass:
    """One pass over images start .. stop of an order."""

    def __init__(self, work: Work, start: int, stop: int, threads: int, workers: int) -> None:
        self._work = work
        self._start, self._stop = start, stop
        self._threads = threads
        source, batch_size = work.source, work.batch_size
        self._workers = 0 if source.in_memory or source.has_files else workers
        self._given = source.serial or self._workers > 0
        batches_in_block = self._batches_in_block() if source.in_memory else 1
        self._block_images = batches_in_block * batch_size
        self._chunk_images = -(-_CHUNK_IMAGES // self._block_images) * self._block_images
        share = min(_SLICE_IMAGES, -(-batch_size // max(1, threads)))
        whole = batches_in_block > 1 or (source.in_memory and work.stages)
        self._slice_images = self._block_images if whole else share

    def _batches_in_block(self) -> int:
        image, pipeline = self._work.source.read(0), self._work.pipeline
        height, width = (pipeline and pipeline.size) or image.shape[1:]
        batch_bytes = 4 * self._work.batch_size * image.shape[0] * height * width
        return max(1, _BLOCK_BYTES // batch_bytes)

    def batches(self) -> Generator[Batch]:
        pool = threads_beside(self._threads, "toque-data") if self._threads else None
        uploads = self._threads and self._work.upload is not None
        sender = threads_beside(1, "toque-upload") if uploads else None
        reads = self._reads() if self._given else None
        buffers: Buffers | None = None
        pending: deque[Block] = deque()
        block_bytes = 0

        def ready() -> list[Batch]:
            """The next block's; the one after it goes to the device meanwhile, and no other."""
            nonlocal block_bytes
            block = pending.popleft()
            made = block.batches()
            block_bytes = block.num_bytes
            if sender is not None and pending:
                pending[0].send(sender)
            return made

        try:
            for block in self._blocks():
                block.begin(pool, reads, buffers, self._slice_images)
                pending.append(block)
                if block.failure is not None:
                    break
                if sender is not None and len(pending) == 1:
                    block.send(sender)
                while len(pending) > self._blocks_ahead(block_bytes):
                    made = ready()
                    buffers = buffers or self._buffers(made[0].images)
                    yield from made
            while pending:
                yield from ready()
        finally:
            pending.clear()
            for executor in (pool, sender):
                if executor is not None:
                    executor.shutdown(wait=True, cancel_futures=True)
            if reads is not None:
                reads.close()

    def _blocks(self) -> Iterator[Block]:
        for chunk_start in range(self._start, self._stop, self._chunk_images):
            chunk_stop = min(self._stop, chunk_start + self._chunk_images)
            chunk = Chunk(self._work, chunk_start, chunk_stop)
            for start in range(chunk_start, chunk_stop, self._block_images):
                stop = min(chunk_stop, start + self._block_images)
                yield Block(self._work, chunk, start, stop)

    def _blocks_ahead(self, block_bytes: int) -> int:
        if self._threads == 0:
            return 0
        # A block of many batches keeps its thread busy: one for each thread is enough.
        many = self._block_images > self._work.batch_size
        most = min(_BATCHES_AHEAD, self._threads) if many else _BATCHES_AHEAD
        return max(1, min(most, _AHEAD_BYTES // max(1, block_bytes)))

    def _buffers(self, images: torch.Tensor) -> Buffers | None:
        """Output memory like the first batch's, where every batch will be like it."""
        pipeline = self._work.pipeline
        if pipeline is None or pipeline.size is None or self._work.stages:
            return None
        return Buffers(Form.of(images), self._block_images, _BATCHES_AHEAD + 2)

    def _reads(self) -> Reads:
        """The images of each batch, where they are read here in order or by worker processes."""
        source, seed = self._work.source, self._work.seed
        batch_size = self._work.batch_size
        items = (
            items_of(*self._work.order(start, min(self._stop, start + batch_size)))
            for start in range(self._start, self._stop, batch_size)
        )
        if self._workers:
            yield from read_by_workers(source, seed, items, self._workers)
        else:
            for some in items:
                yield read_serially(source, seed, some)
