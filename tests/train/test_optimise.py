"""The schedule as a function of images seen, and the optimiser by name."""

import copy
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from toque.data import Batch
from toque.random import Key
from toque.train.optimisation import optimise
from toque.train.optimisation.freezing import Freezing
from toque.train.optimisation.optimizers import Optimizers
from toque.train.optimisation.schedule import schedule
from toque.train.run import Run
from toque.train.settings.optimisation import OptimizerSettings
from toque.train.state import checkpoint
from toque.train.steps.precision import Precision
from toque.train.steps.step import Step


def rates(name, warmup_fraction=0.0, final_fraction=0.0, **settings):
    run = Run(
        schedule={
            "name": name,
            "warmup_fraction": warmup_fraction,
            "final_fraction": final_fraction,
        },
        optimizer={"learning_rate": 0.8},
        batch_size=10,
        **settings,
    )
    return schedule(run, total_images=5000)


def test_cosine_is_torchs_cosine():
    rate = rates("cosine", final_fraction=0.1)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.8)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=500, eta_min=0.08)
    for step in range(500):
        assert rate(step * 10) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step()


def test_linear_falls_on_a_line_and_constant_stays():
    linear, constant = rates("linear", final_fraction=0.5), rates("constant")
    assert [linear(n) for n in (0, 2500, 5000)] == pytest.approx([0.8, 0.6, 0.4])
    assert {constant(n) for n in (0, 1234, 5000)} == {0.8}


def test_warm_up_rises_from_the_first_batch_to_the_peak_without_a_jump():
    rate = rates("cosine", warmup_fraction=0.2)
    assert rate(0) == pytest.approx(0.8 * 10 / 1010)
    rising = [rate(n) for n in range(0, 1001, 10)]
    assert rising == sorted(rising) and rising[-1] == pytest.approx(0.8)
    steps = torch.tensor(rising).diff()
    assert torch.allclose(steps, steps[0].expand_as(steps), rtol=1e-3)
    assert rate(5000) == pytest.approx(0, abs=1e-12)


def test_a_run_of_one_batch_learns():
    run = Run(optimizer={"learning_rate": 1.0}, batch_size=10)
    assert schedule(run, total_images=10)(0) > 0.5


def test_defaults_are_filled_in():
    sgd = optimise.resolve_optimizer(OptimizerSettings(name="sgd"), 128, image_size=28)
    assert sgd.learning_rate == pytest.approx(0.2)
    photos = optimise.resolve_optimizer(OptimizerSettings(name="sgd"), 128, image_size=224)
    assert photos.learning_rate == pytest.approx(0.05)
    assert sgd.model_extra == {"momentum": 0.9, "nesterov": True}
    plain = optimise.resolve_optimizer(OptimizerSettings(name="sgd", momentum=0.0), 128, 224)
    assert plain.model_extra["nesterov"] is False
    assert (
        optimise.resolve_optimizer(OptimizerSettings(name="AdamW"), 128, 224).learning_rate == 1e-3
    )


@pytest.mark.parametrize("name", ["sgd", "adamw", "RMSprop", "nadam"])
def test_any_class_of_torch_optim_by_name(name):
    settings = optimise.resolve_optimizer(OptimizerSettings(name=name, weight_decay=0.1), 64, 224)
    model = nn.Linear(2, 2)
    groups = [{"params": [model.weight]}, {"params": [model.bias], "lr_scale": 0.5}]
    optimizer = optimise.create(settings, groups)
    assert type(optimizer).__name__.lower() == name.lower()
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    Optimizers({"default": optimizer}).set_learning_rate(0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"name": "sgd", "momentun": 0.9},
            r"run.toml \[optimizer\]: momentun is not a setting of SGD. Did you mean momentum\?",
        ),
        ({"name": "adamv"}, r"adamv is not an optimiser of torch.optim. Did you mean adam"),
        ({"name": "sgd", "lr": 0.1}, r"lr is not a setting of SGD"),
    ],
)
def test_a_wrong_optimiser_is_named(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        optimise.resolve_optimizer(OptimizerSettings(**settings), 64, 224)


def test_a_refused_value_is_explained():
    settings = OptimizerSettings(name="adamw", learning_rate=0.1, betas=[2.0, 0.9])
    with pytest.raises(ValueError, match=r"AdamW refused its settings \(Invalid beta"):
        optimise.create(settings, [{"params": [nn.Parameter(torch.zeros(1))]}])


# -- every optimiser goes on in the same bits


def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6),
        nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 3),
    )  # fmt: skip


