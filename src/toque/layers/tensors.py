"""The tensors inside what a module takes or gives, and the memory they lie in."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in nested tuples, lists and dicts, in their order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def storage_of(tensor: Tensor) -> int:
    """A number for the memory a tensor lies in, equal for views of one another."""
    return int(tensor.untyped_storage()._cdata)
