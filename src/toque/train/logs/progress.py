"""What a person sees while training: a bar in a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Literal, Protocol, get_args

from toque import checks

if TYPE_CHECKING:
    from rich.progress import TaskID

Kind = Literal["auto", "bar", "lines", "quiet"]


class Progress(Protocol):
    """Told how far the run is, and given sentences to show."""

    def begin(self, images_seen: int, total_images: int) -> None: ...

    def step(self, images_seen: int, loss: float, learning_rate: float) -> None: ...

    def say(self, sentence: str) -> None: ...

    def end(self) -> None: ...


def create(kind: Kind) -> Progress:
    """The progress shown on stderr: "auto" is a bar in a terminal and lines elsewhere."""
    if kind not in get_args(Kind):
        raise checks.invalid(
            "fit", "show", f"one of {', '.join(get_args(Kind))}", kind,
            checks.nearest(str(kind), get_args(Kind)),
        )  # fmt: skip
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() else "lines"
    if kind == "bar":
        return Bar()
    return Lines(sys.stderr) if kind == "lines" else Quiet()


@contextlib.contextmanager
def said_if_slow(shown: Progress, sentence: str, after_s: float = 2.0) -> Iterator[None]:
    """Show a sentence if the block takes longer than that: nobody should wonder what it does."""
    timer = threading.Timer(after_s, shown.say, [sentence])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Quiet:
    """Shows warnings only, through `say`."""

    def begin(self, images_seen: int, total_images: int) -> None:
        pass

    def step(self, images_seen: int, loss: float, learning_rate: float) -> None:
        pass

    def say(self, sentence: str) -> None:
        if sentence.startswith("warning"):
            print(sentence, file=sys.stderr)

    def end(self) -> None:
        pass


class Lines:
    """A line for every sentence, and one on the progress every ten seconds."""

    _EVERY_S = 10.0

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._total = 0
        self._last_time = self._last_images = 0.0

    def begin(self, images_seen: int, total_images: int) -> None:
        self._total = total_images
        self._last_time, self._last_images = time.monotonic(), images_seen

    def step(self, images_seen: int, loss: float, learning_rate: float) -> None:
        now = time.monotonic()
        if now - self._last_time < self._EVERY_S:
            return
        speed = (images_seen - self._last_images) / (now - self._last_time)
        left = (self._total - images_seen) / max(speed, 1e-9)
        self._last_time, self._last_images = now, images_seen
        self.say(
            f"{100 * images_seen / self._total:3.0f} %  {images_seen} images  "
            f"{speed:.0f} images/s  loss {loss:.4f}  lr {learning_rate:.2g}  {_clock(left)} left"
        )

    def say(self, sentence: str) -> None:
        print(sentence, file=self._stream, flush=True)

    def end(self) -> None:
        pass


class Bar:
    """A bar with images/s, loss, learning rate and time left; sentences scroll above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[speed]} images/s"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("lr {task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            speed_estimate_period=10,
        )
        self._task: TaskID | None = None

    def begin(self, images_seen: int, total_images: int) -> None:
        self._bar.start()
        self._task = self._bar.add_task(
            "", total=total_images, completed=images_seen, speed="-", loss="-", rate="-"
        )

    def step(self, images_seen: int, loss: float, learning_rate: float) -> None:
        if self._task is None:
            return
        speed = self._bar.tasks[0].speed
        self._bar.update(
            self._task,
            completed=images_seen,
            speed=f"{speed:.0f}" if speed else "-",
            loss=f"{loss:.4f}",
            rate=f"{learning_rate:.2g}",
        )

    def say(self, sentence: str) -> None:
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
