"""What a command is doing while nothing else shows it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@contextlib.contextmanager
def waiting(doing: str, console: Console | None = None) -> Iterator[None]:
    """A sign of life on standard error, where a person looks at it; nothing elsewhere.

    Example: >>> with waiting("measuring"):
             ...     found = evaluate("runs/flowers")
    """
    from rich.console import Console

    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"{doing} …", spinner="line"):
        yield
