"""How many targets a mean was taken over, so that means of parts can be joined rightly.

A batch that is worked off in parts, or on several ranks, has the loss
sum(count * mean) / sum(count) over the parts; averaging the means instead is wrong as soon as the
counts differ (a last part that is smaller, pixels that are ignored).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from toque.losses.catalog import FUNCTIONS, Loss

# The losses whose "mean" divides by the (weighted) targets that are not ignored.
_PER_TARGET = {
    FUNCTIONS[name]
    for name in ("cross_entropy", "focal", "upsample_cross_entropy", "linear_cross_entropy")
}


def num_targets(loss: Any, targets: Any) -> int | Tensor:
    """What the mean of `loss` over these targets divides by, up to a factor that all parts share.

    Cross-entropy and its kin count the targets that are not ignored, by their class weights; every
    other loss counts images. A loss of your own that leaves targets out has a method
    `num_targets(targets)` that says how many count.

    Shape:   targets [B, ...], or a nest of such tensors -> a number, or a tensor [] on their device
    Example: >>> num_targets(create("cross_entropy"), torch.tensor([3, -100, 1])).item()
             2
    """
    if hasattr(loss, "num_targets"):
        counted: int | Tensor = loss.num_targets(targets)
        return counted
    per_target, ignore_index, weights = _counting(loss)
    if not (per_target and isinstance(targets, Tensor) and not targets.is_floating_point()):
        return len(tree_leaves(targets)[0])
    valid = targets != ignore_index
    if weights is None:
        return valid.sum()
    return (weights[targets.clamp(0, len(weights) - 1).long()] * valid).sum()


def weighted(mean: Tensor, part: int | Tensor, whole: int | Tensor) -> Tensor:
    """mean * part / whole: what a part adds to the mean of the whole; 0 where nothing counts."""
    if isinstance(whole, Tensor):
        whole = torch.where(whole == 0, torch.ones_like(whole), whole)
    return mean * part / whole


def _counting(loss: Any) -> tuple[bool, int, Tensor | None]:
    """Whether the loss counts targets, which class number it ignores, and its class weights."""
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        return True, loss.ignore_index, loss.weight
    function = loss.function if isinstance(loss, Loss) else loss
    if function not in _PER_TARGET:
        return False, -100, None
    given = {**loss.settings, **loss._buffers} if isinstance(loss, Loss) else {}
    default = inspect.signature(function).parameters["ignore_index"].default
    ignore_index = given.get("ignore_index", default)
    weights = given.get("class_weights")
    assert isinstance(ignore_index, int)
    return True, ignore_index, weights if isinstance(weights, Tensor) else None
