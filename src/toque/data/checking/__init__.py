"""What is wrong with a data set, and what is worth knowing about it."""

from toque.data.checking.check import check
from toque.data.checking.findings import Finding, Findings, Item

__all__ = ["Finding", "Findings", "Item", "check"]
