"""What may learn as a function of images seen: the rules with `frozen_epochs`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from toque.models import parameters
from toque.models.parameters import Rule
from toque.train.settings.optimisation import RuleSettings


class Freezing:
    """Freezes what the rules name until so many epochs were seen; then it learns too.

    Args: rules: of the run; those without `frozen_epochs` are left alone
          num_images: in an epoch
    """

    def __init__(self, rules: Sequence[RuleSettings], num_images: int) -> None:
        self._until = [
            (rule.match, rule.frozen_epochs * num_images) for rule in rules if rule.frozen_epochs
        ]
        self._frozen: list[bool] | None = None

    def apply(self, model: nn.Module, images_seen: int) -> None:
        """Freeze and unfreeze for the step that starts at `images_seen`, in place."""
        frozen = [images_seen < images for _, images in self._until]
        if frozen != self._frozen:
            self._frozen = frozen
            rules = zip(self._until, frozen, strict=True)
            parameters.apply(model, [Rule(match, frozen=now) for (match, _), now in rules])
