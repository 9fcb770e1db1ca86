"""One or several optimisers, stepped as one: rates, skipped steps, averaged weights, state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from toque.train.distributed import sharding
from toque.train.optimisation.bare import bare_step
from toque.train.state.layout import lay_out


class Optimizers:
    """One or several optimisers, each for its own parameters, stepped as one.

    Args: parts: by name; their groups may carry "lr_scale", by which the schedule's rate is
          multiplied (torch's optimisers know no such key)
    """

    def __init__(self, parts: Mapping[str, torch.optim.Optimizer]) -> None:
        self.parts = dict(parts)
        # These skip a step by themselves when a flag on the device says so, as under GradScaler.
        self._skipping = all(
            getattr(part, "_step_supports_amp_scaling", False) for part in self.parts.values()
        )
        self._steps = [bare_step(part) for part in self.parts.values()]
        self._find_groups()
        for part in self.averaging:
            part.train()

    def _find_groups(self) -> None:
        self._groups = [group for part in self.parts.values() for group in part.param_groups]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self._groups for parameter in group["params"]]

    @property
    def averaging(self) -> list[Any]:
        """The schedule-free ones, which train other weights than those to be used."""
        return [part for part in self.parts.values() if "train_mode" in part.param_groups[0]]

    def set_learning_rate(self, rate: float) -> None:
        """Give every group the rate, times the group's own `lr_scale`."""
        for group in self._groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)

    def zero_grad(self) -> None:
        """Forget the gradients; the next backward makes new ones."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self, bad: Tensor | None = None) -> None:
        """Change the parameters, unless `bad` (float32 [], 1 or 0) says that nothing may change.

        Nothing waits for a GPU if every optimiser is fused; else `bad` is read.
        """
        if bad is None or self._reads(bad):
            if bad is None or bad.item() == 0:
                with torch.no_grad():
                    for step in self._steps:
                        step()
            return
        for part, step in zip(self.parts.values(), self._steps, strict=True):
            flagged: Any = part
            flagged.found_inf, flagged.grad_scale = bad, None
            with torch.no_grad():
                step()
            del flagged.found_inf, flagged.grad_scale

    def _reads(self, bad: Tensor) -> bool:
        """Whether the flag is read here: where that is free, or where nothing else is right."""
        if bad.is_cpu or not self._skipping:
            return True
        # The first step allocates the state, which a flagged SGD would leave uninitialised.
        return not all(part.state for part in self.parts.values())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The weights to be used in place of those being trained, for schedule-free optimisers.

        On leaving, the training weights are back bit for bit: the optimiser's own way back rounds.
        """
        own = [p.detach().clone() for p in self.parameters] if self.averaging else []
        for part in self.averaging:
            part.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, before in zip(self.parameters, own, strict=False):
                    parameter.copy_(before)
            for part in self.averaging:
                for group in part.param_groups:
                    group["train_mode"] = True

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in self.parts.items():
            sharding.load_optimizer(part, state[name])
            lay_out(part)
        self._find_groups()
