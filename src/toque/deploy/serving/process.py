"""One process that answers: ending without losing a request, and a new model on SIGHUP."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from toque.deploy.serving.accepting import accept
from toque.deploy.serving.access import write_log, write_problems
from toque.deploy.serving.app import Everyones, create_app
from toque.deploy.serving.connections import HEADER_BYTES, QUEUE, protocol
from toque.deploy.serving.metrics import Families
from toque.deploy.serving.service import Service
from toque.deploy.serving.settings import DRAIN_S, Settings


class Process(uvicorn.Server):
    """uvicorn's server, which says before it ends that it will, and listens on meanwhile.

    SIGTERM: /ready says no at once; after linger_s it listens no more, and ends when all is
    answered. Ctrl-C and a second SIGTERM do not linger. SIGHUP loads the model again; where it
    means that the terminal is gone, it ends.

    Args: started: called in the event loop once requests are taken
    """

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        settings: Settings,
        started: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.worker = settings.worker
        self._service = service
        self._linger_s = settings.linger_s
        self._tell = started
        self._loop: asyncio.AbstractEventLoop | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._had_terminal = has_terminal()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        shared = self.worker is not None
        await super().startup([] if shared else sockets)
        if shared and sockets:
            self._accepting = asyncio.create_task(
                accept(sockets[0], self._protocol, lambda: len(self.server_state.connections))
            )
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            self._loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        self._tell()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        made: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        lingers = sig == signal.SIGTERM and self._linger_s > 0 and not self._service.ending
        self._service.end()
        if lingers and self._loop is not None:
            # A signal comes in the middle of anything: the loop itself must set its clock.
            self._loop.call_soon_threadsafe(self._loop.call_later, self._linger_s, self.stop)
        else:
            super().handle_exit(sig, frame)

    def stop(self) -> None:
        """Listen no more, and end when all is answered."""
        self._service.end()
        self.should_exit = True

    def counts(self) -> Families:
        """What it has counted."""
        return self._service.measured()

    def _hung_up(self) -> None:
        if self._had_terminal and not has_terminal():
            self.stop()
        else:
            self._service.reload()


def has_terminal() -> bool:
    """Whether a terminal controls this process, so that somebody closes it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def prepare(
    settings: Settings,
    started: Callable[[], None],
    everyones: Everyones | None = None,
) -> Process:
    """A process with its model loaded; its `run` answers until a signal ends it.

    Raises: as `toque.deploy.load`
    """
    write = write_problems if settings.quiet else write_log

    def log(row: dict[str, Any]) -> None:
        write(row if settings.worker is None else {**row, "worker": settings.worker})

    app = create_app(
        settings.source, device=settings.device, trust=settings.trust,
        calibrate=settings.calibrate, explain=settings.explain, limits=settings.limits,
        token=settings.token, log=log, everyones=everyones,
    )  # fmt: skip
    config = uvicorn.Config(
        app, http=protocol(settings.limits), ws="none", access_log=False, log_level="warning",
        server_header=False, h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=DRAIN_S, backlog=QUEUE,
    )  # fmt: skip
    return Process(config, app.state.service, settings, started)


def answer(process: Process, listening: socket.socket) -> None:
    """Answer on a socket until SIGTERM, SIGINT or the end of the terminal."""
    # For what comes before uvicorn listens for signals, and for those that it raises once more when
    # it has drained: they have been obeyed by then.
    obeyed = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, process.handle_exit) for number in obeyed}
    try:
        process.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
