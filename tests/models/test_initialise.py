"""Initial weights: the moments they promise, and a report that tells good from bad."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from toque import models
from toque.models import Residual, initialise, parameters, signal
from toque.models.parameters import Rule


def test_schemes_have_the_moments_they_promise():
    torch.manual_seed(0)
    weight = torch.empty(256, 128, 3, 3)
    initialise.he(weight)
    assert weight.var().item() == pytest.approx(2 / (128 * 9), rel=0.02)
    initialise.glorot(weight)
    assert weight.var().item() == pytest.approx(2 / ((128 + 256) * 9), rel=0.02)
    initialise.truncated_normal(weight)
    assert weight.abs().max() <= 0.04 and weight.std().item() == pytest.approx(0.0176, rel=0.02)
    initialise.orthogonal(weight)
    rows = weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(256), atol=1e-4, rtol=0)
    initialise.zero(weight)
    assert not weight.any()


def test_dirac_and_delta_orthogonal_keep_the_signal():
    images = torch.randn(2, 6, 7, 7)
    weight = torch.empty(6, 6, 3, 3)
    initialise.dirac(weight)
    torch.testing.assert_close(F.conv2d(images, weight, padding=1), images)
    initialise.delta_orthogonal(weight)
    out = F.conv2d(images, weight, padding=1)
    torch.testing.assert_close(out.norm(dim=1), images.norm(dim=1))


def test_schemes_stand_in_rules():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3))
    rules = [
        Rule(lambda n, p: p.ndim == 4, initialise=initialise.zero),
        Rule("2.weight", initialise=initialise.delta_orthogonal),
    ]
    parameters.initialise(model, rules)
    assert not model[0].weight.any()
    torch.testing.assert_close(
        model[2].weight[:, :, 1, 1] @ model[2].weight[:, :, 1, 1].T, torch.eye(6), atol=1e-5, rtol=0
    )


def test_zero_initialised_residuals_start_as_their_shortcuts():
    model = models.create("resnet10_small", num_classes=3, in_channels=1).eval()
    assert initialise.zero_init_residual(model) == 4
    block, x = model.features.stage1[0], torch.rand(2, 16, 8, 8)
    torch.testing.assert_close(block(x), x)


def plain_residual(depth=8, width=12):
    def body():
        return nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    blocks = (Residual(body(), after=nn.ReLU()) for _ in range(depth))
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4),
    )  # fmt: skip


def test_fixup_scales_with_the_depth():
    torch.manual_seed(0)
    model = plain_residual(depth=16, width=32)
    assert initialise.fixup(model) == 16
    first, last = model[2].body[0].weight, model[2].body[2].weight
    assert not last.any() and not model[-1].weight.any()
    # m = 2 layers in a body: 16^(-1/2) of He's deviation.
    assert first.std().item() == pytest.approx(math.sqrt(2 / (32 * 9)) / 4, rel=0.05)


def test_lsuv_gives_every_layer_unit_variance():
    torch.manual_seed(0)
    model, images = plain_residual(), torch.randn(16, 3, 12, 12)
    reached = initialise.lsuv(model, images)
    hidden = list(reached)[:-1]
    assert len(reached) == 18
    seen = {}
    for path in hidden:
        model.get_submodule(path).register_forward_hook(
            lambda m, i, o, p=path: seen.update({p: o.std().item()})
        )
    model.eval()(images)
    assert all(abs(value - 1) < 0.021 for value in seen.values())


def test_whitened_patches_are_uncorrelated_with_unit_variance():
    torch.manual_seed(0)
    mix = torch.randn(3, 3)
    images = F.avg_pool2d(torch.randn(64, 3, 20, 20), 3, 1)
    images = torch.einsum("ij,bjhw->bihw", mix, images)
    model = models.create("airbench94", num_classes=10)
    conv = model.features.whiten
    initialise.whiten(conv, images, ridge=1e-9)
    out = F.conv2d(images, conv.weight).transpose(0, 1).reshape(24, -1)
    half = out[:12]
    torch.testing.assert_close(half @ half.T / half.shape[1], torch.eye(12), atol=2e-3, rtol=0)
    torch.testing.assert_close(out[12:], -half)
    # The first direction is the one in which patches differ most.
    variances = [float((half[i] / 1).norm() / conv.weight[i].norm()) for i in (0, 11)]
    assert variances[0] > variances[1]


@pytest.mark.parametrize(
    "name", ["resnet10_small", "resnet50", "repvgg_a0", "unet_attention", "vit_tiny", "googlenet"]
)
def test_own_models_can_be_built_without_memory_and_made_real_later(name):
    with torch.device("meta"):
        model = models.create(name, num_classes=5)
    torch.manual_seed(0)
    initialise.materialise(model, "cpu")
    assert not any(
        t.is_meta or (t.is_floating_point() and t.isnan().any())
        for t in model.state_dict().values()
    )
    size = 224 if "vit" in name else 64
    assert torch.isfinite(model.eval()(torch.randn(1, 3, size, size))).all()


def test_materialise_names_what_nobody_initialises():
    with torch.device("meta"):
        model = models.create("timm/vit_tiny_patch16_224", num_classes=5)
    with pytest.raises(ValueError, match=r"cls_token, pos_embed.*real device"):
        initialise.materialise(model, "cpu")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: initialise.delta_orthogonal(torch.empty(3, 6, 3, 3)), "Use orthogonal"),
        (lambda: initialise.fixup(nn.Linear(2, 2)), "Use lsuv"),
        (
            lambda: initialise.whiten(nn.Conv2d(3, 64, 2), torch.randn(2, 3, 8, 8)),
            "up to 24 outputs",
        ),
    ],
)
def test_initialise_says_what_is_wrong(act, words):
    with pytest.raises(ValueError, match=words):
        act()


# --- the signal at step 0 ---------------------------------------------------------------------


def plain(depth=20, width=24):
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def each_conv(model, change):
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            change(module.weight)
            nn.init.zeros_(module.bias) if module.bias is not None else None
    return model


def deviation(std):
    return lambda weight: nn.init.normal_(weight, std=std)


IMAGES = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: each_conv(plain(), deviation(0.02)), "activations vanish"),
        (lambda: each_conv(plain(), deviation(0.25)), "activations grow"),
        (plain, "activations vanish|look the same"),  # PyTorch's own initialisation, 20 layers
        (lambda: each_conv(plain(), lambda w: nn.init.constant_(w, 1e-2)), "look the same|activations"),
        (lambda: each_conv(plain(4), lambda w: nn.init.uniform_(w, -1, 0)), "dead|vanish"),
        (lambda: each_conv(plain_residual(20), deviation(0.3)), "grow|large|finite"),
        (lambda: each_conv(plain(), deviation(1e3)), "finite|grow"),
    ],
)  # fmt: skip
def test_a_spoilt_network_is_called_bad_and_why(build, words, seed):
    torch.manual_seed(seed)
    seen = signal(build(), IMAGES)
    assert not seen.good and any(w in " ".join(seen.faults) for w in words.split("|")), str(seen)


def with_lsuv(model):
    initialise.lsuv(model, IMAGES)
    return model


def with_fixup(model):
    initialise.fixup(model)
    nn.init.normal_(model[-1].weight, std=0.1)
    return model


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "build",
    [
        lambda: models.create("resnet10_small", num_classes=5),
        lambda: models.create("resnet18", num_classes=5),
        lambda: with_lsuv(plain_residual(8)),
        lambda: with_fixup(plain_residual(20)),
        lambda: each_conv(plain(8, 64), initialise.he),
        lambda: models.create("vit_tiny", num_classes=5, image_size=(16, 16)),
    ],
)  # fmt: skip
def test_a_good_network_is_called_good(build, seed):
    torch.manual_seed(seed)
    model = build()
    images = F.interpolate(IMAGES, 16) if hasattr(model, "positions") else IMAGES
    images = (
        F.interpolate(IMAGES, 64)
        if hasattr(model, "features") and len(model.features) == 5
        else images
    )
    assert signal(model, images).good, str(signal(model, images))


def test_zero_initialised_bodies_are_a_remark_not_a_fault():
    model = models.create("resnet10_small", num_classes=5)
    initialise.zero_init_residual(model)
    seen = signal(model, IMAGES)
    assert seen.good and "they move from step 1 on" in str(seen)


def test_the_numbers_are_those_of_the_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))
    targets = torch.arange(16) % 3
    seen = signal(model, IMAGES, targets)
    hidden = model[0](IMAGES)
    hidden.retain_grad()
    F.cross_entropy(model[3](model[2](model[1](hidden))), targets).backward()
    layer = seen.layers[0]
    assert layer.mean == pytest.approx(hidden.mean().item(), rel=1e-4)
    assert layer.deviation == pytest.approx(hidden.std().item(), rel=1e-4)
    assert layer.gradient == pytest.approx(hidden.grad.square().mean().sqrt().item(), rel=1e-4)
    flat = F.normalize(IMAGES.flatten(1), dim=1)
    cosines = (flat @ flat.T)[~torch.eye(16, dtype=bool)]
    assert layer.alike == pytest.approx(cosines.mean().item(), rel=1e-4)


def test_dead_channels_are_counted():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(256, 2)
    )
    nn.init.constant_(model[0].bias[:3].detach(), -100)
    assert signal(model, IMAGES).layers[0].dead == 0.75


def test_looking_changes_nothing():
    model = models.create("resnet10_small", num_classes=5).train()
    model.dropout.p = 0.5  # draws from torch's generator
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    seen = signal(model, IMAGES)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    svg = seen.svg()
    assert svg.startswith("<svg") and svg.count("polyline") == 2 and "nan" not in svg
    assert "verdict: good" in str(seen)
