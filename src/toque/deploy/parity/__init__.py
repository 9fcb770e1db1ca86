"""Parity: an exported file's answers against the model's, in the terms of the task."""

from toque.deploy.parity.masks import MasksParity
from toque.deploy.parity.measure import AnyParity, measure, network_answers
from toque.deploy.parity.numbers import NumbersParity
from toque.deploy.parity.shares import Parity
from toque.deploy.parity.tolerance import EXACT, HALF, Tolerance

__all__ = [
    "EXACT",
    "HALF",
    "AnyParity",
    "MasksParity",
    "NumbersParity",
    "Parity",
    "Tolerance",
    "measure",
    "network_answers",
]
