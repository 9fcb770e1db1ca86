"""serve: a model behind an address, in one process or several."""

from __future__ import annotations

import socket
from pathlib import Path

from toque import checks
from toque.deploy.missing import needed
from toque.deploy.serving.connections import listen
from toque.deploy.serving.limits import Limits
from toque.deploy.serving.settings import Settings


def serve(
    source: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    device: str = "cpu",
    trust: bool = False,
    calibrate: bool = False,
    explain: bool = True,
    token: str | None = None,
    limits: Limits | None = None,
    quiet: bool = False,
    linger_s: float = 0.0,
) -> None:
    """Answer requests over HTTP until SIGTERM or Ctrl-C; what was accepted is answered first.

    Args:    source: a run folder or exported file; a newer one in its place is loaded by itself,
             and SIGHUP loads it at once
             host: 127.0.0.1 is this machine alone; 0.0.0.0 is every network it is in
             port: 0 takes a free one
             workers: processes that answer on the one port, each with a model of its own and its
             share of the cores; one that dies is started again
             trust: as for `toque.deploy.load`
             calibrate: whether its confidence is that of the run's temperature
             explain: whether to show where the network looked, on demand
             token: what clients must send, if given
             quiet: whether to log only what went wrong here: answers from 500 up, reloads, and
             processes that end
             linger_s: how long to take requests after SIGTERM, while /ready says no: a balancer
             needs some seconds to send nothing more
    Raises:  ValueError: the port is in use, no such address, fewer than one process
             ImportError: the packages of toque[serve] are not installed
             and what `toque.deploy.load` raises
    """
    needed("serve", "uvicorn", "serve")
    needed("serve", "fastapi", "serve")
    if workers < 1:
        raise checks.invalid("serve", "--workers", "1 or more", workers, "Leave it out for one.")
    settings = Settings(
        str(source), device, trust, calibrate, explain, token, quiet, linger_s, limits or Limits()
    )
    listening = listen(host, port)
    with listening:

        def started() -> None:
            _announce(listening, token, workers)

        if workers > 1:
            from toque.deploy.serving.workers import Workers

            Workers(settings, listening, workers, started).run()
        else:
            from toque.deploy.serving.process import answer, prepare

            answer(prepare(settings, started), listening)


def _announce(listening: socket.socket, token: str | None, workers: int) -> None:
    address, taken = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    header = "-H 'Authorization: Bearer TOKEN' " if token else ""
    several = f", {workers} processes" if workers > 1 else ""
    print(
        f"serving  http://{shown}:{taken}   (Ctrl-C ends it{several})\n"
        f"ask it   curl {header}--data-binary @photo.jpg http://{shown}:{taken}/predict",
        flush=True,
    )