def a_step(name, **settings):
    run = Run(
        optimizer={"name": name, "learning_rate": 0.01, **settings.pop("optimizer", {})},
        schedule={"name": "constant"},
        **settings,
    )
    resolved = optimise.resolve_optimizer(run.optimizer, run.batch_size, 8)
    run = run.changed(optimizer=resolved.model_dump())
    torch.manual_seed(0)
    model = network().train()
    optimizers = optimise.build(run, model, torch.device("cpu"))
    precision = Precision(run.precision, torch.device("cpu"))
    return Step(
        model, cross_entropy, optimizers, seed=0, precision=precision, sam=run.optimizer.sam,
        micro_batch=run.memory.micro_batch, clip=run.clip,
        freezing=Freezing(run.rules, num_images=16),
    )  # fmt: skip


def go(step, numbers):
    for number in numbers:
        key = Key(1, number, np.arange(8))
        images = key.normal("x", 64).reshape(8, 1, 8, 8)
        targets = key.integers("y", 0, 3)[:, 0]
        step(Batch(images, targets, key.indices, key.epoch), 8 * number, 0.01)
    return torch.cat([value.double().flatten() for value in step.network.state_dict().values()])


CASES = {
    "sgd": {},
    "adamw": {},
    "muon": {},
    "lion": {},
    "soap": {},
    "adamw_schedule_free": {},
    "sgd_schedule_free": {},
    "timm/lamb": {},
    "adagrad": {},
    "sgd sam": {"optimizer": {"sam": 0.05}},
    "adamw lookahead": {"optimizer": {"lookahead": 3}},
    "sgd two": {
        "rules": [{"match": "7.*", "optimizer": {"name": "adamw", "learning_rate": 0.001}}]
    },
    "sgd late": {"rules": [{"match": "[01].*", "frozen_epochs": 2}]},
    "sgd float16": {"precision": "float16"},
    "adamw float16 sam": {
        "precision": "float16",
        "optimizer": {"sam": 0.05},
        "memory": {"micro_batch": 3},
        "clip": {"norm": 1.0},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_every_optimiser_learns_and_goes_on_in_the_same_bits(case, tmp_path):
    name = case.split()[0]
    whole = a_step(name, **CASES[case])
    first = go(whole, range(1))
    reference = go(whole, range(1, 9))
    assert not torch.equal(first, reference)
    killed = a_step(name, **CASES[case])
    go(killed, range(5))
    path = checkpoint.save(tmp_path, killed.state_dict(), images_seen=40, score=None)
    resumed = a_step(name, **CASES[case])
    resumed.load_state_dict(checkpoint.load(path))
    assert torch.equal(go(resumed, range(5, 9)), reference)


def test_muon_takes_the_matrices_and_adamw_the_rest():
    parts = a_step("muon").optimizers.parts
    names = {name: parts[name].param_groups for name in parts}
    assert [type(part).__name__ for part in (parts["default"], parts["adamw"])] == ["Muon", "AdamW"]
    assert [n for group in names["default"] for n in group["names"]] == ["4.weight", "7.weight"]
    assert sum(len(group["names"]) for group in names["adamw"]) == 6


def test_a_rule_gives_its_parameters_to_another_optimiser_at_its_own_rate():
    rules = [
        {"match": "7.*", "lr_scale": 0.5, "optimizer": {"name": "adamw", "learning_rate": 0.002}},
        {"match": "0.*", "frozen": True},
    ]
    step = a_step("sgd", rules=rules)
    step.optimizers.set_learning_rate(0.005)  # half of the peak of 0.01
    other = step.optimizers.parts["rule 0"]
    assert type(other) is torch.optim.AdamW
    assert {group["lr"] for group in other.param_groups} == {0.0005}
    assert {group["lr"] for group in step.optimizers.parts["default"].param_groups} == {0.005}
    before = step.network[0].weight.detach().clone()
    go(step, range(3))
    assert torch.equal(step.network[0].weight, before)
    with pytest.raises(ValueError, match=r"every rule must be one that matches a parameter"):
        a_step("sgd", rules=[{"match": "head.*"}])


def test_what_is_frozen_for_an_epoch_learns_after_it():
    step = a_step("sgd", rules=[{"match": "[01].*", "frozen_epochs": 1}])
    before = {name: value.clone() for name, value in step.network.state_dict().items()}
    go(step, range(2))
    after = step.network.state_dict()
    for name in ("0.weight", "1.weight", "1.running_mean"):
        assert torch.equal(after[name], before[name])
    assert not torch.equal(after["4.weight"], before["4.weight"])
    go(step, range(2, 3))
    for name in ("0.weight", "1.weight", "1.running_mean"):
        assert not torch.equal(step.network.state_dict()[name], before[name])


def learning(step):
    return {name.split(".")[0] for name, p in step.network.named_parameters() if p.requires_grad}


def test_a_later_rule_lets_the_head_learn_while_all_else_waits():
    rules = [
        {"match": "*", "frozen_epochs": 1},
        {"match": "7.*", "frozen_epochs": 0},
        {"match": "0.*", "frozen": True},
    ]
    step = a_step("sgd", rules=rules)
    go(step, range(2))
    assert learning(step) == {"7"}
    go(step, range(2, 3))
    assert learning(step) == {"1", "4", "7"}, "frozen for good stays frozen"


def test_nothing_left_to_learn_is_said_with_the_rule_that_mends_it():
    step = a_step("sgd", rules=[{"match": "*", "frozen_epochs": 1}])
    with pytest.raises(
        ValueError, match=r'every parameter frozen.*match = "7\.\*", frozen_epochs = 0'
    ):
        go(step, range(1))


def test_sam_is_the_gradient_at_the_worst_point_nearby():
    step = a_step("sgd", optimizer={"sam": 0.1, "momentum": 0.0, "weight_decay": 0.0})
    for module in (step.network[1], step.network[6]):
        module.eval()
    w = [p.detach().clone() for p in step.network.parameters()]
    key = Key(1, 0, np.arange(8))
    x, y = key.normal("x", 64).reshape(8, 1, 8, 8), key.integers("y", 0, 3)[:, 0]

    def gradients(values):
        named = dict(zip([n for n, _ in step.network.named_parameters()], values, strict=True))
        given = {name: value.requires_grad_() for name, value in named.items()}
        answer = torch.func.functional_call(step.network, given, (x,))
        return torch.autograd.grad(cross_entropy(answer, y), list(given.values()))

    here = gradients([value.clone() for value in w])
    length = torch.sqrt(sum((g**2).sum() for g in here))
    worst = gradients([value + 0.1 * g / length for value, g in zip(w, here, strict=True)])
    go(step, range(1))
    for parameter, before, g in zip(step.network.parameters(), w, worst, strict=True):
        torch.testing.assert_close(before - parameter, 0.01 * g, rtol=1e-4, atol=1e-7)


def test_sam_counts_each_batch_once_in_the_statistics():
    plain, sharp = a_step("sgd"), a_step("sgd", optimizer={"sam": 0.05})
    go(plain, range(1))
    go(sharp, range(1))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(sharp.network[1], name), getattr(plain.network[1], name))


def test_schedule_free_uses_other_weights_than_it_trains_and_comes_back_exactly():
    step = a_step("adamw_schedule_free")
    trained = go(step, range(6))
    with step.optimizers.averaged():
        used = step.network[4].weight.detach().clone()
    assert torch.equal(go(step, range(0)), trained)
    state = step.state_dict()
    torch.testing.assert_close(a_step("adamw_schedule_free").kept(state)[4].weight, used)
    assert not torch.allclose(used, step.network[4].weight)


def test_schedule_free_asks_for_a_constant_rate():
    run = Run(optimizer={"name": "adamw_schedule_free", "learning_rate": 0.1})
    with pytest.raises(ValueError, match=r"schedule.name must be constant for adamw_schedule_free"):
        optimise.build(run, network(), torch.device("cpu"))


def test_a_package_that_is_missing_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(
        ValueError, match=r"not installed. Install it with: pip install pytorch-opt"
    ):
        optimise.resolve_optimizer(OptimizerSettings(name="soap"), 64, 224)
    with pytest.raises(ValueError, match="lionn is not an optimiser of timm"):
        optimise.resolve_optimizer(OptimizerSettings(name="timm/lionn"), 64, 224)


def test_a_rate_meant_for_another_batch_size_is_scaled_once():
    for name, rate in (("sgd", 0.4), ("adamw", 0.2)):
        settings = OptimizerSettings(name=name, learning_rate=0.1, for_batch_size=256)
        resolved = optimise.resolve_optimizer(settings, 1024, 224)
        assert resolved.learning_rate == pytest.approx(rate)
        assert optimise.resolve_optimizer(resolved, 1024, 224) == resolved


def test_fused_where_torch_has_it_unless_told_otherwise():
    def of(name, **settings):
        return a_step(name, optimizer=settings).optimizers.parts["default"].defaults.get("fused")

    assert of("sgd") is True and of("adamw") is True
    assert of("adamw", fused=False) is False and of("adamw", foreach=True) is None
    assert not of("nadam")


# -- schedules


def test_one_cycle_is_torchs_one_cycle():
    rate = rates("one_cycle", warmup_fraction=0.3)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.8)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.8, total_steps=501, pct_start=151 / 501, cycle_momentum=False,
        final_div_factor=1e9,
    )  # fmt: skip
    for step in range(501):
        assert rate(step * 10) == pytest.approx(reference.get_last_lr()[0], rel=1e-6, abs=1e-8)
        optimizer.step()
        if step < 500:
            reference.step()


