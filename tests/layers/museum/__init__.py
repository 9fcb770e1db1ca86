"""The museum of wrong layers: each has one planted bug, and the check and words that must name it.

Most are the same small operation, tanh(x) * w, with one thing wrong; modules where the bug needs one.
"""

from . import (
    derivatives,
    dtypes,
    first_layers,
    gradients,
    memory,
    sharing,
    sizes,
    state,
    transformed,
)
from .exhibits import EXHIBITS, Gate, pair

__all__ = [
    "EXHIBITS",
    "Gate",
    "derivatives",
    "dtypes",
    "first_layers",
    "gradients",
    "memory",
    "pair",
    "sharing",
    "sizes",
    "state",
    "transformed",
]
