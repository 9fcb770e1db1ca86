"""Which parameter gets what: learning rate, weight decay, freezing, by rule."""

from __future__ import annotations

from typing import Any

from torch import nn

from toque import checks


def groups(
    model: nn.Module, *, weight_decay: float = 0.0, learning_rate: float | None = None
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: no weight decay for biases, norms and scales.

    A parameter decays when it has two dimensions or more and the model does not name it in its
    `no_weight_decay()` (timm's convention). Frozen parameters are left out; a shared one is counted
    once. Each group holds "params", "names", "weight_decay" and "lr_scale" (and "lr" if a learning
    rate is given); whoever changes the learning rate multiplies by "lr_scale".

    Raises:  ValueError: weight_decay < 0, or no parameter is trainable
    Example: >>> torch.optim.SGD(groups(model, weight_decay=5e-4), lr=0.1)
    """
    if weight_decay < 0:
        raise checks.invalid("groups", "weight_decay", ">= 0", weight_decay, "Use 0 for none.")
    exempt: set[str] = getattr(model, "no_weight_decay", set)()
    named: dict[float, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and name not in exempt
            named.setdefault(weight_decay if decays else 0.0, []).append((name, parameter))
    if not named:
        raise checks.invalid(
            "groups", "model", "trainable in part", "no parameter that requires a gradient",
            "Unfreeze a layer.",
        )  # fmt: skip
    made: list[dict[str, Any]] = []
    for decay, members in named.items():
        group: dict[str, Any] = {
            "params": [parameter for _, parameter in members],
            "names": [name for name, _ in members],
            "weight_decay": decay,
            "lr_scale": 1.0,
        }
        if learning_rate is not None:
            group["lr"] = learning_rate
        made.append(group)
    return made
