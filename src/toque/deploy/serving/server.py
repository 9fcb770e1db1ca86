"""Listening, and ending without losing a request."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from pathlib import Path
from typing import Any

from toque import checks
from toque.deploy.missing import needed
from toque.deploy.serving.limits import Limits

_DRAIN_S = 30
_HEADER_BYTES = 16 * 1024
# Longer than a proxy keeps its side (60 s in most): one that sends while we hang up gets no answer.
_KEEP_ALIVE_S = 75
_KEEP_ALIVE_CROWDED_S = 1


def serve(
    source: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "cpu",
    trust: bool = False,
    calibrate: bool = False,
    explain: bool = True,
    token: str | None = None,
    limits: Limits | None = None,
    quiet: bool = False,
) -> None:
    """Answer requests over HTTP until SIGTERM or Ctrl-C; what was accepted is answered first.

    Args:    source: a run folder or exported file; a newer one in its place is loaded by itself
             host: 127.0.0.1 is this machine alone; 0.0.0.0 is every network it is in
             port: 0 takes a free one
             trust: as for `toque.deploy.load`
             calibrate: whether its confidence is that of the run's temperature
             explain: whether to show where the network looked, on demand
             token: what clients must send, if given
             quiet: whether to log only what went wrong here: answers from 500 up, and reloads
    Raises:  ValueError: the port is in use, no such address
             ImportError: the packages of toque[serve] are not installed
             and what `toque.deploy.load` raises
    """
    uvicorn: Any = needed("serve", "uvicorn", "serve")
    needed("serve", "fastapi", "serve")
    from toque.deploy.serving.access import write_log, write_problems
    from toque.deploy.serving.app import create_app

    listening = _listen(host, port)
    with listening:
        bounds = limits or Limits()
        app = create_app(
            source, device=device, trust=trust, calibrate=calibrate, explain=explain,
            limits=bounds, token=token, log=write_problems if quiet else write_log,
        )  # fmt: skip
        config = uvicorn.Config(
            app,
            http=_protocol(bounds),
            ws="none",
            access_log=False,
            log_level="warning",
            server_header=False,
            limit_concurrency=_most_connections(bounds),
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_graceful_shutdown=_DRAIN_S,
        )
        address, taken = listening.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        header = "-H 'Authorization: Bearer TOKEN' " if token else ""
        print(
            f"serving  http://{shown}:{taken}   (Ctrl-C ends it)\n"
            f"ask it   curl {header}--data-binary @photo.jpg http://{shown}:{taken}/predict",
            flush=True,
        )
        # uvicorn raises the signal again once it has drained; it has been obeyed by then.
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            signal.signal(signal.SIGTERM, before)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, taken before the model is loaded: a mistake is told at once."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
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


def _most_connections(limits: Limits) -> int:
    return 8 * limits.max_waiting


def _protocol(limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn's HTTP/1.1 with a bound on the time that the headers of each request may take, and
    on how long idle connections are kept.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Timed(H11Protocol):
        _slow: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
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

        def on_response_complete(self) -> None:
            # Who waits for nothing makes room before new connections must be refused.
            crowded = len(self.connections) > _most_connections(limits) // 2
            self.timeout_keep_alive = _KEEP_ALIVE_CROWDED_S if crowded else _KEEP_ALIVE_S
            super().on_response_complete()

        def connection_lost(self, error: Exception | None) -> None:
            self._in_time()
            super().connection_lost(error)

        def _in_time(self) -> None:
            if self._slow is not None:
                self._slow.cancel()
                self._slow = None

    return Timed
