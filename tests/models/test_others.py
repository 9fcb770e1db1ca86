"""The other whole models: equal to their counterparts elsewhere, and right in what is their own."""

import pytest
import torch
from torch import nn

from toque import models
from toque.models.airbench import airbench94
from toque.models.unet import UNet
from toque.models.vit import VisionTransformer

from .agreement import assert_agreement


@pytest.mark.parametrize("name", ["repvgg_a0", "repvgg_b0", "mobileone_s0"])
def test_models_of_merging_branches_are_timm_s(name):
    theirs = models.create(f"timm/{name}", num_classes=7)
    own = models.create(f"toque/{name}", num_classes=7)
    assert_agreement(own, theirs, (2, 3, 64, 64))


def test_googlenet_is_torchvision_s():
    theirs = models.create("torchvision/googlenet", num_classes=7)
    own = models.create("toque/googlenet", num_classes=7)
    assert_agreement(own, theirs, (2, 3, 96, 96))


def test_vit_with_registers_is_timm_s():
    import timm

    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=5,
        reg_tokens=4, no_embed_class=True, init_values=0.3,
    )  # fmt: skip
    own = VisionTransformer(32, 8, 48, 3, 3, num_classes=5)

    def carry(source, target):
        names = {
            "class_token": "cls_token", "registers": "reg_token", "positions": "pos_embed",
            "embed": "patch_embed.proj", "norm": "norm", "head": "head",
            "0.body.0": "norm1", "0.body.1.qkv": "attn.qkv", "0.body.1.project": "attn.proj",
            "0.scale.weight": "ls1.gamma", "1.body.0": "norm2", "1.body.1": "mlp.fc1",
            "1.body.3": "mlp.fc2", "1.scale.weight": "ls2.gamma",
        }  # fmt: skip
        state = {}
        for name in target.state_dict():
            prefix, rest = "", name
            if name.startswith("blocks."):
                _, number, rest = name.split(".", 2)
                prefix = f"blocks.{number}."
            if rest in names:
                state[name] = source.state_dict()[prefix + names[rest]]
            else:
                layer, _, tensor = rest.rpartition(".")
                state[name] = source.state_dict()[f"{prefix}{names[layer]}.{tensor}"]
        target.load_state_dict(state)

    assert_agreement(own, theirs, (2, 3, 32, 32), carry)


def test_vit_names_a_size_that_fits():
    with pytest.raises(
        ValueError, match=r"multiple of patch_size = 16; got 100 x 224. Use 112 x 224"
    ):
        models.create("vit_tiny", num_classes=2, image_size=(100, 224))
    model = models.create("vit_tiny", num_classes=2, image_size=32)
    with pytest.raises(ValueError, match="of size 32 x 32; got 64 x 32"):
        model(torch.zeros(1, 3, 64, 32))


def test_airbench_is_the_network_of_the_paper():
    model = airbench94(10)
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    biases = 24 + 2 * 64 + 4 * 256  # of the whitening layer and the norms, whose scales stay 1
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == convolutions + biases + 256 * 10
    assert not model.features.whiten.weight.requires_grad
    assert model.features.whiten.bias.requires_grad
    images = torch.randn(2, 3, 32, 32)
    assert [tuple(m.shape[1:]) for m in model.forward_stages(images)] == [
        (24, 31, 31), (24, 31, 31), (64, 15, 15), (256, 7, 7), (256, 3, 3),
    ]  # fmt: skip
    features = model.forward_features(images)
    torch.testing.assert_close(
        model(images), nn.MaxPool2d(3)(features).flatten(1) @ model.head.weight.T / 9
    )


def test_airbench_convolutions_begin_as_the_identity():
    model = airbench94(10)
    conv = model.features.stage2[4]
    x = torch.randn(1, 256, 5, 5)
    torch.testing.assert_close(conv(x), x)


@pytest.mark.parametrize("name", ["unet", "unet_small", "unet_attention", "fpn_resnet18"])
def test_segmentation_models_answer_for_every_pixel(name):
    model = models.create(name, num_classes=3, in_channels=1)
    answer = model(torch.randn(2, 1, 64, 96))
    assert answer.shape == (2, 3, 64, 96)
    answer.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.reset_classifier(5)
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 5, 64, 64)


def test_unet_sees_through_its_long_skips():
    """With the bottom cut off, the finest skip still carries the image to the answer."""
    model = UNet((4, 8, 8), num_classes=1, in_channels=1).eval()
    nn.init.zeros_(model.features.bottom.body[-1].weight)
    nn.init.zeros_(model.features.bottom.shortcut.norm.weight)
    one, other = torch.randn(2, 1, 1, 16, 16)
    assert not torch.equal(model(one), model(other))


def test_a_closed_gate_lets_nothing_through():
    from toque.models.skips import AttentionGate

    gate = AttentionGate(4, 8)
    nn.init.zeros_(gate.weigh.weight)
    nn.init.constant_(gate.weigh.bias, -100)
    assert gate(torch.randn(1, 4, 8, 8), torch.randn(1, 8, 8, 8)).abs().max() < 1e-30
    nn.init.constant_(gate.weigh.bias, 100)
    skipped = torch.randn(1, 4, 8, 8)
    assert torch.equal(gate(skipped, torch.randn(1, 8, 8, 8)), skipped)


def test_unet_names_a_size_that_fits():
    model = models.create("unet", num_classes=2)
    with pytest.raises(
        ValueError, match=r"multiples of 16; got 250 x 256. Pad or resize to 256 x 256"
    ):
        model(torch.zeros(1, 3, 250, 256))


@pytest.mark.parametrize("backbone", ["timm/mobilenetv3_small_050", "timm/resnet10t"])
def test_fpn_stands_on_any_backbone_of_timm(backbone):
    model = models.create(f"toque/fpn+{backbone}", num_classes=3, in_channels=1)
    assert model(torch.randn(1, 1, 70, 64)).shape == (1, 3, 70, 64)
    levels = model.pyramid(torch.randn(1, 1, 64, 64))
    assert len({level.shape[1] for level in levels}) == 1
    assert levels[0].shape[2] == 16 and levels[-1].shape[2] == 2


def test_the_pyramid_carries_what_the_coarsest_map_knows_to_the_finest():
    model = models.create("fpn_resnet18", num_classes=3).eval()
    for lateral in model.lateral[:-1]:
        nn.init.zeros_(lateral.weight)
    one, other = (model.pyramid(torch.randn(1, 3, 64, 64))[0] for _ in range(2))
    assert not torch.allclose(one, other)


def test_fpn_refuses_a_backbone_that_classifies():
    from toque.models.fpn import FPN

    with pytest.raises(ValueError, match="features_only=True"):
        FPN(models.create("resnet10_small", num_classes=2), num_classes=2)
