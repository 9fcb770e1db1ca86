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

    def validating(self, images: int, num_images: int) -> None:
        """So many of the validation images were answered; all of them at the end."""

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


class Silent:
    """Shows nothing: on the ranks other than 0, which shows it for all."""

    def begin(self, images_seen: int, total_images: int) -> None:
        pass

    def step(self, images_seen: int, loss: float, learning_rate: float) -> None:
        pass

    def validating(self, images: int, num_images: int) -> None:
        pass

    def say(self, sentence: str) -> None:
        pass

    def end(self) -> None:
        pass


class Quiet(Silent):
    """Shows warnings only."""

    def say(self, sentence: str) -> None:
        if sentence.startswith("warning"):
            print(sentence, file=sys.stderr)


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

    def validating(self, images: int, num_images: int) -> None:
        pass  # what it found is a line

    def say(self, sentence: str) -> None:
        print(sentence, file=self._stream, flush=True)

    def end(self) -> None:
        pass


class Bar:
    """A bar with images/s, loss, learning rate and time left; sentences scroll above it.

    Below it stands one of the validation, if that takes longer than a second.
    """

    _VALIDATION_SHOWN_S = 1.0

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[speed]} images/s"),
            TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            speed_estimate_period=10,
        )
        self._task: TaskID | None = None
        self._validation: TaskID | None = None
        self._validating_since: float | None = None

    def begin(self, images_seen: int, total_images: int) -> None:
        self._bar.start()
        self._task = self._bar.add_task(
            "", total=total_images, completed=images_seen, speed="-", loss="loss -", rate="lr -"
        )

    def step(self, images_seen: int, loss: float, learning_rate: float) -> None:
        if self._task is None:
            return
        self._move(self._task, images_seen)
        self._bar.update(self._task, loss=f"loss {loss:.4f}", rate=f"lr {learning_rate:.2g}")

    def validating(self, images: int, num_images: int) -> None:
        if images >= num_images:
            self._end_validation()
            return
        now = time.monotonic()
        if self._validating_since is None:
            self._validating_since = now
        if now - self._validating_since < self._VALIDATION_SHOWN_S:
            return
        if self._validation is None:
            self._bar.start()  # the last validation of a run comes after the end of its bar
            self._validation = self._bar.add_task(
                "", total=num_images, speed="-", loss="validating", rate=""
            )
        self._move(self._validation, images)

    def say(self, sentence: str) -> None:
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        self._end_validation()
        self._bar.stop()

    def _move(self, task: TaskID, images: int) -> None:
        speed = next(one.speed for one in self._bar.tasks if one.id == task)
        self._bar.update(task, completed=images, speed=f"{speed:.0f}" if speed else "-")

    def _end_validation(self) -> None:
        self._validating_since = None
        if self._validation is not None:
            self._bar.remove_task(self._validation)
            self._validation = None
            if self._task is None:
                self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
