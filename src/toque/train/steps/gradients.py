"""The gradients of a step, between backward and the optimiser: unscaled, checked, clipped.

Everything that is decided from all gradients of a step is decided here, once: a sum over ranks
belongs at the beginning of `finish`, and a verdict shared by ranks at its end.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from toque.train.distributed import sharding
from toque.train.settings.optimisation import ClipSettings


class Gradients:
    """The gradients of these parameters.

    Args: clip: how large they may be
    """

    def __init__(self, parameters: Iterable[nn.Parameter], clip: ClipSettings) -> None:
        self._parameters = list(parameters)
        self._clip = clip
        self._one = torch.ones((), device=self._parameters[0].device)
        kinds = {(parameter.device, parameter.dtype) for parameter in self._parameters}
        self._alike = len(kinds) == 1
        self._dtype = self._parameters[0].dtype
        self._sharded = any(sharding.is_piece(parameter) for parameter in self._parameters)

    def clear(self) -> None:
        """Forget them; the next backward makes new ones."""
        for parameter in self._parameters:
            parameter.grad = None

    def finish(self, loss: Tensor, inverse_scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """Unscale, check and clip, in place; nothing is read from a GPU.

        Shape:   loss [], inverse_scale [] -> bad, overflowed []
        Returns: float32, 1 or 0: whether the step must be skipped because the loss or a gradient is
                 no finite number; and whether a gradient is (what a loss scale asks)
        """
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        pieces = [sharding.piece(g) for g in gradients] if self._sharded else gradients
        overflowed = torch.zeros((), device=loss.device)
        scale = self._one if inverse_scale is None else inverse_scale
        # One pass to check and unscale; torch.amp.GradScaler's own operation.
        if inverse_scale is None and self._alike and gradients and loss.dtype == self._dtype:
            torch._amp_foreach_non_finite_check_and_unscale_([loss, *pieces], overflowed, scale)
            bad = overflowed
        else:
            for same in _by_kind(pieces):
                torch._amp_foreach_non_finite_check_and_unscale_(same, overflowed, scale)
            bad = overflowed.clone()
            torch._amp_foreach_non_finite_check_and_unscale_([loss], bad, self._one)
        if self._clip.value is not None and gradients:
            torch._foreach_clamp_min_(gradients, -self._clip.value)
            torch._foreach_clamp_max_(gradients, self._clip.value)
        if self._clip.norm is not None and gradients:
            norm = nn.utils.get_total_norm(gradients)
            nn.utils.clip_grads_with_norm_(self._parameters, self._clip.norm, norm)
        return bad, overflowed


def _by_kind(gradients: Iterable[Tensor]) -> list[list[Tensor]]:
    """The gradients of each device and dtype."""
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for gradient in gradients:
        kinds.setdefault((gradient.device, gradient.dtype), []).append(gradient)
    return list(kinds.values())
