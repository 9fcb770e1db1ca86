"""Numbers of things, as a sentence begins with them."""

from __future__ import annotations


def files_are(number: int, what: str) -> str:
    return f"{number} file{'s' if number != 1 else ''} {what}".rstrip()


def images_are(number: int, what: str = "") -> str:
    middle = f" {what}" if what else ""
    return f"{number} image{'s' if number != 1 else ''}{middle} {'are' if number != 1 else 'is'}"


def pictures_are(number: int) -> str:
    return f"{number} picture{'s are' if number != 1 else ' is'} there"
