"""SIGINT and SIGTERM as a request: finish the step, save, then leave with 130 or 143."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Stopped(KeyboardInterrupt):
    """Raised by fit after it saved because a signal asked it to stop; `code` is the exit code."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.code = 128 + signal_number


class StopRequest:
    """Catches the two signals while its block runs; a second SIGINT interrupts at once.

    Outside the main thread Python delivers no signals, and the block changes nothing.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
