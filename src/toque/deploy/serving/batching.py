"""Waiting requests -> batches for the model, within bounds.

One batch is in the model at a time; while it is there, others gather. A request that finds the
queue full is turned away at once, which costs nothing, instead of timing out late.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from toque.deploy.outputs import Raw
from toque.deploy.predictor import Pixels, Predictor
from toque.deploy.serving.limits import Limits

Seen = Callable[[int, float], None]
"""Told of each batch: how many images, how many seconds in the model."""


class Full(Exception):
    """As many images wait as may."""


@dataclass(eq=False)
class _Waiting:
    predictor: Predictor
    pixels: Pixels
    answer: asyncio.Future[Raw]


class Batcher:
    """Gathers images of many requests and asks the model about them together.

    Every image is answered by the predictor it was submitted for, so a model may be exchanged while
    images wait.

    Args: limits: max_batch, max_batch_pixels, max_delay_s and max_waiting are read
          seen: told of each batch
    """

    def __init__(self, limits: Limits, seen: Seen | None = None) -> None:
        self._limits = limits
        self._seen = seen
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model")
        self._places = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Places taken: images being decoded, waiting, or in the model."""
        return self._places

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End; whoever still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for one in self._queue:
            one.answer.cancel()
        self._thread.shutdown(wait=True)

    def enter(self, places: int = 1) -> None:
        """Take places, before decoding; `leave` gives them back.

        Raises: Full: of max_waiting fewer are free
        """
        if self._places + places > self._limits.max_waiting:
            raise Full
        self._places += places

    def leave(self, places: int = 1) -> None:
        """Give places back."""
        self._places -= places

    async def ask(self, predictor: Predictor, pixels: Pixels) -> Raw:
        """What the model says of one image, as its Outputs read it: float32 [K], or [K, h, w]."""
        one = _Waiting(predictor, pixels, asyncio.get_running_loop().create_future())
        self._queue.append(one)
        self._arrived.set()
        return await one.answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
                if self._limits.max_delay_s > 0 and self._places > 1:
                    # Others are on their way: being decoded, or about to be.
                    await asyncio.sleep(self._limits.max_delay_s)
            batch = self._next()
            if not batch:
                continue
            start = loop.time()
            try:
                shares = await loop.run_in_executor(
                    self._thread, batch[0].predictor.ask, [one.pixels for one in batch]
                )
            except Exception as error:  # what a model raises, its requests must hear
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            if self._seen is not None:
                self._seen(len(batch), loop.time() - start)
            for one, share in zip(batch, shares, strict=True):
                if not one.answer.done():
                    one.answer.set_result(share)

    def _next(self) -> list[_Waiting]:
        """The longest waiting images of one predictor; those nobody waits for are dropped."""
        batch: list[_Waiting] = []
        pixels = 0
        while self._queue and len(batch) < self._limits.max_batch:
            one = self._queue[0]
            if one.answer.done():
                self._queue.popleft()
                continue
            size = one.pixels.shape[0] * one.pixels.shape[1]
            if batch and (
                one.predictor is not batch[0].predictor
                or pixels + size > self._limits.max_batch_pixels
            ):
                break
            batch.append(self._queue.popleft())
            pixels += size
        return batch
