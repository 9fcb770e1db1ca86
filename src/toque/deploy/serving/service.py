"""What happens to a request: read, decoded in threads, asked about in batches, and said."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import torch
from starlette.requests import Request

from toque.deploy.explain import why_not
from toque.deploy.outputs import Raw
from toque.deploy.predictor import Pixels, Predictor
from toque.deploy.serving.access import Log
from toque.deploy.serving.batching import Batcher, Full
from toque.deploy.serving.explaining import Explaining
from toque.deploy.serving.limits import Limits, Refused, decode, read_body
from toque.deploy.serving.many import OF_ONE, Missed, files_in
from toque.deploy.serving.metrics import Families, Metrics
from toque.deploy.serving.questions import Question
from toque.deploy.serving.reloading import Reloading
from toque.deploy.serving.replies import Reply, reply
from toque.threads import threads_beside

_FULL = "Too many requests wait; try again in a second."


class Service:
    """The model of a run folder or exported file, answering within bounds.

    Args:   device, trust, calibrate, explain, look_every_s: as of `app.create_app`
            log: called with each attempt to load a newer model
    Raises: as `toque.deploy.load`
    """

    def __init__(
        self,
        source: str | Path,
        limits: Limits,
        log: Log,
        *,
        device: str,
        trust: bool,
        calibrate: bool,
        explain: bool,
        look_every_s: float,
    ) -> None:
        self.metrics = Metrics()
        self._limits = limits
        self._log = log
        self._explain = explain
        self._model = Reloading(
            source, self._told, device=device, trust=trust, calibrate=calibrate,
            every_s=look_every_s,
        )  # fmt: skip
        self._readers = threads_beside(torch.get_num_threads(), "decode")
        self._batcher = Batcher(limits, self.metrics.batch)
        self._explaining = Explaining(limits)
        self.ending = False

    @property
    def predictor(self) -> Predictor:
        """The model that answers now."""
        return self._model.predictor

    @property
    def explains(self) -> bool:
        """Whether it shows where it looked."""
        return self._explain and why_not(self.predictor) is None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers inside, in the running event loop; once."""
        self._batcher.start()
        self._model.start()
        yield
        await self._model.stop()
        await self._batcher.stop()
        self._explaining.stop()
        self._readers.shutdown(wait=True)

    def end(self) -> None:
        """Be ready for no more; what comes all the same is answered."""
        self.ending = True

    def reload(self) -> None:
        """Load the model again, whether or not its file has changed; from the event loop."""
        self._model.look_now()

    def require_ready(self) -> None:
        """Raises Refused where a request sent now would be turned away, or soon."""
        if self.ending:
            raise Refused(503, "The server is ending.")
        if self._batcher.waiting >= self._limits.max_waiting:
            raise Refused(503, _FULL)

    def measured(self) -> Families:
        """Counts and times for Prometheus."""
        return self.metrics.families(self._batcher.waiting)

    async def answer(self, request: Request, question: Question) -> Reply:
        """What the model says of the image in the body.

        Raises: Refused: no room, no time, or a body above the limits
        """
        self._enter(1)
        try:
            body = await read_body(request, self._limits)
            start = time.perf_counter()
            async with self._in_time():
                return await self._reply(body, self.predictor, question, start)
        finally:
            self._batcher.leave()

    async def answers(self, request: Request, question: Question) -> list[Reply | Missed]:
        """What the model says of each of several images, or why it says nothing.

        As many places are taken as there may be images, before it is known how many there are.

        Raises: Refused: no room, no time, or a body that is no list of images or above the limits
        """
        places = min(self._limits.max_batch, self._limits.max_waiting)
        self._enter(places)
        try:
            body = await read_body(request, self._limits, OF_ONE * self._limits.max_bytes)
            start = time.perf_counter()
            files = await asyncio.get_running_loop().run_in_executor(
                self._readers, files_in, body, self._limits, places
            )
            self._batcher.leave(places - len(files))
            places = len(files)
            predictor = self.predictor  # one for all
            async with self._in_time():
                each = [self._each(file, predictor, question, start) for file in files]
                return list(await asyncio.gather(*each))
        finally:
            self._batcher.leave(places)

    async def _each(
        self, file: bytes | Missed, predictor: Predictor, question: Question, start: float
    ) -> Reply | Missed:
        if isinstance(file, Missed):
            return file
        try:
            return await self._reply(file, predictor, question, start)
        except Refused as error:
            return Missed(status=error.status, detail=str(error))

    async def _reply(
        self, file: bytes, predictor: Predictor, question: Question, start: float
    ) -> Reply:
        pixels = await self._pixels(file, predictor)
        raw = await self._batcher.ask(predictor, pixels)
        return await asyncio.get_running_loop().run_in_executor(
            self._readers, _said, predictor, pixels, raw, question, start
        )

    def _enter(self, places: int) -> None:
        try:
            self._batcher.enter(places)
        except Full:
            raise Refused(503, _FULL) from None

    async def explanation(self, request: Request, label: str | None) -> bytes:
        """A PNG of where the network looked in the image in the body.

        Args:   label: for which class; for the most probable one if unset
        Raises: Refused: as `answer`, a class that is not known, a model that shows nothing
        """
        predictor = self.predictor
        if not self._explain:
            raise Refused(404, "This server answers without explanations.")
        if (reason := why_not(predictor)) is not None:
            raise Refused(404, f"The model must be {reason[0]} to be explained. {reason[2]}")
        self._explaining.enter()
        try:
            body = await read_body(request, self._limits)
            async with self._in_time():
                pixels = await self._pixels(body, predictor)
                return await self._explaining.png(predictor, pixels, label)
        finally:
            self._explaining.leave()

    async def _pixels(self, body: bytes, predictor: Predictor) -> Pixels:
        return await asyncio.get_running_loop().run_in_executor(
            self._readers, decode, body, predictor.channels, self._limits, predictor.size
        )

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limits.answer_s):
                yield
        except TimeoutError:
            answer_s = self._limits.answer_s
            raise Refused(503, f"No answer within {answer_s:g} s; try again.") from None

    def _told(self, done: bool, sentence: str) -> None:
        self.metrics.reloaded("done" if done else "failed")
        self._log({"time": time.time(), "event": "reload", "done": done, "message": sentence})


def _said(
    predictor: Predictor, pixels: Pixels, raw: Raw, question: Question, start: float
) -> Reply:
    height, width = pixels.shape[:2]
    answer = predictor.outputs.answer("", predictor.labels, raw, (height, width))
    return reply(
        answer,
        question.most,
        question.least,
        lambda: round(1000 * (time.perf_counter() - start), 2),
    )
