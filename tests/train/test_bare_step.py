"""An optimiser's step without torch's wrapping: the same weights, and whoever watches still sees."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.optim import optimizer as hooks
from torch.profiler import profile

from toque.train.optimisation.bare import bare_step
from toque.train.optimisation.optimizers import Optimizers

KINDS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "fused sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, fused=True),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "muon": lambda p: torch.optim.Muon(p, lr=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
}


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False))


def trained(one, take_step, steps=4):
    torch.manual_seed(1)
    for _ in range(steps):
        one.zero_grad()
        one(torch.randn(5, 4)).square().sum().backward()
        with torch.no_grad():
            take_step()
    return [p.detach().clone() for p in one.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_those_of_torchs_own_step(kind):
    mine, theirs = model(), model()
    before = copy.deepcopy(mine)
    optimizers = Optimizers({"default": KINDS[kind](mine.parameters())})
    good = torch.zeros(())
    found = trained(mine, lambda: optimizers.step(good))
    torch.testing.assert_close(
        found, trained(theirs, KINDS[kind](theirs.parameters()).step), rtol=0, atol=0
    )
    assert not torch.equal(found[0], before[0].weight)


@pytest.mark.parametrize("where", ["own", "global"])
@pytest.mark.parametrize("when", ["pre", "post"])
def test_a_hook_sees_every_step(where, when):
    one, seen = model(), []
    part = KINDS["sgd"](one.parameters())
    step = bare_step(part)

    def hook(optimizer, *_):
        seen.append(optimizer)

    trained(one, step, 1)
    name = f"register_optimizer_step_{when}_hook"
    register = (
        getattr(hooks, name) if where == "global" else getattr(part, name.replace("optimizer_", ""))
    )
    handle = register(hook)
    trained(one, step, 3)
    handle.remove()
    trained(one, step, 1)
    assert seen == [part] * 3


def test_a_profiler_finds_the_mark():
    one = model()
    step = bare_step(KINDS["sgd"](one.parameters()))
    trained(one, step, 1)
    with profile(acc_events=True) as found:
        trained(one, step, 2)
    counts = {event.key: event.count for event in found.key_averages()}
    assert counts["Optimizer.step#SGD.step"] == 2


def test_the_wrapper_of_another_library_stays():
    calls = []

    def counted(step):
        @functools.wraps(step)
        def wrapper(self, closure=None):
            calls.append(self)
            return step(self, closure)

        return wrapper

    class Counting(torch.optim.SGD):
        step = counted(torch.optim.SGD.step)

    one = model()
    part = Counting(one.parameters(), lr=0.1)
    trained(one, bare_step(part), 2)
    assert calls == [part] * 2
