"""Fusion: the same answers from fewer layers, and no fusion that would not be exact."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from toque import models
from toque.models import Parallel, Residual, conv_norm, convolution
from toque.models.blocks import LayerScale
from toque.models.convolution import CannotMerge, Convolution
from toque.models.fusion import fuse, fusion_plan

from .agreement import unsettle


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize(
    "name", ["repvgg_a0", "mobileone_s0", "resnet10_small", "googlenet", "unet_attention"]
)
def test_answers_stay_and_norms_go(name):
    model = unsettle(models.create(name, num_classes=5)).eval()
    before = copy.deepcopy(model.state_dict())
    fused, difference = fuse(model)
    images = torch.randn(2, 3, 64, 64)
    answers = model(images)
    assert difference <= 1e-5
    torch.testing.assert_close(
        fused(images), answers, rtol=1e-4, atol=float(answers.detach().abs().max()) * 1e-5
    )
    assert count(fused, nn.BatchNorm2d) == 0
    assert not fused.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_repvgg_becomes_a_row_of_plain_convolutions():
    model = unsettle(models.create("repvgg_a0", num_classes=5))
    fused, _ = fuse(model)
    assert count(fused, Parallel) == 0
    convolutions = [m for m in fused.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 22 and {c.kernel_size for c in convolutions} == {(3, 3)}
    published = 8.30e6  # table 4 of the paper, deployed, with 1000 classes
    own = sum(p.numel() for p in fused.parameters()) + 995 * 1281
    assert abs(own - published) < 0.02e6


@pytest.mark.parametrize(
    "name", ["timm/resnet18", "timm/efficientnet_b0", "torchvision/densenet121"]
)
def test_models_of_others_are_fused_along_the_flow_of_their_data(name):
    model = unsettle(models.create(name, num_classes=5)).eval()
    images = torch.randn(2, 3, 64, 64)
    norms = count(model, nn.BatchNorm2d)
    fused, difference = fuse(model, images)
    assert difference <= 1e-5
    left = count(fused, nn.BatchNorm2d)
    # DenseNet normalises before it convolves: half of its norms follow no convolution.
    assert left == 0 if "dense" not in name else 0 < left < norms
    answers = model(images)
    torch.testing.assert_close(
        fused(images), answers, rtol=1e-4, atol=float(answers.detach().abs().max()) * 1e-5
    )


def test_a_convolution_whose_output_has_another_reader_keeps_its_norm():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    model = unsettle(Twice()).eval()
    images = torch.randn(2, 3, 8, 8)
    fused, difference = fuse(model, images)
    assert count(fused, nn.BatchNorm2d) == 1 and difference == 0


@given(
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2, 4]),
    others=st.lists(
        st.sampled_from(["conv1x1", "same", "chain", "depthwise"]), min_size=1, max_size=3
    ),
    merge=st.sampled_from(["sum", "mean", "gate"]),
    seed=st.integers(0, 99),
)
def test_any_sum_of_linear_branches_is_one_convolution(kernel, stride, groups, others, merge, seed):
    torch.manual_seed(seed)
    made = {
        "conv1x1": lambda: conv_norm(4, 8, 1, stride),
        "same": lambda: nn.Conv2d(4, 8, kernel, stride, kernel // 2),
        "chain": lambda: nn.Sequential(*conv_norm(4, 6, kernel, stride), *conv_norm(6, 8, 1)),
        "depthwise": lambda: conv_norm(4, 8, kernel, stride, groups=4),
    }
    branches = {"main": conv_norm(4, 8, kernel, stride, groups)}
    branches |= {f"b{i}": made[name]() for i, name in enumerate(others)}
    part = unsettle(Parallel(branches, merge), seed).double().eval()
    if merge == "gate":
        nn.init.normal_(part.merge.logits)
    fused, difference = fuse(nn.Sequential(part))
    images = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(fused(images), part(images))
    assert difference < 1e-12
    merged = len(fused) == 1 and isinstance(fused[0], nn.Conv2d)
    assert merged or any("more multiplications" in s.what for s in fusion_plan(nn.Sequential(part)))


def test_a_linear_residual_with_identity_and_layer_scale_is_one_convolution():
    part = unsettle(Residual(conv_norm(4, 4, 3), scale=LayerScale(4, 0.3), drop=0.2)).eval()
    fused, difference = fuse(nn.Sequential(part, nn.ReLU()))
    images = torch.randn(2, 4, 8, 8)
    assert isinstance(fused[0], nn.Conv2d) and difference < 1e-6
    torch.testing.assert_close(fused(images), part(images).relu(), rtol=1e-4, atol=1e-5)


def test_branches_of_one_kernel_joined_by_channel_are_one_convolution():
    part = unsettle(Parallel({"a": conv_norm(4, 3, 3), "b": conv_norm(4, 5, 3)}, "concat")).eval()
    fused, _ = fuse(nn.Sequential(part))
    images = torch.randn(2, 4, 8, 8)
    assert isinstance(fused[0], nn.Conv2d)
    torch.testing.assert_close(fused(images), part(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (Parallel({"a": nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), "b": nn.Identity()}), "branch 'a': ReLU"),
        (Parallel({"a": nn.Conv2d(4, 4, 3, padding=1), "b": nn.Identity()}, "attention"), "depends on the image"),
        (Parallel({"a": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "b": nn.Identity()}), "reflect"),
        (Parallel({"a": nn.BatchNorm2d(4, track_running_stats=False), "b": nn.Conv2d(4, 4, 1)}), "depends on the batch"),
        (Parallel({"a": nn.Conv2d(4, 4, 3, padding=2, dilation=2), "b": nn.Identity()}), "dilated"),
        (Parallel({"a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 7, padding=3)}, "concat"), "more multiplications"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)), "differs at the border"),
        (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)), "differs at the border"),
        (nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)), "larger than a pixel"),
    ],
)  # fmt: skip
def test_what_is_not_exact_is_kept_and_the_reason_given(part, reason):
    unsettle(part)
    plan = fusion_plan(nn.Sequential(part))
    assert any(not step.merged and reason in step.what for step in plan), plan
    fused, _ = fuse(nn.Sequential(part))
    images = torch.randn(2, 4, 12, 12)
    torch.testing.assert_close(fused(images), nn.Sequential(part).eval()(images))


def test_a_layer_with_a_hook_is_kept():
    conv = nn.Conv2d(4, 4, 1)
    conv.register_forward_hook(lambda module, given, answer: answer + 1)
    model = nn.Sequential(conv, nn.BatchNorm2d(4)).eval()
    images = torch.randn(1, 4, 3, 3)
    torch.testing.assert_close(fuse(model).model(images), model(images))


def test_regrouping_keeps_the_answers():
    conv = nn.Conv2d(8, 12, 3, groups=4).double()
    weight, bias = conv.weight.detach(), conv.bias.detach()
    wide = convolution.regroup(Convolution(weight, bias, groups=4), 2)
    images = torch.randn(1, 8, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(wide.module(weight)(images), conv(images))


def test_different_strides_cannot_be_added():
    with pytest.raises(CannotMerge, match="strides"):
        convolution.add([convolution.of_layer(nn.Conv2d(2, 2, 1, stride=s)) for s in (1, 2)])
