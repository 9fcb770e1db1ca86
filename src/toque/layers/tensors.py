"""The tensors inside what a module takes or gives."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in nested tuples, lists and dicts, in their order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
