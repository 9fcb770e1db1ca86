"""What may learn as a function of images seen: the rules with `frozen` and `frozen_epochs`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from toque import checks
from toque.models import parameters
from toque.models.parameters import Rule
from toque.train.settings.optimisation import RuleSettings


class Freezing:
    """Freezes what the rules name until so many epochs were seen; then it learns too.

    Of several rules that match a parameter the last one decides: 0 epochs undo an earlier rule.

    Args: rules: of the run; those that say nothing of freezing are left alone
          num_images: in an epoch
    """

    def __init__(self, rules: Sequence[RuleSettings], num_images: int) -> None:
        self._until = [
            (rule.match, math.inf if rule.frozen else (rule.frozen_epochs or 0) * num_images)
            for rule in rules
            if rule.frozen is not None or rule.frozen_epochs is not None
        ]
        self._frozen: list[bool] | None = None

    def apply(self, model: nn.Module, images_seen: int) -> None:
        """Freeze and unfreeze for the step that starts at `images_seen`, in place.

        Raises: ValueError: nothing is left to learn
        """
        frozen = [images_seen < images for _, images in self._until]
        if frozen == self._frozen:
            return
        self._frozen = frozen
        rules = zip(self._until, frozen, strict=True)
        parameters.apply(model, [Rule(match, frozen=now) for (match, _), now in rules])
        names = [name for name, _ in model.named_parameters()]
        if not any(parameter.requires_grad for parameter in model.parameters()):
            last = names[-1].rpartition(".")[0] if names else "head"
            raise checks.invalid(
                "run.toml [[rules]]", "frozen_epochs", "so that something learns at any time",
                "every parameter frozen",
                f'Let the head learn by a later rule: {{match = "{last}.*", frozen_epochs = 0}}.',
            )  # fmt: skip
