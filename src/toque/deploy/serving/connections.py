"""Sockets and connections: the one that listens, and bounds on slow and on many clients."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

from toque import checks
from toque.deploy.serving.limits import Limits

HEADER_BYTES = 16 * 1024
QUEUE = 2048  # connections that the system keeps while nobody takes them
# Longer than a proxy keeps its side (60 s in most): one that sends while we hang up gets no answer.
_KEEP_ALIVE_S = 75
_KEEP_ALIVE_CROWDED_S = 1
_LEAST_BYTES_S = 1024  # of an answer, that a client must take


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, taken before the model is loaded: a mistake is told at once.

    Raises: ValueError: the port is in use, no such address
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(QUEUE)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise checks.invalid(
                "serve", "--port", "free", f"{port}, which another program listens on",
                "Choose another, or --port 0 for any.",
            ) from None  # fmt: skip
        raise checks.invalid(
            "serve", "--host and --port", "an address of this machine", f"{host}:{port} ({error})",
            "Use --host 127.0.0.1 --port 8000.",
        ) from None  # fmt: skip
    return listening


def protocol(limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn's HTTP/1.1 with bounds on clients.

    The headers of each request must come within body_s, an answer must be taken at 1 KiB/s, and
    idle connections are kept for long only while they are few. The state of each request holds
    `crowded`, which says whether more connections are open than are answered.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    most = 8 * limits.max_waiting

    class Timed(H11Protocol):
        _slow: asyncio.TimerHandle | None = None
        _untaken: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.app_state = {**self.app_state, "crowded": lambda: len(self.connections) > most}
            self._slow = self.loop.call_later(limits.body_s, self.transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # A request that was understood has a cycle: the server's own bounds hold until it is
            # answered. What comes after that are the next one's headers, or a body nobody reads.
            cycle = getattr(self, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                self._in_time()
            elif self._slow is None:
                self._slow = self.loop.call_later(limits.body_s, self.transport.close)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._taken()

        def on_response_complete(self) -> None:
            # Who waits for nothing makes room before new connections must be refused.
            crowded = len(self.connections) > most // 2
            self.timeout_keep_alive = _KEEP_ALIVE_CROWDED_S if crowded else _KEEP_ALIVE_S
            self._watch()
            super().on_response_complete()

        def connection_lost(self, error: Exception | None) -> None:
            self._in_time()
            self._taken()
            super().connection_lost(error)

        def _in_time(self) -> None:
            if self._slow is not None:
                self._slow.cancel()
                self._slow = None

        def _watch(self) -> None:
            """Look, in a while, whether what was written has been taken."""
            self._taken()
            if left := self.transport.get_write_buffer_size():
                self._untaken = self.loop.call_later(limits.body_s, self._look, left)

        def _look(self, before: int) -> None:
            self._untaken = None
            left = self.transport.get_write_buffer_size()
            if before - left < min(before, _LEAST_BYTES_S * limits.body_s):
                self.transport.abort()  # close would wait for the client
            else:
                self._watch()

        def _taken(self) -> None:
            if self._untaken is not None:
                self._untaken.cancel()
                self._untaken = None

    return Timed