def test_step_is_torchs_step_and_polynomial_torchs_polynomial():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.8)
    steps = torch.optim.lr_scheduler.StepLR(optimizer, 100, gamma=0.3)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.8)
    powers = torch.optim.lr_scheduler.PolynomialLR(other, total_iters=500, power=1.5)
    rate = schedule(
        Run(
            schedule={"name": "step", "warmup_fraction": 0, "every_epochs": 2, "factor": 0.3},
            optimizer={"learning_rate": 0.8}, epochs=10, batch_size=10,
        ),
        total_images=5000,
    )  # fmt: skip
    power = schedule(
        Run(
            schedule={"name": "polynomial", "warmup_fraction": 0, "power": 1.5},
            optimizer={"learning_rate": 0.8}, batch_size=10,
        ),
        total_images=5000,
    )  # fmt: skip
    for number in range(500):
        assert rate(number * 10) == pytest.approx(steps.get_last_lr()[0])
        assert power(number * 10) == pytest.approx(powers.get_last_lr()[0])
        for one in (optimizer, other, steps, powers):
            one.step()


def test_a_trapezoid_stays_and_falls_at_the_end():
    run = Run(
        schedule={"name": "trapezoid", "warmup_fraction": 0.1, "cooldown_fraction": 0.4},
        optimizer={"learning_rate": 0.8}, batch_size=10,
    )  # fmt: skip
    rate = schedule(run, total_images=5000)
    assert [rate(n) for n in (500, 2000, 3000, 4000, 5000)] == pytest.approx(
        [0.8, 0.8, 0.8, 0.4, 0.0]
    )


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_state_from_a_checkpoint_goes_on_in_the_layout_of_the_weights(name):
    """A fused step pairs numbers by their place in memory; a checkpoint holds them in rows."""

    def convolution(weight):
        layer = nn.Conv2d(3, 4, 3, bias=False)
        layer.weight.data.copy_(weight)
        return layer.to(memory_format=torch.channels_last)

    def learn(layer, optimizers, numbers):
        for number in numbers:
            images = Key(0, number, np.arange(2)).uniform("x", 3 * 25).reshape(2, 3, 5, 5)
            layer.weight.grad = None
            layer(images).square().sum().backward()
            optimizers.set_learning_rate(0.01)
            optimizers.step(torch.zeros(()))

    def built(layer):
        moving = {"momentum": 0.9} if name == "sgd" else {}
        settings = OptimizerSettings(name=name, learning_rate=0.01, **moving)
        return optimise.build(Run(optimizer=settings.model_dump()), layer, torch.device("cpu"))

    first = torch.linspace(-1, 1, 4 * 27).reshape(4, 3, 3, 3)
    whole = convolution(first)
    optimizers = built(whole)
    learn(whole, optimizers, range(2))
    state = copy.deepcopy(optimizers.state_dict())
    for values in state["default"]["state"].values():
        for key, value in values.items():
            values[key] = value.contiguous()
    again = convolution(whole.weight.detach())
    resumed = built(again)
    resumed.load_state_dict(state)
    learn(whole, optimizers, [2])
    learn(again, resumed, [2])
    assert torch.equal(again.weight, whole.weight)
