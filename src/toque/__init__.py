"""toque: vision models trained as a pure function of (settings, data, seed).

The table of contents. Every name is imported when it is first used, so that `toque --help` does not
wait for torch, and `import toque.augment` loads nothing of the training.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from toque.version import VERSION

__version__ = VERSION

_ROOMS = ("augment", "checks", "data", "deploy", "layers", "losses", "models", "random", "train")
_NAMES = {"Run": "toque.train", "fit": "toque.train", "evaluate": "toque.train"}

__all__ = ["__version__", *_ROOMS, *_NAMES]

if TYPE_CHECKING:
    from toque import augment, checks, data, deploy, layers, losses, models, random, train
    from toque.train import Run, evaluate, fit


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"toque.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'toque' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
