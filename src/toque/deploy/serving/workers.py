"""Several processes that answer on one port, kept alive by one that only watches.

They take connections off one listening socket, so a process that dies loses its own requests and
no other: those that nobody has taken yet wait for the others. Each is told its settings, tells that
it is ready and what it counts, and learns from the end of that line that the watching one is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from toque import checks, cores
from toque.deploy.serving.access import Log, write_log
from toque.deploy.serving.metrics import Families
from toque.deploy.serving.process import has_terminal
from toque.deploy.serving.settings import DRAIN_S, Settings

LINE_BYTES = 1 << 20
_PAUSES_S = (0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_STEADY_S = 60.0
_SILENT_S = 60.0
_LOOKS = 4


@dataclass(eq=False)
class _Worker:
    """A process: its number among them, and what it said."""

    number: int
    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ready: bool = False
    heard: bool = True
    mistake: str = ""
    counts: Families = field(default_factory=dict)


class Workers:
    """Starts processes, starts those again that die, passes signals on, and ends with them.

    The first one is ready before the others are started: what is wrong with a model is told once.

    Args: started: called once requests are taken
          log: called with a row for each process that is ready, and for each that ended
          silent_s: after how long without a sign a process is killed, as one that hangs
    """

    def __init__(
        self,
        settings: Settings,
        listening: socket.socket,
        count: int,
        started: Callable[[], None],
        *,
        log: Log = write_log,
        silent_s: float = _SILENT_S,
    ) -> None:
        self._settings = settings
        self._listening = listening
        self._count = count
        self._tell = started
        self._log = log
        self._silent_s = silent_s
        self._alive: dict[int, _Worker] = {}
        self._starts = [0] * count
        self._had_terminal = has_terminal()

    def run(self) -> None:
        """Answer until SIGTERM, SIGINT or the end of the terminal.

        Raises: what the first process was stopped by before it was ready
        """
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._first: asyncio.Future[None] = loop.create_future()
        loop.add_signal_handler(signal.SIGTERM, self._end, signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, self._end, signal.SIGINT)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        kept = [asyncio.create_task(self._keep(0))]
        ending = asyncio.create_task(self._ending.wait())
        both: set[asyncio.Future[Any]] = {self._first, ending}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if self._first.done():
            self._first.result()
            self._tell()
            kept += [asyncio.create_task(self._keep(number)) for number in range(1, self._count)]
        await ending
        await self._drain(kept)

    async def _drain(self, kept: list[asyncio.Task[None]]) -> None:
        lingers = self._settings.linger_s
        ends = asyncio.gather(*kept)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(ends), lingers or 0.001)
        self._listening.close()  # what nobody has taken is refused, not kept waiting
        try:
            await asyncio.wait_for(asyncio.shield(ends), DRAIN_S + 10)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await ends

    def _end(self, number: signal.Signals) -> None:
        self._ending.set()
        self._signal(number)

    def _hung_up(self) -> None:
        if self._had_terminal and not has_terminal():
            self._end(signal.SIGINT)
        else:
            self._signal(signal.SIGHUP)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._alive.values():
            with contextlib.suppress(ProcessLookupError):
                worker.process.send_signal(number)

    async def _keep(self, number: int) -> None:
        """Have a process of that number, until the end."""
        failures = 0
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                worker = await self._start(number)
            except OSError as error:  # no memory, or no more processes
                process, mistake = None, ""
                why = f"cannot be started: {error.strerror or error}"
            else:
                await self._until_its_end(worker)
                process, mistake = worker.process.pid, worker.mistake
                why = _how(worker)
            if self._ending.is_set():
                return
            if not self._first.done():
                self._first.set_exception(_stopped(mistake, why))
                return
            # At once the first time, later and later where it dies of its start.
            failures = 0 if time.monotonic() - began > _STEADY_S else failures + 1
            pause_s = _PAUSES_S[min(failures, len(_PAUSES_S) - 1)] if failures > 1 else 0.0
            later = f" in {pause_s:g} s" if pause_s else ""
            self._say(number, process, f"{why}; it is started again{later}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause_s or 0.001)

    async def _start(self, number: int) -> _Worker:
        ours, theirs = socket.socketpair()
        words = [sys.executable, "-P", "-m", "toque.deploy.serving.worker",
                 str(theirs.fileno()), str(self._listening.fileno())]  # fmt: skip
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *words, stdin=asyncio.subprocess.DEVNULL, env=self._environment(),
                pass_fds=(theirs.fileno(), self._listening.fileno()),
                start_new_session=True,  # Ctrl-C and the end of the terminal come through us
            )  # fmt: skip
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES)
        worker = _Worker(number, process, reader, writer)
        self._alive[number] = worker
        self._starts[number] += 1
        _send(worker, replace(self._settings, worker=number).as_dict())
        if self._ending.is_set():  # meanwhile
            process.terminate()
        return worker

    def _environment(self) -> dict[str, str]:
        share = str(max(1, cores.usable() // self._count))
        return {
            "OMP_NUM_THREADS": share,
            **os.environ,
            # Nothing of the working directory shadows a module, and what this one found they find.
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }

    async def _until_its_end(self, worker: _Worker) -> None:
        watching = asyncio.create_task(self._watch(worker))
        try:
            with contextlib.suppress(OSError, ValueError):  # a line cut off, as by a kill
                while line := await worker.reader.readline():
                    self._hear(worker, json.loads(line))
            await worker.process.wait()
        finally:
            watching.cancel()
            worker.writer.close()
            del self._alive[worker.number]

    def _hear(self, worker: _Worker, said: dict[str, Any]) -> None:
        worker.heard = True
        worker.mistake = said.get("mistake", worker.mistake)
        worker.counts = said.get("counts", worker.counts)
        if said.get("ready"):
            worker.ready = True
            self._say(worker.number, worker.process.pid, "answers")
            if not self._first.done():
                self._first.set_result(None)
        if said.get("asks"):
            _send(worker, {"everyones": self._everyones()})

    def _everyones(self) -> dict[str, Families]:
        starts = [("", f'worker="{number}"', str(n)) for number, n in enumerate(self._starts)]
        found = {
            f'worker="{number}"': worker.counts for number, worker in sorted(self._alive.items())
        }
        return {**found, "": {"toque_worker_starts_total": ("counter", starts)}}

    async def _watch(self, worker: _Worker) -> None:
        """Kill a process that was ready and gives no sign; each look is one of several, because
        this process may itself have been held up."""
        silent = 0
        while True:
            await asyncio.sleep(self._silent_s / _LOOKS)
            silent = 0 if worker.heard or not worker.ready else silent + 1
            worker.heard = False
            if silent >= _LOOKS:
                what = f"gave no sign for {self._silent_s:g} s and is killed"
                self._say(worker.number, worker.process.pid, what)
                worker.process.kill()
                return

    def _say(self, number: int, process: int | None, what: str) -> None:
        name = f"worker {number}" + (f" (process {process})" if process else "")
        self._log({
            "time": time.time(), "event": "worker", "worker": number, "process": process,
            "message": f"{name} {what}",
        })  # fmt: skip


def _send(worker: _Worker, what: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # it has ended, which is heard of elsewhere
        worker.writer.write(json.dumps(what).encode() + b"\n")


def _how(worker: _Worker) -> str:
    code = worker.process.returncode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = ", as the system does when memory is short" if name == "SIGKILL" else ""
        return f"was ended by {name}{memory}"
    return f"ended with {code}{f' ({worker.mistake})' if worker.mistake else ''}"


def _stopped(mistake: str, why: str) -> checks.UserMistake:
    """What is wrong with the first process, which never answered."""
    if mistake:
        return checks.InvalidValue(mistake)
    return checks.invalid(
        "serve", "--workers", "processes that load the model", f"one that {why}",
        "What it printed says more; with --workers 1 it is loaded in this process.",
    )  # fmt: skip
