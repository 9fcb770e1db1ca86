"""How far a long look at many images is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable
from typing import Literal, TypeVar

Show = Literal["auto", "bar", "lines", "quiet"]
Item = TypeVar("Item")

_EVERY_S = 10.0


def shown(
    items: Iterable[Item], *, doing: str, total: int, done: int = 0, show: Show = "auto"
) -> Generator[Item]:
    """The items, while stderr says how many of `total` have gone by.

    Args: doing: what is being done, as "packing"
          done: how many went by before
          show: "auto" is a bar in a terminal and lines elsewhere
    """
    if show == "auto":
        show = "bar" if sys.stderr.isatty() else "lines"
    if show == "quiet":
        return (item for item in items)
    return (_bar if show == "bar" else _lines)(items, doing, total, done)


def _bar(items: Iterable[Item], doing: str, total: int, done: int) -> Generator[Item]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(doing), BarColumn(bar_width=None), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(doing, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)


def _lines(items: Iterable[Item], doing: str, total: int, done: int) -> Generator[Item]:
    began = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _EVERY_S:
            last = now
            speed = count / (now - began)
            left = (total - done - count) / speed
            print(
                f"{doing}: {done + count} of {total} images, {speed:.0f} images/s, "
                f"{left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
