"""compare_gradients tells rounding from mistakes, and compiled gradients differ by rounding only."""

import copy
import math

import pytest
import torch
from torch import nn

from toque import random
from toque.layers import compare_gradients, save_memory


def net():
    """Two blocks whose last BatchNorm's bias goes into the next BatchNorm: its gradient is zero."""
    random.seed_torch(0, "test")
    parts = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)]
    for _ in range(2):
        parts += [nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU()]
        parts += [nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8)]
    return nn.Sequential(*parts, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def gradients(model, dtype=torch.float32):
    images = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    loss = nn.functional.cross_entropy(model(images.to(dtype)), torch.arange(8) % 5)
    names = [name.removeprefix("_orig_mod.") for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))


@pytest.fixture(scope="module")
def plain():
    return gradients(net())


@pytest.fixture(scope="module")
def exact():
    return gradients(net().double(), torch.float64)


def test_gradients_that_cancel_are_called_zero(plain, exact):
    errors = compare_gradients(plain, plain, exact)
    assert errors.zero == ("1.bias", "6.bias")  # before the next convolution and BatchNorm
    assert errors.worst == errors.plain_worst < 1e-5
    assert errors.times_plain == pytest.approx(1.0)
    # What comparing elements of two float32 computations says of them: they differ by their size.
    again = gradients(net().to(memory_format=torch.channels_last))
    assert (again["6.bias"] - plain["6.bias"]).norm() > 0.1 * plain["6.bias"].norm()
    assert compare_gradients(again, plain, exact).worst < 1e-4


def test_a_mistake_is_many_times_the_rounding(plain, exact):
    wrong = dict(plain)
    wrong["3.weight"] = 1.001 * wrong["3.weight"]
    errors = compare_gradients(wrong, plain, exact)
    assert errors.worst_name == errors.times_plain_name == "3.weight"
    assert errors.worst == pytest.approx(1e-3, rel=0.01) and errors.times_plain > 100
    # Also where the gradient is zero.
    wrong = plain | {"6.bias": plain["6.bias"] + 1e-4}
    assert compare_gradients(wrong, plain, exact).times_plain_name == "6.bias"
    assert compare_gradients(wrong, plain, exact).times_plain > 100


def test_nan_is_an_infinite_error(plain, exact):
    wrong = plain | {"0.weight": plain["0.weight"] * math.nan}
    assert compare_gradients(wrong, plain, exact).worst == math.inf


def test_other_names_are_refused(plain, exact):
    with pytest.raises(ValueError, match=r"of the same names, one or more; got 0\.weight"):
        compare_gradients({k: v for k, v in plain.items() if k != "0.weight"}, plain, exact)
    with pytest.raises(ValueError, match="got none"):
        compare_gradients({}, {}, {})


def test_save_memory_compiled_differs_by_rounding(plain, exact):
    import torch._functorch.config as config

    with config.patch(activation_memory_budget=1.0):
        model = save_memory(net(), compiled=True, budget=0.3)
        # Its operations and its recomputation are those of the default backend; no C++ is built.
        compiled = torch.compile(model, backend="aot_eager_decomp_partition", fullgraph=True)
        errors = compare_gradients(gradients(compiled), plain, exact)
    torch._dynamo.reset()
    assert errors.worst < 1e-4, str(errors)  # 1e-5 is usual, 1e-2 would be bfloat16's
    assert errors.zero == ("1.bias", "6.bias")


def test_save_memory_in_eager_changes_no_bit(plain):
    found = gradients(save_memory(copy.deepcopy(net()), min_bytes=0))
    assert all(torch.equal(found[name], plain[name]) for name in plain)
