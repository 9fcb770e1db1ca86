"""Losses by name, with their settings."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from toque import losses

LOGITS = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]])
TARGETS = torch.tensor([0, 2])


def test_a_name_gives_the_loss_with_its_settings():
    loss = losses.create("cross_entropy", {"reduction": "sum"}, label_smoothing=0.1)
    expected = F.cross_entropy(LOGITS, TARGETS, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(loss(LOGITS, TARGETS), expected)
    assert repr(loss) == "Loss(cross_entropy, reduction=sum, label_smoothing=0.1)"


def test_tensor_settings_move_with_the_module():
    loss = losses.create("cross_entropy", {"class_weights": torch.tensor([1.0, 2.0, 0.0])})
    assert loss.to("meta").class_weights.device.type == "meta"


@pytest.mark.parametrize("name", ["MSELoss", "nn.MSELoss", "torch.nn.MSELoss"])
def test_torchs_losses_go_by_their_class_name(name):
    assert isinstance(losses.create(name), nn.MSELoss)
    assert losses.create(name, {"reduction": "sum"}).reduction == "sum"


def test_torchs_losses_take_the_smoothing_they_have():
    assert losses.create("CrossEntropyLoss", label_smoothing=0.2).label_smoothing == 0.2


def squared(predictions, targets, scale=1.0):
    return scale * (predictions - targets).square().mean()


def test_any_callable_will_do():
    assert losses.create(squared, {"scale": 3.0})(torch.ones(2), torch.zeros(2)) == 3
    loss = losses.create(f"{__name__}:squared", {"scale": 2.0})
    assert loss(torch.ones(2), torch.zeros(2)) == 2
    module = nn.L1Loss()
    assert losses.create(module) is module


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cros_entropy",), "Did you mean cross_entropy"),
        (("MSELos",), "Did you mean MSELoss"),
        (("cross_entropy", {"label_smooth": 0.1}), "Did you mean label_smoothing"),
        (("MSELoss", {"reductoin": "sum"}), "Did you mean reduction"),
        ((nn.L1Loss(), {"reduction": "sum"}), "left out for a module"),
        (("no.such.module:loss",), "importable as package.module:function"),
    ],
)
def test_a_mistake_is_said_in_one_sentence(arguments, words):
    with pytest.raises(ValueError, match=words):
        losses.create(*arguments)


def test_smoothing_for_a_loss_without_it_is_refused():
    with pytest.raises(ValueError, match=r"label_smoothing must be 0 for MSELoss; got 0\.1"):
        losses.create("MSELoss", label_smoothing=0.1)


@pytest.mark.parametrize("name", ["focal", "sigmoid_focal", "cross_entropy"])
def test_a_reduction_that_does_not_exist_is_named(name):
    with pytest.raises(ValueError, match="reduction must be mean, sum or none; got 'avg'"):
        losses.create(name, {"reduction": "avg"})(LOGITS, TARGETS)
