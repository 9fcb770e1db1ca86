"""What learns and what does not: by rule, and gradually, as a function of the images seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from toque import checks
from toque.models.parameters.rules import Match, Rule, settings


def apply(model: nn.Module, rules: Sequence[Rule]) -> None:
    """Freeze and unfreeze as the rules say, in place.

    A BatchNorm whose parameters are all frozen also stops changing its statistics, and uses them
    while training too.
    """
    given = settings(model, rules)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not given[name].frozen)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            still = not any(p.requires_grad for p in module.parameters(recurse=False))
            _hold_statistics(module, still, model.training)


def freeze(model: nn.Module, match: Match) -> None:
    """Freeze what matches, and the statistics of BatchNorms that are frozen whole, in place."""
    apply(model, [Rule(match, frozen=True)])


def unfreeze(model: nn.Module, match: Match) -> None:
    """Let what matches learn again, in place."""
    apply(model, [Rule(match, frozen=False)])


@dataclass(frozen=True)
class Unfreezing:
    """Gradual unfreezing: what may learn is a function of the images seen.

    Args:    steps: (images, match) in rising order; from that many images on, what matches learns
    Raises:  ValueError: no step, or images that fall
    Source:  Howard & Ruder 2018, ULMFiT, arXiv:1801.06146, section 3.3
    Example: >>> plan = Unfreezing([(0, "head.*"), (20_000, "features.stage4.*"), (40_000, "*")])
             >>> plan.apply(model, images)     # before the step that starts at `images`
    """

    steps: Sequence[tuple[int, Match]]

    def __post_init__(self) -> None:
        images = [images for images, _ in self.steps]
        if not images or images != sorted(images):
            raise checks.invalid(
                "Unfreezing", "steps", "of images that do not fall", images, "Sort them."
            )

    def rules(self, images: int) -> list[Rule]:
        """The rules that hold after `images` images."""
        open_now = [Rule(match, frozen=False) for start, match in self.steps if images >= start]
        return [Rule("*", frozen=True), *open_now]

    def apply(self, model: nn.Module, images: int) -> None:
        """Freeze and unfreeze for the step that starts at `images`, in place."""
        apply(model, self.rules(images))


def _hold_statistics(norm: _BatchNorm, hold: bool, training: bool) -> None:
    held = [number for number, hook in norm._forward_pre_hooks.items() if hook is _evaluate]
    if hold and not held:
        norm.register_forward_pre_hook(_evaluate)
    elif held and not hold:
        for number in held:
            del norm._forward_pre_hooks[number]
        norm.train(training)


def _evaluate(norm: nn.Module, given: Any) -> None:
    # A hook, since model.train() would undo norm.eval() at the start of every epoch.
    norm.training = False
