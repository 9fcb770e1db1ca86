"""Parameters by rule."""

import copy

import pytest
import torch
from torch import nn

from toque.models import create, parameters
from toque.models.parameters import Rule, groups


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


def rated(model, rules, **settings):
    made = parameters.groups(model, rules, **settings)
    return {name: (g["lr_scale"], g["weight_decay"]) for g in made for name in g["names"]}


def test_the_last_rule_that_speaks_of_a_setting_wins():
    model = create("resnet10_small", num_classes=4)
    given = rated(
        model,
        [
            Rule("*", lr_scale=0.5),
            Rule(nn.BatchNorm2d, weight_decay=0.3),
            Rule("features.stem.*", lr_scale=0.1),
            Rule(lambda name, p: p.ndim == 4, weight_decay=0.2),
        ],
        weight_decay=0.7,
    )
    assert given["features.stem.conv.weight"] == (0.1, 0.2)
    assert given["features.stem.norm.weight"] == (0.1, 0.3)
    assert given["head.weight"] == (0.5, 0.7)
    assert given["head.bias"] == (0.5, 0.0)


def test_learning_rates_are_multiplied_in():
    model = create("resnet10_small", num_classes=4)
    made = groups(model, [Rule("features.*", lr_scale=0.1)], learning_rate=0.4)
    assert {round(group["lr"], 9) for group in made} == {0.4, 0.04}


def test_layer_wise_decay_rises_from_the_first_layer_to_the_last():
    model = create("timm/vit_tiny_patch16_224", num_classes=2)
    given = rated(model, parameters.layer_wise(model, 0.5))
    layers = ["patch_embed.proj.weight", *(f"blocks.{i}.norm1.weight" for i in range(12))]
    scales = [given[name][0] for name in [*layers, "norm.weight", "head.weight"]]
    assert scales == [0.5 ** (14 - i) for i in range(15)]
    assert given["pos_embed"][0] == 0.5**15
    own = create("resnet10_small", num_classes=2)
    given = rated(own, parameters.layer_wise(own, 0.5))
    assert given["features.stage4.0.body.0.weight"][0] == 0.5
    assert given["features.stem.conv.weight"][0] == 0.5**5


def test_two_optimisers_share_the_parameters_and_take_a_step():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 8))
    parts = parameters.by_optimizer(model, [Rule(parameters.is_hidden_matrix, optimizer="muon")])
    names = {optimizer: [n for g in made for n in g["names"]] for optimizer, made in parts.items()}
    assert names["muon"] == ["0.weight", "3.weight"]
    assert set(names["default"]) == {"0.bias", "2.weight", "2.bias", "3.bias"}
    before = [p.detach().clone() for p in model.parameters()]
    optimisers = [torch.optim.Muon(parts["muon"], lr=0.1), torch.optim.AdamW(parts["default"])]
    model(torch.randn(5, 4)).square().sum().backward()
    for optimiser in optimisers:
        optimiser.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_frozen_norm_keeps_its_statistics_and_uses_them_while_training():
    model = create("resnet10_small", num_classes=4, in_channels=1).train()
    parameters.freeze(model, "features.stem.*")
    norm, free = model.features.stem.norm, model.features.stage1[0].body[1]
    before = copy.deepcopy(norm.state_dict())
    images = torch.randn(4, 1, 16, 16) * 3 + 1
    answer = model.train().features.stem(images)
    model(images).sum().backward()
    assert all(torch.equal(before[k], v) for k, v in norm.state_dict().items())
    expected = nn.functional.batch_norm(
        model.features.stem.conv(images),
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
    ).relu()
    torch.testing.assert_close(answer, expected)
    assert free.num_batches_tracked == 1
    assert norm.weight.grad is None and free.weight.grad is not None
    twin = copy.deepcopy(model).train()
    twin(images)
    assert torch.equal(twin.features.stem.norm.running_mean, norm.running_mean)
    parameters.unfreeze(model, "*")
    model(images)
    assert not torch.equal(before["running_mean"], norm.running_mean)


def test_a_frozen_norm_compiles_to_the_same_answers():
    model = create("resnet10_small", num_classes=4, in_channels=1).train()
    parameters.freeze(model, "features.stem.*")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    images = torch.randn(4, 1, 16, 16)
    before = model.features.stem.norm.running_mean.clone()
    torch.testing.assert_close(compiled(images), copy.deepcopy(model)(images))
    assert torch.equal(model.features.stem.norm.running_mean, before)


def test_gradual_unfreezing_is_a_function_of_the_images_seen():
    model = create("resnet10_small", num_classes=4)
    plan = parameters.Unfreezing([(0, "head.*"), (100, "features.stage4.*"), (200, "*")])
    open_at = {}
    for images in (250, 0, 150):  # in any order: nothing is remembered
        plan.apply(model, images)
        open_at[images] = {n for n, p in model.named_parameters() if p.requires_grad}
    assert open_at[0] == {"head.weight", "head.bias"}
    assert open_at[150] == {
        n for n, _ in model.named_parameters() if n.startswith(("head", "features.stage4"))
    }
    assert open_at[250] == {n for n, _ in model.named_parameters()}


def test_initialisation_and_constraints_by_rule():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    rules = [
        Rule("0.weight", initialise=nn.init.ones_),
        Rule("*.weight", constraint=parameters.unit_norm),
    ]
    parameters.initialise(model, rules)
    assert torch.equal(model[0].weight, torch.ones(5, 3))
    parameters.constrain(model, rules)
    for layer in model:
        torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(len(layer.weight)))


def test_the_table_shows_every_tensor_once_and_what_no_rule_touched():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    made = parameters.table(model, [Rule("1.*", frozen=True)], weight_decay=0.1)
    assert made.untouched == ("0.bias",)
    text = str(made)
    assert "0.weight = 1.weight" in text and "3x3" in text and "frozen" in text
    assert "15 parameters, 3 learn; no rule touched 1 of 3 tensors" in text
    assert parameters.count(model) == 15 and parameters.shared(model) == [["0.weight", "1.weight"]]


def test_rules_can_be_read_from_tables():
    made = parameters.rules([{"match": "head.*", "lr_scale": 2.0}, Rule("*", frozen=True)])
    assert made == (Rule("head.*", lr_scale=2.0), Rule("*", frozen=True))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda m: groups(m, weight_decay=-1), "weight_decay must be >= 0"),
        (lambda m: groups(m.requires_grad_(False)), "Unfreeze a layer"),
        (lambda m: groups(m, [Rule("wieght", lr_scale=1)]), "Did you mean weight"),
        (lambda m: groups(m, [Rule(nn.Conv2d, lr_scale=1)]), "Known: Linear"),
        (lambda m: Rule("*", lr_scale=-1), "lr_scale must be >= 0"),
        (lambda m: parameters.rules([{"match": "*", "lr_scal": 1}]), "Did you mean lr_scale"),
        (lambda m: parameters.rules([{"lr_scale": 1}]), "which parameters"),
        (lambda m: parameters.layer_wise(m, 0), "0 < decay <= 1"),
        (lambda m: parameters.Unfreezing([(5, "*"), (3, "*")]), "do not fall"),
    ],
)
def test_parameters_say_what_is_wrong(act, words):
    with pytest.raises(ValueError, match=words):
        act(nn.Linear(2, 2))
