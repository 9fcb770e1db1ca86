"""The residual networks: the same architecture, answers and gradients as torchvision's and timm's."""

import pytest
import torch

from toque import models

from .agreement import assert_agreement


@pytest.mark.parametrize("catalogue", ["torchvision", "timm"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_answers_and_gradients_are_those_of_the_other_catalogues(catalogue, name):
    theirs = models.create(f"{catalogue}/{name}", num_classes=11)
    own = models.create(f"toque/{name}", num_classes=11)
    assert_agreement(own, theirs, torch.Size([2, 3, 64, 64]))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_parameters_are_counted_as_in_torchvision(name):
    with torch.device("meta"):
        own = models.create(f"toque/{name}", num_classes=1000)
        theirs = models.create(f"torchvision/{name}", num_classes=1000)
    assert [p.shape for p in own.parameters()] == [p.shape for p in theirs.parameters()]


def test_the_parts_of_forward_make_the_whole():
    model = models.create("resnet10_small", num_classes=4, in_channels=1).eval()
    images = torch.randn(2, 1, 28, 28)
    features = model.forward_features(images)
    assert torch.equal(model.forward_head(features), model(images))
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    assert [tuple(m.shape[1:]) for m in model.forward_stages(images)] == [
        (16, 28, 28), (16, 28, 28), (32, 14, 14), (64, 7, 7), (128, 4, 4),
    ]  # fmt: skip
    model.reset_classifier(9)
    assert model(images).shape == (2, 9)
    model.reset_classifier(0)
    assert torch.equal(model(images), model.forward_head(features, pre_logits=True))


def test_wrong_channels_are_named():
    model = models.create("resnet10_small", num_classes=4, in_channels=1)
    with pytest.raises(ValueError, match=r"\[B, 1, H, W\]; got \[2, 3, 28, 28\]"):
        model(torch.zeros(2, 3, 28, 28))
