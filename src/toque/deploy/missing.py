"""Packages that only exporting or serving needs."""

from __future__ import annotations

import importlib
from types import ModuleType

from toque import checks


class MissingExtra(checks.UserMistake, ImportError):
    """A package of an extra is not installed."""


def needed(where: str, package: str, extra: str) -> ModuleType:
    """The package, imported.

    Raises: ImportError: it is not installed; the message says how to
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(
            f"{where}: {package.partition('.')[0]} must be installed; got {error}. "
            f"pip install 'toque[{extra}]'"
        ) from error
