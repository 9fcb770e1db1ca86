"""verify finds and names every planted bug, and stays silent on what is right."""

import dataclasses
import io
import json
import re

import pytest
import torch
from torch import nn

from toque import random
from toque.layers import verify
from toque.layers.verification import CHECKS

from .museum import EXHIBITS, Gate, pair
from .zoo import MODULES


@pytest.mark.parametrize("name", EXHIBITS)
def test_a_planted_bug_is_found_and_named(name):
    exhibit = EXHIBITS[name]
    compiles = exhibit.check == "torch.compile"
    report = verify(
        exhibit.layer,
        *exhibit.inputs,
        required=exhibit.required,
        skip=() if compiles else ("torch.compile",),
    )
    finding = report.finding(exhibit.check)
    assert finding.status == "failed", str(report)
    assert re.search(exhibit.words, finding.cause), finding.cause
    assert not report.passed


def test_the_museum_is_large():
    assert len(EXHIBITS) >= 30


def test_the_right_layer_of_the_museum_passes():
    report = verify(Gate.apply, *pair())
    assert report.passed, str(report)


@pytest.mark.parametrize("name", MODULES)
def test_no_false_alarm_on_torchs_own_modules(name):
    module, *inputs = MODULES[name]
    report = verify(module, *inputs)
    assert report.passed, str(report)


def test_the_zoo_is_large():
    assert len(MODULES) >= 40


def layer_scale():
    from timm.layers import LayerScale

    return LayerScale(4), torch.ones(2, 3, 4)


def layer_norm_2d():
    from timm.layers import LayerNorm2d

    return LayerNorm2d(4), torch.linspace(-1, 1, 72).sin().view(2, 4, 3, 3)


def squeeze_excite():
    from timm.layers import SqueezeExcite

    return SqueezeExcite(4, rd_channels=2), torch.linspace(-1, 1, 72).sin().view(2, 4, 3, 3)


def drop_path():
    from timm.layers import DropPath

    return DropPath(0.3), torch.linspace(-1, 1, 24).view(8, 3)


