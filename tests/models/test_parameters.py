"""Parameters by rule."""

import pytest
import torch
from torch import nn

from toque.models import create
from toque.models.parameters import groups


def test_norms_and_biases_do_not_decay_and_every_parameter_is_in_one_group():
    model = create("resnet10_small", num_classes=4)
    made = groups(model, weight_decay=5e-4, learning_rate=0.1)
    decay = {name: group["weight_decay"] for group in made for name in group["names"]}
    assert (
        sum(len(group["params"]) for group in made) == len(decay) == len(list(model.parameters()))
    )
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert decay[f"{path}.weight"] == decay[f"{path}.bias"] == 0
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert decay[f"{path}.weight"] == 5e-4
    assert decay["head.bias"] == 0
    torch.optim.SGD(made, lr=0.1)


def test_what_the_model_exempts_does_not_decay():
    model = create("timm/vit_tiny_patch16_224", num_classes=2)
    decay = {n: g["weight_decay"] for g in groups(model, weight_decay=0.1) for n in g["names"]}
    assert decay["pos_embed"] == decay["cls_token"] == 0
    assert decay["blocks.0.attn.qkv.weight"] == 0.1


def test_frozen_and_shared_parameters():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    assert [group["names"] for group in groups(model)] == [["0.weight", "0.bias"]]


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        (nn.Linear(2, 2), {"weight_decay": -1}, "weight_decay must be >= 0"),
        (nn.Linear(2, 2).requires_grad_(False), {}, "Unfreeze a layer"),
    ],
)
def test_groups_says_what_is_wrong(model, settings, words):
    with pytest.raises(ValueError, match=words):
        groups(model, **settings)
