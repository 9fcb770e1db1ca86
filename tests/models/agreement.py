"""Two models with the same weights give the same answers, gradients and statistics."""

import torch
from torch import nn


def carry(source, target):
    """Weights and statistics of `source`, in the order of its modules, into `target`."""
    own, theirs = target.state_dict(), source.state_dict()
    target.load_state_dict(dict(zip(own, theirs.values(), strict=True)))


def unsettle(model, seed=0):
    """Scales and statistics that differ from channel to channel, as after training."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.0)
                module.bias.uniform_(-0.1, 0.1)
    return model


def assert_agreement(own, theirs, shape, carry=carry):
    """In float64, so that only a difference of architecture can show."""
    theirs, own = unsettle(theirs).double(), own.double()
    carry(theirs, own)
    images = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(own.eval()(images), theirs.eval()(images), rtol=1e-9, atol=1e-9)
    for module in [*own.modules(), *theirs.modules()]:
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # its draws are the same only in the same order of calls
    for model in (own, theirs):
        model.train()(images).square().sum().backward()
    mine = sorted((p.grad.norm().item(), tuple(p.shape)) for p in own.parameters())
    other = sorted((p.grad.norm().item(), tuple(p.shape)) for p in theirs.parameters())
    assert [shape for _, shape in mine] == [shape for _, shape in other]
    torch.testing.assert_close(
        torch.tensor([g for g, _ in mine]),
        torch.tensor([g for g, _ in other]),
        rtol=1e-6,
        atol=1e-9,
    )
    torch.testing.assert_close(own.eval()(images), theirs.eval()(images), rtol=1e-8, atol=1e-8)
