"""Where the network looked."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from toque import deploy, models, random
from toque.deploy import explain


class Pooled(nn.Module):
    """Features, mean over the places, one linear layer."""

    def __init__(self, features):
        super().__init__()
        self.features = features
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))


@pytest.mark.parametrize("last", [nn.Identity(), nn.ReLU(inplace=True)])
def test_it_is_the_class_activation_map_where_that_is_defined(last):
    """With mean pooling and one linear layer: the head's weights times the features (Zhou 2016)."""
    random.seed_torch(3, "explain")
    network = Pooled(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), last)).eval()
    images = torch.rand(1, 3, 8, 8)
    for label in range(3):
        found = explain.heat(network, images, label)
        with torch.no_grad():
            wanted = torch.einsum(
                "d,dhw->hw", network.head.weight[label], network.features(images)[0]
            )
        wanted = wanted.clamp(min=0)
        wanted = wanted / wanted.max().clamp(min=1e-12)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_what_follows_in_place_changes_nothing():
    class InPlace(Pooled):
        def forward(self, images):
            return self.head(self.features(images).exp_().mean((2, 3)))

    random.seed_torch(4, "explain")
    network = InPlace(nn.Conv2d(3, 4, 3, padding=1)).eval()
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        features = network.features(images)[0]
    # The derivative of the mean of exp(features) by hand, averaged over the places.
    weights = network.head.weight[1].detach() * features.exp().mean((1, 2))
    wanted = torch.einsum("d,dhw->hw", weights, features).clamp(min=0)
    assert wanted.max() > 0
    found = explain.heat(network, images, 1)
    torch.testing.assert_close(found, wanted / wanted.max(), atol=1e-5, rtol=1e-4)


def test_it_finds_the_place():
    """A network that only sees brightness: the heat lies on the bright square."""
    network = Pooled(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AvgPool2d(2))).eval()
    nn.init.constant_(network.features[0].weight, 1.0)
    nn.init.zeros_(network.features[0].bias)
    nn.init.constant_(network.head.weight, 1.0)
    images = torch.zeros(1, 3, 16, 16)
    images[:, :, 2:6, 10:14] = 1
    found = explain.heat(network, images, 0)
    assert found.shape == (16, 16) and found[3, 11] == 1 and found[12, 3] == 0
    assert found[1:7, 9:15].sum() == found.sum()


@pytest.mark.parametrize("name", ["vit_tiny", "resnet18", "resnet10_small", "repvgg_a0"])
def test_whole_models(name):
    random.seed_torch(0, "explain")
    network = models.create(name, num_classes=5, in_channels=3, image_size=64).eval()
    found = explain.heat(network, torch.rand(1, 3, 64, 64), 2)
    assert found.shape == (64, 64) and found.isfinite().all()
    assert found.min() >= 0 and found.max() > 0.5 and found.std() > 0.01


def test_a_network_without_places():
    with pytest.raises(ValueError, match=r"maps of features.*got Sequential"):
        explain.heat(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), torch.rand(1, 3, 4, 4), 0)


def test_the_picture(run, exported, photos, tmp_path):
    model = deploy.load(run)
    pixels = model.pixels(photos / "val" / "left" / "0.jpg")
    picture = explain.overlay(model, pixels, "left")
    assert picture.shape == (16, 16, 3) and picture.dtype == np.uint8
    explain.write_overlay(model, pixels, "left", tmp_path / "left.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "left.png")), picture)
    with pytest.raises(ValueError, match=r"run folder or a \.safetensors"):
        explain.overlay(deploy.load(exported["onnx"].file), pixels, "left")