def mlp():
    from timm.layers import Mlp

    return Mlp(4, 6), torch.linspace(-1, 1, 24).view(2, 3, 4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", [layer_scale, layer_norm_2d, squeeze_excite, drop_path, mlp])
def test_no_false_alarm_on_timms_layers(made):
    pytest.importorskip("timm", reason="timm is an extra")
    module, example = made()
    report = verify(module, example, skip=["torch.compile"])
    assert report.passed, str(report)


def frozen_batch_norm(ops):
    return ops.FrozenBatchNorm2d(3), torch.linspace(-1, 1, 96).sin().view(2, 3, 4, 4)


def stochastic_depth(ops):
    return ops.StochasticDepth(0.3, "row"), torch.linspace(-1, 1, 24).view(8, 3)


def squeeze_excitation(ops):
    return ops.SqueezeExcitation(4, 2), torch.linspace(-1, 1, 72).sin().view(2, 4, 3, 3)


def pyramid(ops):  # its outputs come in a dict, and not all need a gradient at once
    features = {"a": torch.linspace(-1, 1, 64).sin().view(1, 4, 4, 4), "b": torch.ones(1, 4, 2, 2)}
    return ops.FeaturePyramidNetwork([4, 4], 2), features


def region_align(ops):  # no forward-mode derivative
    image = torch.linspace(-1, 1, 72).sin().view(1, 2, 6, 6).requires_grad_()
    return ops.RoIAlign(2, 1.0, 2), image, torch.tensor([[0, 0.5, 0.5, 4, 4]])


@pytest.mark.parametrize(
    "made", [frozen_batch_norm, stochastic_depth, squeeze_excitation, pyramid, region_align]
)
def test_no_false_alarm_on_torchvisions_layers(made):
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is an extra")
    module, *inputs = made(ops)
    report = verify(module, *inputs, skip=["torch.compile"])
    assert report.passed, str(report)


class CastsInside(nn.LayerNorm):
    def forward(self, x):  # as the norms of timm: float32 inside, whatever comes
        return nn.functional.layer_norm(x.float(), (3,), self.weight.float(), self.bias.float()).to(
            x
        )


def test_float32_inside_is_said_and_not_called_wrong():
    report = verify(
        CastsInside(3), torch.linspace(-1, 1, 12).sin().view(4, 3), skip=["torch.compile"]
    )
    assert report.passed, str(report)
    assert "computes in float32 inside" in report.finding("gradients").cause


def test_a_gradient_that_is_zero_is_not_measured_by_its_own_size():
    logits = torch.linspace(-1, 1, 12).sin().view(3, 4)
    at_the_minimum = logits.softmax(-1)

    def loss(x, target):
        return -(target * x.log_softmax(-1)).sum()

    report = verify(loss, logits.requires_grad_(), at_the_minimum, only=["float32", "autocast"])
    assert report.passed, str(report)


def doubled(x):
    return 2 * x


def test_the_report_can_be_read_by_people_and_machines():
    report = verify(doubled, torch.ones(2, 3), only=["gradients", "vmap"])
    assert [finding.check for finding in report.findings] == ["gradients", "vmap"]
    assert "doubled on x 2x3" in str(report) and "2 passed, 0 failed" in report.summary()
    loaded = json.loads(report.to_json())
    assert loaded["passed"] is True and loaded["findings"][0]["check"] == "gradients"
    from rich.console import Console

    console = Console(record=True, width=100, file=io.StringIO())
    console.print(report)
    assert "gradients" in console.export_text()


def test_what_failed_stands_last_in_the_table():
    from rich.console import Console

    exhibit = EXHIBITS["a factor 2"]
    report = verify(exhibit.layer, *exhibit.inputs, only=["gradients", "views", "vmap"])
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(report)
    text = console.export_text()
    assert text.index("vmap") < text.index("gradients ") and text.index("views") < text.index(
        "failed"
    )
    assert max(map(len, text.splitlines())) <= 80


def test_the_smallest_failing_input_is_given():
    exhibit = EXHIBITS["a factor 2"]
    report = verify(exhibit.layer, torch.ones(8, 6), torch.ones(6), only=["gradients"])
    assert report.findings[0].smallest == "x 1x1, w 1"


def test_a_reference_is_compared_with():
    def reference(x):
        return torch.sin(x)

    report = verify(torch.cos, torch.ones(3), reference=reference, skip=["torch.compile"])
    assert report.finding("reference").status == "failed"
    report = verify(torch.sin, torch.ones(3), reference=reference, skip=["torch.compile"])
    assert report.passed and report.finding("reference, second derivatives").status == "passed"


def test_inputs_that_require_gradients_are_the_ones_differentiated():
    x, target = torch.ones(3, requires_grad=True), torch.zeros(3)
    report = verify(lambda x, target: (x - target.detach()) ** 2, x, target, skip=["torch.compile"])
    assert report.passed, str(report)
    report = verify(lambda x, target: (x - target.detach()) ** 2, x.detach(), target)
    assert "no gradient for `target`" in report.finding("gradients").cause


def test_what_is_not_supported_fails_only_when_required():
    exhibit = EXHIBITS["once_differentiable"]
    report = verify(exhibit.layer, *exhibit.inputs, only=["second derivatives"])
    assert report.passed and report.findings[0].status == "not supported"


def test_the_users_module_and_generator_are_left_alone():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random.seed_torch(7, "test")
    state = torch.get_rng_state()
    verify(module, torch.randn(4, 3), only=["gradients", "state", "deterministic"])
    random.seed_torch(7, "test")
    torch.randn(4, 3)
    verify(module, torch.ones(4, 3), only=["gradients"])
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
    random.seed_torch(7, "test")
    assert torch.equal(torch.get_rng_state(), state)


def test_saved_bytes_are_listed():
    report = verify(torch.sigmoid, torch.ones(5, 4), only=["gradients"])
    assert report.saved_bytes == 5 * 4 * 4
    (saved,) = [tensor for tensor in report.saved if tensor.is_own]
    assert saved.saver == "SigmoidBackward0.result" and saved.shape == (5, 4)
    assert dataclasses.is_dataclass(report)


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ((torch.sin, torch.ones(2)), {"skip": ["gradient"]}, "Did you mean"),
        ((torch.sin,), {}, "at least one tensor"),
    ],
)
def test_a_mistake_is_said_in_one_sentence(arguments, settings, words):
    with pytest.raises(ValueError, match=words):
        verify(*arguments, **settings)


def test_every_check_has_an_exhibit_or_needs_more_than_this_machine():
    shown = {exhibit.check for exhibit in EXHIBITS.values()}
    elsewhere = {"reference", "reference, second derivatives", "second device"}
    assert set(CHECKS) - shown - elsewhere == {
        "batched gradients", "torch.func.grad", "fake tensors",
    }  # fmt: skip
