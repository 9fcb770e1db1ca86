"""The layers: proved by verify, equal to their plain form, and keeping what they promise."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from toque import layers, random
from toque.layers import trace_saved, verify
from toque.layers.frozen import pack_bits, unpack_bits
from toque.layers.prologue import ACTIVATIONS


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def proved(layer, *inputs, skip=("torch.compile",), **settings):
    report = verify(layer, *inputs, skip=skip, **settings)
    assert report.passed, str(report)


# ---- prologues ------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_act_linear_is_the_two_steps_in_fewer_bytes(activation):
    x, w, b = (
        numbers(6, 8).requires_grad_(),
        nn.Parameter(numbers(5, 4 if activation == "swiglu" else 8)),
        nn.Parameter(numbers(5)),
    )
    results, saved = [], []
    for layer in (layers.act_linear, lambda x, w, b, a: F.linear(ACTIVATIONS[a](x), w, b)):
        out = layer(x, w, b, activation)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), (x, w, b))])
        saved.append(trace_saved(layer, x, w, b, activation).saved_bytes)
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))
    # For one ReLU there is nothing to gain.
    assert saved[0] == saved[1] if activation == "relu" else saved[0] < saved[1]


def test_act_linear_is_proved():
    proved(layers.act_linear, numbers(3, 4), numbers(5, 4, seed=1), numbers(5))
    proved(layers.ActLinearMlp(3, 4, act="swiglu"), numbers(2, 3), skip=())


def test_norm_act_conv_moves_the_statistics_once_and_keeps_one_image():
    x = numbers(2, 4, 6, 6).requires_grad_()
    conv = nn.Conv2d(4, 4, 3)
    results, saved = [], []
    for fast in (True, False):
        norm = nn.BatchNorm2d(4)

        def run(x, norm=norm, fast=fast):
            if fast:
                return layers.norm_act_conv(x, norm, "silu", conv)
            return conv(F.silu(norm(x)))

        out = run(x)
        gradients = torch.autograd.grad(
            out.square().sum(), [x, *norm.parameters(), *conv.parameters()]
        )
        results.append(
            [out.detach(), *gradients, norm.running_mean.clone(), norm.running_var.clone()]
        )
        saved.append(trace_saved(run, x).saved_bytes)
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))
    assert saved[0] < 0.25 * saved[1]


def test_norm_linear_equals_the_two_steps():
    x, norm, linear = numbers(5, 4).requires_grad_(), nn.LayerNorm(4), nn.Linear(4, 3)
    fast, plain = layers.norm_linear(x, norm, linear), linear(norm(x))
    for a, b in zip(
        torch.autograd.grad(fast.sum(), linear.parameters()),
        torch.autograd.grad(plain.sum(), linear.parameters()),
        strict=True,
    ):
        assert torch.equal(a, b)


# ---- estimators ------------------------------------------------------------------------------------


def slope(function):
    x = numbers(4, 3).requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def test_reverse_gradient_is_itself_and_turns_the_gradient():
    x = numbers(4, 3)
    assert torch.equal(layers.reverse_gradient(x, 2.0), x)
    assert torch.equal(slope(lambda x: layers.reverse_gradient(x, 2.0)), torch.full((4, 3), -2.0))


def test_straight_through_rounds_and_passes_the_gradient():
    x = numbers(4, 3)
    assert torch.equal(layers.straight_through(x, torch.round), x.round())
    assert torch.equal(slope(lambda x: layers.straight_through(x, torch.round)), torch.ones(4, 3))


@pytest.mark.parametrize(
    "layer", [layers.reverse_gradient, lambda x: layers.straight_through(x, torch.round)]
)
def test_estimators_keep_their_gradient_in_every_transform(layer):
    expected = slope(layer)
    x = numbers(4, 3)
    assert torch.equal(torch.func.grad(lambda x: layer(x).sum())(x), expected)
    compiled = torch.compile(torch.func.grad(lambda x: layer(x).sum()), backend="aot_eager")
    assert torch.equal(compiled(x), expected)
    torch._dynamo.reset()
    report = verify(layer, x, skip=["torch.compile"])
    # What it does on purpose is all that verify may say against it.
    derivatives = {
        "gradients",
        "gradients at other scales",
        "other sizes",
        "second derivatives",
        "forward-mode AD",
    }
    assert {f.check for f in report.failures} <= derivatives, str(report)


def test_the_quantiser_rounds_to_its_levels_and_learns_its_step():
    layer = layers.LearnedStepQuantiser(bits=3)
    x = numbers(50, 4).requires_grad_()
    out = layer(x)
    levels = out / layer.step
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert levels.min() >= -4 and levels.max() <= 3
    step = layer.step.detach().clone()
    out.square().sum().backward()
    assert layer.step.grad.abs() > 0 and x.grad.abs().sum() > 0
    layer(10 * x)
    assert torch.equal(layer.step, step)  # set once
    with pytest.raises(ValueError, match=r"bits must be in 2 \.\. 8; got 1"):
        layers.LearnedStepQuantiser(bits=1)


# ---- stochastic depth -------------------------------------------------------------------------------


def test_subset_depth_adds_to_a_share_of_the_images_with_the_right_expectation():
    class Count(nn.Module):
        def forward(self, x):
            self.seen = len(x)
            return torch.ones_like(x)

    layer = layers.SubsetDepth(Count(), 0.4)
    random.seed_torch(0, "step")
    out = layer(torch.zeros(10, 2))
    assert layer.branch.seen == 6
    assert sorted(set(out.flatten().tolist())) == [0.0, pytest.approx(10 / 6)]
    total = sum(layer(torch.zeros(10, 2)) for _ in range(400)) / 400
    assert (total - 1).abs().max() < 0.15
    assert torch.equal(layer.eval()(torch.zeros(10, 2)), torch.ones(10, 2))
    assert torch.equal(layers.SubsetDepth(Count(), 0.0)(torch.zeros(3, 2)), torch.ones(3, 2))


def test_subset_depth_is_proved():
    proved(
        layers.SubsetDepth(nn.Linear(3, 3), 0.5),
        numbers(4, 3),
        skip=["torch.compile", "vmap", "torch.func.grad"],
    )


# ---- channels ---------------------------------------------------------------------------------------


def test_rms_norm_2d_is_rms_norm_over_channels():
    layer = layers.RMSNorm2d(5)
    nn.init.uniform_(layer.weight)
    x = numbers(2, 5, 3, 4)
    expected = F.rms_norm(x.movedim(1, -1), (5,), layer.weight, layer.eps).movedim(-1, 1)
    torch.testing.assert_close(layer(x), expected)
    proved(layer, x, skip=())


def test_gem_goes_from_the_mean_to_the_maximum():
    x = numbers(2, 3, 5, 5).abs() + 0.1
    torch.testing.assert_close(layers.GeM(1.0, flatten=True)(x), x.mean((2, 3)))
    high = layers.GeM(60.0).double()(x.double())
    torch.testing.assert_close(high, x.double().amax((2, 3), keepdim=True), rtol=0.1, atol=0)
    proved(layers.GeM(), x)


def test_blur_pool_keeps_a_flat_image_flat_and_keeps_no_image():
    layer = layers.BlurPool()
    torch.testing.assert_close(layer(torch.ones(1, 2, 5, 7)), torch.ones(1, 2, 3, 4))
    x = numbers(2, 3, 6, 8).requires_grad_()
    padded = F.pad(x, (1, 1, 1, 1), "reflect")
    row = torch.tensor([1.0, 2.0, 1.0])
    weight = (torch.outer(row, row) / 16).expand(3, 1, 3, 3)
    torch.testing.assert_close(layer(x), F.conv2d(padded, weight, stride=2, groups=3))
    plain = trace_saved(
        lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), weight, stride=2, groups=3), x
    )
    assert trace_saved(layer, x).saved_bytes < 0.2 * plain.saved_bytes
    proved(layer, x.detach())


# ---- frozen -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 8, 13])
def test_bits_come_back(count):
    mask = numbers(count) > 0
    assert len(pack_bits(mask)) == -(-count // 8)
    assert torch.equal(unpack_bits(pack_bits(mask), mask.shape), mask)


def test_a_frozen_backbone_gives_the_same_gradient_for_its_input():
    def made():
        random.seed_torch(0, "model")
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 4, 3, stride=2),
            nn.ReLU(),
        )
        return net.requires_grad_(False).eval()

    x = numbers(2, 3, 9, 9).requires_grad_()
    plain, frozen = made(), layers.freeze_for_input_grad(made())
    gradients = [torch.autograd.grad(net(x).square().sum(), x)[0] for net in (plain, frozen)]
    torch.testing.assert_close(*gradients)
    saved = [trace_saved(net, x).saved_bytes for net in (plain, frozen)]
    assert saved[1] < 0.1 * saved[0], saved
    proved(frozen, x.detach(), skip=["torch.compile"])
    with pytest.raises(ValueError, match="Conv2d, BatchNorm2d or ReLU"):
        layers.freeze_for_input_grad(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: layers.act_linear(numbers(2, 3), numbers(2, 3), None, "gelo"), "Did you mean gelu"),
        (lambda: layers.SubsetDepth(nn.Identity(), 1.0), "drop must be in 0"),
        (lambda: layers.RMSNorm2d(3)(numbers(2, 4, 1, 1)), r"\[B, 3, H, W\]; got \[2, 4, 1, 1\]"),
        (lambda: layers.GeM(0.0), "power must be > 0"),
        (lambda: layers.BlurPool(9), r"size must be in 2 \.\. 7"),
    ],
)  # fmt: skip
def test_bad_input_is_said_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
