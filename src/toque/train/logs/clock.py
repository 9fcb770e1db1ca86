"""Where the time goes: the seconds of the training thread by what it was doing, and its memory.

A lap is one read of the clock; four of them a step cost about a microsecond, and none waits for the
device. Stages:

data        waiting for the next batch
host        Python: drawing seeds, starting the step, logging
device      computing: on a CPU the step itself; on a GPU the time in which it was not out of work
checkpoint  writing the state
validation  measuring the validation images

On a GPU the host only queues work. Whether the queue had run dry is asked (not waited for) when the
next step is queued: if it had, the device was waiting for the host, and the time counts as host.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch

from toque.data import Source
from toque.train.metrics.stages import STAGES, Stage, shares
from toque.train.run import Run
from toque.train.run_folder.environment import num_cores

_TELLING_S = 1.0  # a stretch shorter than this says nothing: its first batch weighs too much
_WAITING, _SAVING = 0.2, 0.1  # shares that are worth a word

T = TypeVar("T")


class Clock:
    """Seconds by stage since the last look of each reader.

    Example: >>> clock = Clock(device)
             >>> for batch in clock.watch(batches):
             ...     clock.step_begins()
             ...     step(batch)
             ...     clock.step_ends()
             >>> clock.take("train")  # {"data_s": 0.4, "host_s": 0.1, "device_s": 7.2, ...}
    """

    def __init__(self, device: torch.device) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._taken: dict[str, dict[Stage, float]] = {}
        self._event = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._device_busy = self._event is None
        self._advised = False
        self._last = time.perf_counter()

    def lap(self, stage: Stage) -> None:
        """The time since the last lap went into `stage`."""
        now = time.perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, with the time that each was waited for."""
        iterator = iter(batches)
        while True:
            self.lap("host")
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.lap("data")
            yield batch

    def step_begins(self) -> None:
        """Forward and backward pass come next."""
        self.lap("host")
        if self._event is not None:
            self._device_busy = not self._event.query()  # type: ignore[no-untyped-call]

    def step_ends(self) -> None:
        """The step was computed, or on a GPU queued."""
        self.lap("device" if self._device_busy else "host")
        if self._event is not None:
            self._event.record()

    def settled(self) -> None:
        """Values were read from the device, which waits for all that was queued."""
        self.lap("host" if self._event is None else "device")

    def take(self, reader: str) -> dict[str, float]:
        """Seconds by stage since the same reader took them last: {"data_s": 1.5, ...}."""
        before = self._taken.get(reader, dict.fromkeys(STAGES, 0.0))
        self._taken[reader] = dict(self._seconds)
        return {f"{stage}_s": self._seconds[stage] - before[stage] for stage in STAGES}

    def advise(self, row: Mapping[str, Any], run: Run, source: Source) -> str | None:
        """`advice` on the stretch of one row, given once."""
        said = None if self._advised else advice([row], run, source, num_cores())
        self._advised = self._advised or said is not None
        return said


def memory_bytes(device: torch.device) -> int:
    """The most memory held so far: tensors on a GPU, else the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def remark(row: Mapping[str, Any]) -> str:
    """What an epoch's line adds when it matters: "waiting for images 72 %, saving 11 %"."""
    if sum(row.get(f"{stage}_s", 0.0) for stage in STAGES) < _TELLING_S:
        return ""
    part = shares([row])
    said = []
    if part["data"] >= _WAITING:
        said.append(f"waiting for images {100 * part['data']:.0f} %")
    if part["checkpoint"] >= _SAVING:
        said.append(f"saving {100 * part['checkpoint']:.0f} %")
    return ", ".join(said)


def advice(rows: Sequence[Mapping[str, Any]], run: Run, source: Source, cores: int) -> str | None:
    """One sentence on what would make a run faster that waits for images; None if it does not.

    Args: rows: of one split, as `shares` takes them
          run: resolved settings; source: its training images; cores: that the process may use
    """
    part = shares(rows)
    seconds = sum(row.get(f"{stage}_s") or 0.0 for row in rows for stage in STAGES)
    if seconds < _TELLING_S or part["data"] < _WAITING:
        return None
    ways = []
    if source.serial:
        ways.append(f"raise workers to {max(run.workers + 1, cores)}")
    elif not source.in_memory:
        ways.append(f"pack them with `toque pack {run.data} CACHE`")
    if (run.threads or 1) < cores:
        ways.append(f"raise threads to {cores}")
    if not ways:
        ways.append("choose a lighter augment, or a smaller image_size")
    return f"{100 * part['data']:.0f} % of the time was waiting for images: {', or '.join(ways)}."
