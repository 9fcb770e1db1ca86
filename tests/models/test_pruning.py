"""Pruning: channels that did nothing can go without a trace, whatever binds them."""

import copy

import pytest
import torch
from torch import nn

from toque import models
from toque.models import Parallel, Skip, channels, conv_norm, prune

from .agreement import unsettle

WEIGHTS = (lambda name, parameter: parameter.ndim > 1, 0.5)


def silence(model, shape):
    """Half of the channels of every set, chosen at random, write nothing and are read by nobody."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    layers = {}
    for places in channels.together(model, shape):
        layers.setdefault(frozenset((n, d) for n, d, _ in places), []).append(places)
    with torch.no_grad():
        for sets in layers.values():
            silent = torch.randperm(len(sets))[: round(len(sets) / 2)].tolist()
            for number in silent:
                for name, d, position in sets[number]:
                    if not name.endswith("running_var"):
                        tensors[name].select(d, position).zero_()
    return model


def flattened(num_classes):
    return nn.Sequential(
        conv_norm(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * 16, 10), nn.ReLU(), nn.Linear(10, num_classes),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("toque/resnet10_small", 32),  # sums
        ("toque/resnet50", 64),
        ("toque/googlenet", 64),  # joins
        ("toque/repvgg_a0", 64),  # branches, identities
        ("toque/unet_attention", 32),  # long skips, gates
        ("toque/fpn_resnet18", 64),
        ("timm/efficientnet_b0", 64),  # depthwise, squeeze and excitation
        ("torchvision/densenet121", 64),  # everything joined with everything
        (f"{__name__}:flattened", 8),
    ],
)
def test_silent_channels_go_without_a_trace(name, side):
    model = unsettle(models.create(name, num_classes=5)).double().eval()
    for module in model.modules():  # no shift, or a silent channel would speak
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.running_mean)
    silence(model, [1, 3, side, side])
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    before = model(images)
    pruned = prune(model, [1, 3, side, side], [WEIGHTS])
    torch.testing.assert_close(model(images), before)
    assert pruned.parameters[1] == models.parameters.count(model) < 0.6 * pruned.parameters[0]
    model.train()(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    copy.deepcopy(model)


def three_ways():
    branches = {"a": conv_norm(8, 8, 3), "b": nn.Sequential(conv_norm(8, 6, 1), conv_norm(6, 8, 3))}
    return nn.Sequential(
        conv_norm(3, 8, 3, activation=nn.ReLU()), Skip(Parallel(branches, "sum"), "concat"),
        conv_norm(16, 12, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip


def test_rules_say_what_is_pruned_and_the_last_one_wins():
    model = three_ways()
    pruned = prune(model, [1, 3, 16, 16], [("1.*", 0.5), ("1.branches.body.branches.b.0.*", 0.0)])
    # The sum's eight channels become four in both branches; the narrow middle and the stem stay.
    assert pruned.channels == {
        "1.branches.body.branches.a.conv.weight": (8, 4),
        "1.branches.body.branches.b.1.conv.weight": (8, 4),
    }
    assert model[2].conv.in_channels == 12 and model(torch.zeros(2, 3, 16, 16)).shape == (2, 4)
    assert "8 channels, 4 left" in str(pruned)


def test_the_weakest_channels_go_first():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1))
    with torch.no_grad():
        for position, size in enumerate([5.0, 0.1, 4.0, 0.2, 3.0, 0.3]):
            model[0].weight[position] = size
        model[2].weight.fill_(1.0)
    first = model[0].weight.detach().clone()
    prune(model, [1, 3, 8, 8], [("0.*", 0.5)])
    assert torch.equal(model[0].weight, first[[0, 2, 4]])


def test_what_is_bound_is_named():
    model = three_ways()
    pruned = prune(model, [1, 3, 16, 16], [("5.weight", 0.5)])
    assert pruned.bound == ("5.weight",) and model[5].out_features == 4
    assert "5.weight: bound" in str(pruned)


def test_other_numbers_follow():
    model = models.create("resnet10_small", num_classes=4)
    prune(model, [1, 3, 32, 32], [WEIGHTS])
    assert model.num_features == model.head.in_features == 64
    model.reset_classifier(7)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize(
    ("rules", "words"),
    [([("*", 1.0)], "0 <= fraction < 1; got 1.0"), ([("haed.*", 0.5)], r"Did you mean head\.")],
)
def test_prune_says_what_is_wrong(rules, words):
    with pytest.raises(ValueError, match=words):
        prune(models.create("resnet10_small", num_classes=4), [1, 3, 32, 32], rules)
