"""Argument checks: one error sentence, and the classes that mark a user's mistake.

`{where}: {argument} must be {rule}; got {value}. {what to do}.` The command line prints a
`UserMistake` as that one sentence and exits with 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserMistake(Exception):
    """Something only the user can mend; its message is one sentence that ends with the fix."""


class InvalidValue(UserMistake, ValueError):
    """A value outside its rule."""


class InvalidType(UserMistake, TypeError):
    """A value of another type than the rule asks for."""


class MissingFile(UserMistake, FileNotFoundError):
    """A file or folder that is not there."""

    def __str__(self) -> str:  # OSError would print only what it was given as errno and text
        return str(self.args[0]) if self.args else ""


def sentence(where: str, argument: str, rule: str, value: object, fix: str) -> str:
    """The error sentence of the house."""
    return f"{where}: {argument} must be {rule}; got {value}. {fix}"


def invalid(where: str, argument: str, rule: str, value: object, fix: str) -> InvalidValue:
    """The exception to raise for a value outside its rule."""
    return InvalidValue(sentence(where, argument, rule, value, fix))


def invalid_type(where: str, argument: str, rule: str, value: object, fix: str) -> InvalidType:
    """The exception to raise for a value of the wrong type."""
    return InvalidType(sentence(where, argument, rule, value, fix))


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of what an error says, cut to so many characters; its kind if it is silent."""
    said = str(error).strip()
    return said.splitlines()[0][:most] if said else type(error).__name__


def require_folder_of(where: str, argument: str, file: Path) -> None:
    """Raise FileNotFoundError unless the folder that a file is to be written in exists."""
    if not file.parent.is_dir():
        rule = "in a folder that exists"
        raise MissingFile(sentence(where, argument, rule, file, "Make the folder."))


def first(names: Iterable[str], most: int = 3) -> str:
    """The first of some names, and how many more there are: "a, b, c and 4 more"."""
    known = list(names)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def require_module(where: str, model: object) -> None:
    """Raise TypeError unless a model is an nn.Module, as a name of one is not (torch stays out)."""
    if not callable(getattr(model, "named_modules", None)):
        raise invalid_type(
            where, "model", "an nn.Module", repr(model) if isinstance(model, str) else
            type(model).__name__, "Build one by its name with toque.models.create.",
        )  # fmt: skip


def nearest(word: str, known: Iterable[str]) -> str:
    """A suggestion: "Did you mean momentum?", or the list of what is known when nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if not close:
        close = [name for name in names if word and (word in name or name in word)][:3]
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Known: {first(names, 12)}."
