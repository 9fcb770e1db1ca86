"""The buffers of a model as they were before a step, for a step that must not have happened.

A forward pass changes the running statistics of BatchNorm before anything can be known of the loss:
a skipped step that left them alone would leave NaN in them for good.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Same:
    """All buffers of one dtype, and two copies of them in one piece of memory each."""

    buffers: list[Tensor]
    before: Tensor
    after: Tensor
    before_parts: list[Tensor]
    after_parts: list[Tensor]


class Statistics:
    """Keeps the buffers of a model aside and gives them back, in a few operations for any number.

    Example: >>> statistics = Statistics(model)
             >>> statistics.keep()
             >>> loss = model(images).mean()
             >>> statistics.restore_where(~loss.isfinite())   # nothing is read from a GPU
    """

    def __init__(self, model: nn.Module) -> None:
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            by_dtype.setdefault(buffer.dtype, []).append(buffer)
        self._same = [_flat(buffers) for buffers in by_dtype.values()]

    def keep(self) -> None:
        """Remember the buffers as they are now."""
        if self._same:
            self._copy([(same.before_parts, same.buffers) for same in self._same])

    def restore(self) -> None:
        """Put back what was kept."""
        self._copy([(same.buffers, same.before_parts) for same in self._same])

    def restore_where(self, bad: Tensor) -> None:
        """Put back what was kept if `bad` [] is not 0, decided on the device."""
        if not self._same:
            return
        if bad.device.type == "cpu":  # where looking costs nothing
            if bad.item() != 0:
                self.restore()
            return
        self._select(bad)

    def _select(self, bad: Tensor) -> None:
        with torch.no_grad():
            for same in self._same:
                torch._foreach_copy_(same.after_parts, same.buffers)
                torch.where(bad.bool(), same.before, same.after, out=same.after)
                torch._foreach_copy_(same.buffers, same.after_parts)

    @torch.no_grad()
    def _copy(self, pairs: list[tuple[list[Tensor], list[Tensor]]]) -> None:
        for to, by in pairs:
            torch._foreach_copy_(to, by)


def _flat(buffers: list[Tensor]) -> _Same:
    sizes = [buffer.numel() for buffer in buffers]
    before = torch.empty(sum(sizes), dtype=buffers[0].dtype, device=buffers[0].device)
    after = torch.empty_like(before)
    before_parts, after_parts = (
        [part.view(b.shape) for part, b in zip(torch.split(whole, sizes), buffers, strict=True)]
        for whole in (before, after)
    )
    return _Same(buffers, before, after, before_parts, after_parts)
