"""BatchNorm over the whole batch of all ranks, also on the CPU, where torch's own does not run.

Without it every rank normalises by its own part of the batch, and the run is another one on every
number of ranks: gradients differ by tens of percent, not by rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from toque import checks


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm whose mean and variance in training are those of the images of all ranks.

    Parts may be uneven. The variance is taken about the global mean, in a second pass, which keeps
    the digits that a difference of sums loses.

    Shape: [B, C, ...] -> [B, C, ...]
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        if input.ndim < 2:
            raise checks.invalid(
                "GlobalBatchNorm", "input", "[B, C, …]", list(input.shape), "Add the batch axis."
            )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        self._check_input_dim(input)
        if not self.training:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0,
                self.eps,
            )  # fmt: skip
        axes = [axis for axis in range(input.ndim) if axis != 1]
        here = input.new_full((1,), input.numel() // input.shape[1])
        sums = _sum(torch.cat([input.sum(axes), here]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        shape = [1, -1] + [1] * (input.ndim - 2)
        centred = input - mean.view(shape)
        variance = _sum(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), count)
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if not self.affine:
            return normal
        return normal * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class _Sum(torch.autograd.Function):
    """The sum over the ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _summed(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _sum(value: Tensor) -> Tensor:
    summed: Tensor = _Sum.apply(value)
    return summed


def _summed(value: Tensor) -> Tensor:
    import torch.distributed as dist

    value = value.contiguous().clone()
    if not isinstance(value, FakeTensor):  # with which memory is predicted, by each rank alone
        dist.all_reduce(value)
    return value


def synchronise(network: nn.Module) -> nn.Module:
    """The network with every BatchNorm replaced by one over all ranks; names and state stay."""
    if next(network.parameters()).is_cuda:
        convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
        synced: nn.Module = convert(network)
        return synced
    _replace_below(network)
    return network


def _replace_below(network: nn.Module) -> None:
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm) and not isinstance(child, GlobalBatchNorm):
            setattr(network, name, _replaced(child))
        else:
            _replace_below(child)


def _replaced(norm: _BatchNorm) -> GlobalBatchNorm:
    fresh = GlobalBatchNorm(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    fresh._parameters = norm._parameters
    fresh._buffers = norm._buffers
    return fresh.train(norm.training)
