"""Losses: functions of (predictions, targets), each right under every reduction and dtype.

`create(name, settings)` gives one by name, with its settings, as a module.
"""

from toque.losses.catalog import Loss, create, names
from toque.losses.cross_entropy import cross_entropy

__all__ = ["Loss", "create", "cross_entropy", "names"]
