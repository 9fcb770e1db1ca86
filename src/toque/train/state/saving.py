"""When the state is saved, by whom, and what happens when it cannot be."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from toque import checks
from toque.threads import threads_beside
from toque.train.settings.course import CheckpointSettings
from toque.train.state import checkpoint
from toque.train.state.snapshot import Camera, Snapshot

_RETRY_S = 60.0
# Where the training keeps every core busy, the writer gets 5 % of one of them (niceness 10: 10 %,
# as much slower was each step) and takes that much longer; where the training waits for it, all.
_WRITER_NICENESS = 13
_TELLING_SHARE = 0.1  # of the machine's memory: a copy larger than this is worth a word


class Medium(Protocol):
    """How a state gets onto the disk; `take` and `write` may be called by two threads in turns."""

    def take(self, state: Mapping[str, Any]) -> Snapshot:
        """Copy what this process will write; the training waits for it."""
        raise NotImplementedError

    def write(self, snapshot: Snapshot, images_seen: int, score: float | None) -> None:
        """Put it on the disk, if it is not there; it may take its time.

        Raises: OSError: no space, no permission; what was there before is untouched
        """
        raise NotImplementedError

    def give_up(self) -> None:
        """The run ends by an error: a `write` that waits for something comes to its end soon."""
        raise NotImplementedError


class OneFile:
    """The whole state in one file, written by this process alone.

    Args: folder: of the checkpoints
    """

    def __init__(self, folder: Path, settings: CheckpointSettings) -> None:
        self._folder, self._keep = folder, settings.keep
        self._kept = Camera() if settings.background else None

    def take(self, state: Mapping[str, Any]) -> Snapshot:
        return (self._kept or Camera()).take(state)

    def write(self, snapshot: Snapshot, images_seen: int, score: float | None) -> None:
        if checkpoint.is_there(self._folder, images_seen, score):
            return
        checkpoint.write(self._folder, snapshot, images_seen=images_seen, score=score)
        checkpoint.prune(self._folder, self._keep)

    def give_up(self) -> None:
        pass


class Saver:
    """Saves a run's state at the end of every epoch and every so many seconds.

    In the training thread the state is only copied, so that the step may go on changing it; another
    thread writes, hashes, syncs and renames the copy (`checkpoint.background = false` does it all
    in the training thread, and keeps no copy). One save is under way at a time: the next one waits
    for it, and the clock asks for none meanwhile.

    A save that fails (no space, no permission) loses nothing: the training goes on with the older
    checkpoints untouched, says so at its next step, and tries again a minute later with the state
    it then has. `settle` waits and tells; whatever needs the disk up to date calls it.

    All of it is called by the training thread.

    Args: folder: of the checkpoints
          say: where a failure is told
          medium: how a state gets onto the disk; None: in one file, by this process
    """

    def __init__(
        self,
        folder: Path,
        settings: CheckpointSettings,
        say: Callable[[str], None],
        medium: Medium | None = None,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._say = say
        self._next_s = time.monotonic() + settings.every_s
        self._medium = medium or OneFile(folder, settings)
        self._writer = (
            threads_beside(1, "toque-checkpoint", begin=_step_back) if settings.background else None
        )
        self._under_way: tuple[int, Future[OSError | None]] | None = None
        self._failure: OSError | None = None
        self._told_memory = False

    def due(self) -> bool:
        """Whether it is time to save, by the clock."""
        if self._under_way is not None:
            if not self._under_way[1].done():
                return False
            self._collect()
        return time.monotonic() >= self._next_s

    def save(
        self,
        state: Mapping[str, Any],
        images_seen: int,
        score: float | None,
        *,
        waiting: bool = False,
    ) -> None:
        """Save this state, unless it is on the disk already.

        Args: waiting: nothing goes on before it is written, so the calling thread writes it: on a
                       busy machine the writer, which steps back, would take many times as long

        Raises: TypeError: something in the state that is neither a tensor nor plain
        """
        self._collect()
        self._next_s = time.monotonic() + self._settings.every_s
        snapshot = self._medium.take(state)
        if self._writer is None or waiting:
            self._tell(images_seen, self._write(snapshot, images_seen, score))
        else:
            self._tell_memory(snapshot)
            written = self._writer.submit(self._write, snapshot, images_seen, score)
            self._under_way = images_seen, written

    def settle(self) -> bool:
        """Wait for the save under way; whether the state saved last is on the disk."""
        self._collect()
        return self._failure is None

    def finish(self) -> None:
        """Wait for the save under way, which must not fail: nothing tries again after it.

        Raises: ValueError: the last state could not be saved, and why
        """
        if not self.settle():
            raise checks.invalid(
                "fit", str(self._folder), "a folder that the last checkpoint can be saved in",
                self._failure,
                "Make room there and run the same command: it continues at the checkpoint before.",
            )  # fmt: skip

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self._medium.give_up()
        if self._writer is not None:
            self._writer.shutdown(wait=True)
        if error is None:
            self._collect()

    def _write(self, snapshot: Snapshot, images_seen: int, score: float | None) -> OSError | None:
        """Put a snapshot on the disk, if it is not there; what prevented it."""
        try:
            self._medium.write(snapshot, images_seen, score)
        except OSError as error:
            return error
        return None

    def _collect(self) -> None:
        """Wait for the save under way, if there is one, and say so if it failed."""
        if self._under_way is not None:
            (images_seen, written), self._under_way = self._under_way, None
            self._tell(images_seen, written.result())

    def _tell(self, images_seen: int, failure: OSError | None) -> None:
        self._failure = failure
        if failure is not None:
            self._next_s = time.monotonic() + min(_RETRY_S, self._settings.every_s)
            self._say(
                f"the checkpoint at image {images_seen} could not be saved ({failure}). "
                "The ones before it are whole; make room in the run folder: toque tries again."
            )

    def _tell_memory(self, snapshot: Snapshot) -> None:
        if self._told_memory:
            return
        self._told_memory = True
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if snapshot.num_bytes > _TELLING_SHARE * memory:
            self._say(
                f"checkpoints are written in the background from a copy of "
                f"{snapshot.num_bytes / 1e9:.1f} GB in memory, which the run keeps; "
                "checkpoint.background = false saves that memory and halts the training instead."
            )


def _step_back() -> None:
    """Let the training have the cores first, where threads have a niceness of their own (Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _WRITER_NICENESS)
