"""What an output can hold."""

from __future__ import annotations

from typing import TextIO


def holds_every_letter(stream: TextIO) -> bool:
    """Whether every letter can be written there: its encoding is UTF-8."""
    return (stream.encoding or "").lower().replace("-", "") == "utf8"
