"""Right layers: torch.nn's own, on which verify must stay silent.

Left out because verify is right about them (torch 2.14.1): RReLU (wrong gradients under checkpoint
and offloading), weight_norm (wrong second derivative; gradgradcheck agrees), SiLU(inplace=True)
(its compiled backward raises), PixelShuffle (backward of an empty batch raises), GaussianNLLLoss
(reads values), SoftMarginLoss (overflows), spectral_norm (holds u and v constant by design).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def positive(*shape: int) -> Tensor:
    return numbers(*shape).abs() + 0.1


def classes(count: int, *shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape) % count


def only_first(first: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """The first is differentiated, the others are targets."""
    return first.requires_grad_(), *others


MODULES: dict[str, tuple[Any, ...]] = {
    "Linear": (nn.Linear(5, 4), numbers(3, 5)),
    "Bilinear": (nn.Bilinear(3, 4, 2), numbers(3, 3), numbers(3, 4)),
    "Identity": (nn.Identity(), numbers(3, 4)),
    "Conv1d": (nn.Conv1d(3, 4, 3, padding=1), numbers(2, 3, 7)),
    "Conv2d": (nn.Conv2d(4, 4, 3, stride=2, groups=2), numbers(2, 4, 6, 6)),
    "Conv3d": (nn.Conv3d(2, 2, 2), numbers(2, 2, 3, 3, 3)),
    "ConvTranspose2d": (nn.ConvTranspose2d(3, 2, 3, stride=2), numbers(2, 3, 3, 3)),
    "BatchNorm1d": (nn.BatchNorm1d(4), numbers(5, 4)),
    "BatchNorm2d": (nn.BatchNorm2d(3), numbers(3, 3, 4, 4)),
    "GroupNorm": (nn.GroupNorm(2, 4), numbers(2, 4, 3, 3)),
    "InstanceNorm2d": (nn.InstanceNorm2d(3, affine=True, track_running_stats=True), numbers(2, 3, 4, 4)),
    "LayerNorm": (nn.LayerNorm(5), numbers(3, 5)),
    "RMSNorm": (nn.RMSNorm(5), numbers(3, 5)),
    "LocalResponseNorm": (nn.LocalResponseNorm(2), numbers(2, 4, 3, 3)),
    "ReLU": (nn.ReLU(), numbers(3, 5)),
    "ReLU in place": (nn.ReLU(inplace=True), numbers(3, 5)),
    "GELU": (nn.GELU(), numbers(3, 5)),
    "GELU tanh": (nn.GELU("tanh"), numbers(3, 5)),
    "SiLU": (nn.SiLU(), numbers(3, 5)),
    "Mish": (nn.Mish(), numbers(3, 5)),
    "Hardswish": (nn.Hardswish(), numbers(3, 5)),
    "Sigmoid": (nn.Sigmoid(), numbers(3, 5)),
    "Tanh": (nn.Tanh(), numbers(3, 5)),
    "Softplus": (nn.Softplus(), numbers(3, 5)),
    "PReLU": (nn.PReLU(5), numbers(3, 5)),
    "ELU": (nn.ELU(), numbers(3, 5)),
    "LeakyReLU": (nn.LeakyReLU(), numbers(3, 5)),
    "Hardtanh": (nn.Hardtanh(), numbers(3, 5)),
    "GLU": (nn.GLU(), numbers(3, 6)),
    "Softmax": (nn.Softmax(-1), numbers(3, 5)),
    "LogSoftmax": (nn.LogSoftmax(-1), numbers(3, 5)),
    "MaxPool2d": (nn.MaxPool2d(2), numbers(2, 3, 4, 4)),
    "MaxPool2d with indices": (nn.MaxPool2d(2, return_indices=True), numbers(2, 3, 4, 4)),
    "AvgPool2d": (nn.AvgPool2d(2), numbers(2, 3, 4, 4)),
    "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d(2), numbers(2, 3, 5, 5)),
    "AdaptiveMaxPool2d": (nn.AdaptiveMaxPool2d(2), numbers(2, 3, 5, 5)),
    "LPPool2d": (nn.LPPool2d(2, 2), positive(2, 3, 4, 4)),
    "Upsample": (nn.Upsample(scale_factor=2, mode="bilinear"), numbers(2, 3, 3, 3)),
    "ReflectionPad2d": (nn.ReflectionPad2d(1), numbers(2, 3, 4, 4)),
    "Fold": (nn.Fold((4, 4), 2), numbers(2, 8, 9)),
    "Unfold": (nn.Unfold(2), numbers(2, 2, 4, 4)),
    "Flatten": (nn.Flatten(), numbers(2, 3, 2, 2)),
    "Unflatten": (nn.Unflatten(1, (2, 3)), numbers(2, 6)),
    "Dropout": (nn.Dropout(), numbers(4, 5)),
    "Dropout2d": (nn.Dropout2d(), numbers(4, 5, 2, 2)),
    "AlphaDropout": (nn.AlphaDropout(), numbers(4, 5)),
    "Embedding": (nn.Embedding(7, 4), classes(7, 3, 2)),
    "EmbeddingBag": (nn.EmbeddingBag(7, 4), classes(7, 3, 2)),
    "LSTM": (nn.LSTM(3, 4, batch_first=True), numbers(2, 3, 3)),
    "GRU": (nn.GRU(3, 4, batch_first=True), numbers(2, 3, 3)),
    "RNNCell": (nn.RNNCell(3, 4), numbers(2, 3), numbers(2, 4)),
    "MultiheadAttention": (
        nn.MultiheadAttention(4, 2, batch_first=True), *(numbers(2, 3, 4) for _ in range(3)),
    ),
    "MSELoss": (nn.MSELoss(), numbers(3, 5), numbers(5, 3).t()),
    "L1Loss": (nn.L1Loss(), numbers(3, 5), 2 * numbers(3, 5)),
    "SmoothL1Loss": (nn.SmoothL1Loss(), numbers(3, 5), 2 * numbers(3, 5)),
    "HuberLoss": (nn.HuberLoss(), numbers(3, 5), 2 * numbers(3, 5)),
    "CrossEntropyLoss": (nn.CrossEntropyLoss(), numbers(4, 5), classes(5, 4)),
    "NLLLoss": (nn.NLLLoss(), numbers(4, 5).log_softmax(-1), classes(5, 4)),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss(), numbers(3, 5), numbers(3, 5).sigmoid()),
    "KLDivLoss": (nn.KLDivLoss(reduction="batchmean"), *only_first(numbers(3, 5).log_softmax(-1), (-numbers(3, 5)).softmax(-1))),
    "CosineSimilarity": (nn.CosineSimilarity(), numbers(3, 5), numbers(5, 3).t()),
    "PairwiseDistance": (nn.PairwiseDistance(), numbers(3, 5), 2 * numbers(3, 5)),
    "TripletMarginLoss": (nn.TripletMarginLoss(), numbers(3, 5), 2 * numbers(3, 5), -numbers(3, 5)),
    "PoissonNLLLoss": (nn.PoissonNLLLoss(), *only_first(numbers(3, 5), positive(3, 5))),
}  # fmt: skip
