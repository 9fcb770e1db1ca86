"""Initial weights: schemes for one tensor, for a residual network, and from data.

Schemes for one tensor change it in place and can stand in a rule:
`Rule(nn.Conv2d, initialise=initialise.he)`.

Shape letters: O I output and input channels, k kernel side, B C H W as for images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from toque import checks
from toque.layers.modes import mode
from toque.models.blocks import LayerScale, Residual
from toque.models.signal import Signal, signal

__all__ = [
    "Signal",
    "delta_orthogonal",
    "dirac",
    "fixup",
    "glorot",
    "he",
    "lsuv",
    "materialise",
    "orthogonal",
    "signal",
    "truncated_normal",
    "whiten",
    "zero",
    "zero_init_residual",
]

_WITH_WEIGHTS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def he(tensor: torch.Tensor) -> None:
    """Normal, variance 2 / fan-in, for ReLU (He 2015, arXiv:1502.01852, eq. 10)."""
    nn.init.kaiming_normal_(tensor, nonlinearity="relu")


def glorot(tensor: torch.Tensor) -> None:
    """Uniform, variance 2 / (fan-in + fan-out) (Glorot & Bengio 2010, eq. 16)."""
    nn.init.xavier_uniform_(tensor)


def truncated_normal(tensor: torch.Tensor) -> None:
    """Normal with standard deviation 0.02, cut at two of them, as in vision transformers."""
    nn.init.trunc_normal_(tensor, std=0.02, a=-0.04, b=0.04)


def orthogonal(tensor: torch.Tensor) -> None:
    """Rows orthogonal over input channels and kernel positions (Saxe 2013, arXiv:1312.6120)."""
    nn.init.orthogonal_(tensor)


def dirac(tensor: torch.Tensor) -> None:
    """A convolution that passes its channels on, as far as it has as many."""
    nn.init.dirac_(tensor)


@torch.no_grad()
def delta_orthogonal(tensor: torch.Tensor) -> None:
    """Orthogonal in the kernel's middle, zero around: keeps the length of every signal.

    Shape:  [O, I, k, k] with O >= I
    Raises: ValueError: another rank, or O < I
    Source: Xiao 2018, arXiv:1806.05393, section 2.4
    """
    if tensor.ndim != 4 or tensor.shape[0] < tensor.shape[1]:
        raise checks.invalid(
            "delta_orthogonal", "tensor", "[O, I, k, k] with O >= I", list(tensor.shape),
            "Use orthogonal where the channels shrink.",
        )  # fmt: skip
    tensor.zero_()
    middle = torch.empty(tensor.shape[:2], dtype=tensor.dtype, device=tensor.device)
    nn.init.orthogonal_(middle)
    tensor[:, :, tensor.shape[2] // 2, tensor.shape[3] // 2] = middle


def zero(tensor: torch.Tensor) -> None:
    """All zeros."""
    nn.init.zeros_(tensor)


@torch.no_grad()
def zero_init_residual(model: nn.Module) -> int:
    """Start every Residual as its shortcut: the body's last norm (or layer) is set to zero.

    Returns the number of bodies. Parts of other libraries are not known and not changed.
    Source: Goyal 2017, arXiv:1706.02677, section 5.1
    """
    bodies = 0
    for part in model.modules():
        if isinstance(part, Residual) and (last := _last_weight(part.body)) is not None:
            nn.init.zeros_(last)
            bodies += 1
    return bodies


@torch.no_grad()
def fixup(model: nn.Module) -> int:
    """For residual networks without norms: the last layer of each body zero, the others shrunk.

    With L bodies of m layers each, the weights but the last are multiplied by L^(-1 / (2 m - 2));
    the last linear layer of the model is zero. The paper's scalar biases and multipliers are left
    out. Returns L.
    Raises: ValueError: the model has no Residual part with two layers or more
    Source: Zhang 2019, arXiv:1901.09321, section 3
    """
    bodies = [part.body for part in model.modules() if isinstance(part, Residual)]
    rows = [[m for m in body.modules() if isinstance(m, _WITH_WEIGHTS)] for body in bodies]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise checks.invalid(
            "fixup", "model", "one with Residual parts of two layers or more", type(model).__name__,
            "Use lsuv for other networks.",
        )  # fmt: skip
    for row in rows:
        for layer in row[:-1]:
            he(layer.weight)
            layer.weight.mul_(len(rows) ** (-1 / (2 * len(row) - 2)))
        nn.init.zeros_(row[-1].weight)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if linear:
        nn.init.zeros_(linear[-1].weight)
    return len(rows)


@torch.no_grad()
def lsuv(model: nn.Module, images: torch.Tensor, *, tolerance: float = 0.02) -> dict[str, float]:
    """Layer by layer, scale orthogonal weights until the outputs on `images` have variance 1.

    The last layer keeps the standard deviation that its orthogonal weights give. Returns the
    standard deviation reached by each layer.

    Args:    tolerance: of the standard deviation; ten corrections a layer at most
    Source:  Mishkin & Matas 2015, arXiv:1511.06422, algorithm 1
    """
    order: list[str] = []
    paths = {m: path for path, m in model.named_modules() if isinstance(m, _WITH_WEIGHTS)}
    hooks = [m.register_forward_hook(lambda m, given, out: order.append(paths[m])) for m in paths]
    layers = {path: m for m, path in paths.items()}
    reached: dict[str, float] = {}
    with mode(model, False):
        model(images)
        for hook in hooks:
            hook.remove()
        for path in dict.fromkeys(order):
            layer = layers[path]
            nn.init.orthogonal_(layer.weight)
            for _ in range(10):
                reached[path] = _deviation(model, layer, images)
                if path == order[-1] or abs(reached[path] - 1) < tolerance or reached[path] == 0:
                    break
                layer.weight.div_(reached[path])
    return reached


@torch.no_grad()
def whiten(conv: nn.Conv2d, images: torch.Tensor, *, ridge: float = 5e-4) -> None:
    """Make a first convolution whiten image patches: its outputs are uncorrelated, of variance 1.

    The filters are the eigenvectors of the patches' covariance divided by the root of their
    eigenvalue (the largest first), then the same with the other sign, as many as there are outputs.

    Shape:   conv.weight [O, I, k, k], O <= 2 I k^2; images [B, I, H, W], normalised as in training
    Args:    ridge: added to the eigenvalues
    Raises:  ValueError: a grouped convolution, more outputs than filters, other channels
    Source:  Jordan 2024, arXiv:2404.00498, section 3.2
    """
    size = conv.weight[0].numel()
    if conv.groups != 1 or conv.out_channels > 2 * size or images.shape[1] != conv.in_channels:
        raise checks.invalid(
            "whiten", "conv", f"an ordinary convolution of {images.shape[1]} channels with up to "
            f"{2 * size} outputs", conv, "Widen its kernel or take fewer outputs.",
        )  # fmt: skip
    patches = F.unfold(images.double(), conv.kernel_size).transpose(1, 2).reshape(-1, size)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + ridge).sqrt()).T.flip(0)
    both = torch.cat([filters, -filters])[: conv.out_channels]
    conv.weight.copy_(both.reshape(conv.weight.shape))


def materialise(model: nn.Module, device: torch.device | str) -> None:
    """Give a model built on the meta device real weights, layer by layer, in place.

    Every layer's own `reset_parameters` draws them. Many models set weights in other places than
    that (class tokens, position tables); a tensor that nobody wrote is an error, not a surprise.

    Raises:  ValueError: tensors that no layer initialises; initialise those by a rule, or build the
             model on the real device
    Example: >>> with torch.device("meta"):
             ...     model = create("resnet50", num_classes=10)
             >>> materialise(model, "cpu")
    """
    own = [
        (path, module) for path, module in model.named_modules() if any(True for _ in _own(module))
    ]
    for _, module in own:
        module.to_empty(device=device, recurse=False)
        with torch.no_grad():
            for _, tensor in _own(module):
                if tensor.is_floating_point():
                    tensor.fill_(math.nan)
    for _, module in own:
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    left = [
        f"{path}.{name}".lstrip(".")
        for path, module in own
        for name, tensor in _own(module)
        if tensor.is_floating_point() and bool(tensor.isnan().any())
    ]
    if left:
        raise checks.invalid(
            "materialise", "every tensor", "written by its layer's reset_parameters",
            f"{len(left)} that were not, such as {', '.join(left[:3])}",
            "Build the model on the real device.",
        )  # fmt: skip


def _own(module: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _deviation(model: nn.Module, layer: nn.Module, images: torch.Tensor) -> float:
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda m, given, out: seen.append(out))
    model(images)
    hook.remove()
    return float(seen[0].std())


def _last_weight(body: nn.Module) -> torch.Tensor | None:
    kinds = (*_WITH_WEIGHTS, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, LayerScale)
    layers = [m for m in body.modules() if isinstance(m, kinds) and m.weight is not None]
    return layers[-1].weight if layers else None
