"""The schedule as a function of images seen, and the optimiser by name."""

import pytest
import torch
from torch import nn

from toque.train import optimise
from toque.train.run import OptimizerSettings, Run


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
    return optimise.schedule(run, total_images=5000)


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
    assert optimise.schedule(run, total_images=10)(0) > 0.5


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
    optimise.Optimizers({"default": optimizer}).set_learning_rate(0.2)
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
