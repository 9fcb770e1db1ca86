"""metrics.jsonl: a row a line, and the loggers that the rows go to besides."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from toque import durable

Row = dict[str, Any]


class Logger(Protocol):
    """Takes the rows of one run; `cut` says that what came after an image is written again."""

    def write(self, row: Row) -> None: ...

    def cut(self, images_seen: int) -> None: ...

    def close(self) -> None: ...


class MetricsLog:
    """metrics.jsonl and what else the rows go to, cut back to where a resumed run continues.

    A full disk does not end the run: rows wait in memory and are appended with the next one.
    """

    def __init__(self, file: Path, images_seen: int, loggers: Sequence[Logger] = ()) -> None:
        self._path, self._loggers = file, loggers
        self._begin(images_seen)

    def _begin(self, images_seen: int) -> None:
        kept = [row for row in read_rows(self._path) if row["images_seen"] <= images_seen]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        if self._path.exists():
            durable.write(self._path, text)
        self._file = self._path.open("ab", buffering=0)
        self._unwritten = b""
        self.rows = kept

    def cut(self, images_seen: int) -> None:
        """Forget what came after an image, here and in the file."""
        self._close_file()
        self._begin(images_seen)
        for logger in self._loggers:
            logger.cut(images_seen)

    def write(self, row: Row) -> None:
        """Append one row, with numbers rounded to what is significant."""
        row = {
            key: float(f"{value:.7g}") if isinstance(value, float) else value
            for key, value in row.items()
        }
        self.rows.append(row)
        self._unwritten += json.dumps(row).encode() + b"\n"
        self._append()
        for logger in self._loggers:
            logger.write(row)

    def _append(self) -> None:
        with contextlib.suppress(OSError):
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def close(self) -> None:
        self._close_file()
        for logger in self._loggers:
            logger.close()

    def _close_file(self) -> None:
        self._append()
        self._file.close()


def read_rows(file: Path) -> list[Row]:
    """The rows of a metrics.jsonl; a last line torn by a kill is left out."""
    if not file.is_file():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
