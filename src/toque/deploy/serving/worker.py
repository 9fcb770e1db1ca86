"""One of several processes: python -m toque.deploy.serving.worker LINE LISTENING, two sockets.

LINE leads to the process that watches; see `workers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

from toque import checks
from toque.deploy.serving.metrics import Families
from toque.deploy.serving.process import Process, answer, prepare
from toque.deploy.serving.settings import Settings
from toque.deploy.serving.workers import LINE_BYTES

_SIGN_S = 1.0
_ANSWER_S = 2.0


class Line:
    """What goes between a worker and the process that watches it.

    The worker says that it is ready and, every second, what it counts: a sign of life, too.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._writer: asyncio.StreamWriter | None = None
        self._asked: list[asyncio.Future[dict[str, Families]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.process: Process | None = None

    def settings(self) -> Settings:
        """What it is to serve; before anything else."""
        line = b""
        while not line.endswith(b"\n"):
            if not (part := self._link.recv(1)):
                sys.exit(0)  # nobody watches any more
            line += part
        return Settings.of(json.loads(line))

    def mistake(self, sentence: str) -> None:
        """Say why it cannot serve."""
        self._link.sendall(json.dumps({"mistake": sentence}).encode() + b"\n")

    def started(self) -> None:
        """Say that it answers, and speak and listen from now on; in the event loop."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._speak())]

    async def everyones(self, own: Families) -> Mapping[str, Families]:
        """What all the processes count; of this one what it counts now."""
        assert self.process is not None
        label = f'worker="{self.process.worker}"'
        future: asyncio.Future[dict[str, Families]] = asyncio.get_running_loop().create_future()
        self._asked.append(future)
        found: dict[str, Families] = {}
        with contextlib.suppress(TimeoutError, OSError):
            # With its own counts, so that what another process tells of it later is never less.
            self._send({"asks": True, "counts": own})
            found = await asyncio.wait_for(future, _ANSWER_S)
        return {**found, label: own}

    async def _speak(self) -> None:
        assert self.process is not None
        reader, self._writer = await asyncio.open_connection(sock=self._link, limit=LINE_BYTES)
        self._send({"ready": True, "counts": self.process.counts()})
        self._tasks.append(asyncio.create_task(self._sign()))
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                found = json.loads(line)["everyones"]
                asked, self._asked = self._asked, []
                for future in asked:
                    if not future.done():
                        future.set_result(found)
        self.process.stop()  # nobody watches any more

    async def _sign(self) -> None:
        while True:
            await asyncio.sleep(_SIGN_S)
            assert self.process is not None
            self._send({"counts": self.process.counts()})

    def _send(self, what: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps(what).encode() + b"\n")


def main() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is a model to load again
    line = Line(socket.socket(fileno=int(sys.argv[1])))
    listening = socket.socket(fileno=int(sys.argv[2]))
    settings = line.settings()
    try:
        line.process = prepare(settings, line.started, line.everyones)
    except checks.UserMistake as mistake:
        line.mistake(str(mistake))
        sys.exit(2)
    answer(line.process, listening)


if __name__ == "__main__":
    main()
