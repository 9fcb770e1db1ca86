"""Changes to a model that stands: another layer, another or a larger head, other input channels."""

from __future__ import annotations

import copy

import torch
from torch import nn

from toque import checks


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` at `path` of the model, in place.

    Raises:  ValueError: no module has that path, with the nearest paths
    Example: >>> replace(model, "features.stem.pool", nn.Identity())
    """
    known = dict(model.named_modules())
    if path not in known or not path:
        raise checks.invalid(
            "replace", "path", "that of a module", repr(path), checks.nearest(path, known)
        )
    parent, _, name = path.rpartition(".")
    setattr(known[parent], name, module)


def replace_head(model: nn.Module, num_classes: int) -> None:
    """A new last layer for other classes, in place, drawn by PyTorch's own initialisation.

    Uses the model's `reset_classifier` where there is one (ours, timm's), else replaces its last
    linear layer, or last convolution where it has no linear layer. Does nothing if the number of
    classes is right already.
    """
    reset = getattr(model, "reset_classifier", None)
    if callable(reset):
        if getattr(model, "num_classes", None) != num_classes:
            reset(num_classes)
        return
    path, last = _last_layer(model)
    if len(last.weight) == num_classes:
        return
    if isinstance(last, nn.Linear):
        head: nn.Module = nn.Linear(
            last.in_features, num_classes, last.bias is not None, last.weight.device
        )
    else:
        head = _resized(last, last.in_channels, num_classes)
        head.reset_parameters()
    replace(model, path, head)


@torch.no_grad()
def grow_head(model: nn.Module, num_classes: int) -> None:
    """More classes at the end, in place; the answers for the old classes stay as they are.

    Raises: ValueError: fewer classes than before; a last layer that is not linear
    """
    path, old = _last_layer(model)
    if num_classes < old.weight.shape[0]:
        raise checks.invalid(
            "grow_head", "num_classes", f">= {old.weight.shape[0]}", num_classes,
            "Use replace_head for other classes.",
        )  # fmt: skip
    replace_head(model, num_classes)
    new = model.get_submodule(path)
    if new is old:
        return
    assert isinstance(new, nn.Linear | nn.Conv2d)
    new.weight[: len(old.weight)] = old.weight
    if old.bias is not None and new.bias is not None:
        new.bias[: len(old.weight)] = old.bias


@torch.no_grad()
def adapt_input(model: nn.Module, in_channels: int) -> None:
    """Make the first convolution take other channels, in place, its weights carried over.

    The mean over the old input channels is repeated, scaled so that an image whose channels are all
    equal gives the same answer as before.

    Raises: ValueError: the model has no convolution, or its first one is grouped
    """
    found = next(((path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
    if found is None or found[1].groups != 1:
        raise checks.invalid(
            "adapt_input", "model", "a network that begins with an ordinary convolution",
            type(model).__name__, "Replace its first layer with surgery.replace.",
        )  # fmt: skip
    path, old = found
    if old.in_channels == in_channels:
        return
    new = _resized(old, in_channels, old.out_channels)
    new.weight.copy_(old.weight.sum(1, keepdim=True).expand_as(new.weight) / in_channels)
    if old.bias is not None and new.bias is not None:
        new.bias.copy_(old.bias)
    replace(model, path, new)
    for name in ("in_channels", "in_chans"):
        if hasattr(model, name):
            setattr(model, name, in_channels)


def _last_layer(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """The last linear layer, or the last convolution where there is no linear layer."""
    linear = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    if linear:
        return linear[-1]
    convolutions = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    if convolutions:
        return convolutions[-1]
    raise checks.invalid(
        "surgery", "model", "a network with a linear layer or convolution", type(model).__name__,
        "Replace its last layer with surgery.replace.",
    )  # fmt: skip


def _resized(convolution: nn.Conv2d, in_channels: int, out_channels: int) -> nn.Conv2d:
    """A convolution with all the settings of another (also of a subclass), but new channels."""
    new = copy.deepcopy(convolution)
    new.in_channels, new.out_channels = in_channels, out_channels
    shape = (out_channels, in_channels // convolution.groups, *convolution.kernel_size)
    new.weight = nn.Parameter(convolution.weight.new_zeros(shape))
    if convolution.bias is not None:
        new.bias = nn.Parameter(convolution.bias.new_zeros(out_channels))
    return new
