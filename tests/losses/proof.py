"""The checklist that every loss of this room passes: verify, half precision, other reductions."""

import torch

from toque.layers import verify

SLOW = ("torch.compile",)


def prove(function, *inputs, skip=(), compiles=False):
    """verify on the first input (predictions); the others are targets unless they require gradients."""
    first = inputs[0].clone().requires_grad_()
    skipped = (*skip, *(() if compiles else SLOW))
    report = verify(function, first, *inputs[1:], skip=skipped)
    assert report.passed, str(report)
    return report


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def classes(count, *shape, seed=0):
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))
