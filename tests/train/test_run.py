"""The settings: TOML there and back, overrides, and what is said of a wrong one."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from toque import checks
from toque.train import run as settings_of
from toque.train.run import Run
from toque.train.settings import refusal, toml

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(
    data=texts,
    model=st.none() | texts,
    epochs=st.floats(0.001, 1e6),
    seed=st.integers(-(2**63), 2**63 - 1),
    rate=st.none() | st.floats(1e-12, 10),
    betas=st.none() | st.lists(st.floats(0, 1), min_size=2, max_size=2),
)
def test_toml_gives_back_the_same_run(data, model, epochs, seed, rate, betas):
    optimizer = {"name": "adamw", "learning_rate": rate} | ({"betas": betas} if betas else {})
    run = Run(data=data, model=model, epochs=epochs, seed=seed, optimizer=optimizer)
    assert Run(**tomllib.loads(run.as_toml())) == run


def test_every_setting_stands_in_the_file_with_a_comment():
    lines = Run().as_toml().splitlines()
    settings = [line for line in lines if line and not line.startswith("[")]
    assert len(settings) == len(settings_of.flat(Run().model_dump()))
    assert all("  # " in line for line in settings)


def test_the_file_comes_first_then_arguments_then_set(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('epochs = 3\nseed = 1\nmodel = "a"\n[loss]\nlabel_smoothing = 0.2\n')
    run = settings_of.load(
        file, {"seed": "7", "optimizer.betas": "[0.9, 0.95]", "model": "resnet18"}, data="photos"
    )
    assert (run.epochs, run.seed, run.model, run.data) == (3, 7, "resnet18", "photos")
    assert run.loss.label_smoothing == 0.2
    assert run.optimizer.model_extra == {"betas": [0.9, 0.95]}


def test_the_environment_of_a_stored_run_is_not_a_setting(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        Run(seed=4).as_toml() + toml.table("environment", {"torch": "2.14", "git": {"a": 1}})
    )
    assert settings_of.load(file).changed(out=None) == Run(seed=4)


def test_a_run_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Run().epochs = 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epoch": 3}, "Run: epoch is not a setting. Did you mean epochs?"),
        (
            {"schedule": {"warmup_fractions": 1}},
            "Run [schedule]: warmup_fractions is not a setting. Did you mean warmup_fraction",
        ),
        ({"epochs": 0}, "Run: epochs must be greater than 0; got 0. Mend it, or leave it out; "),
        ({"on_bad": "x"}, "Run: on_bad must be 'raise' or 'skip'; got 'x'."),
        (
            {"optimizer": "adamw"},
            "Run: optimizer must be a table of settings; got 'adamw'. Its parts are name, "
            "learning_rate, weight_decay, for_batch_size, sam, lookahead: "
            "write optimizer.name=adamw.",
        ),
        (
            {"batch_size": "many"},
            "Run: batch_size must be a whole number; got 'many'. Mend it, or leave it out; "
            "batch_size: images a step",
        ),
        ({"seed": 1.5}, "Run: seed must be a whole number; got 1.5."),
        # Names that other tools give to settings, and settings without their section.
        ({"lr": 0.1}, "Run: lr is not a setting. Did you mean optimizer.learning_rate?"),
        ({"mixup": 0.2}, "Run: mixup is not a setting. Did you mean mix.mixup?"),
        (
            {"stop": {"patience": 3}},
            "Run [stop]: patience is not a setting. Did you mean stop.patience_epochs?",
        ),
        # Where pydantic's path goes on inside the value.
        ({"sampling": {"class_weights": 3}}, "Run [sampling]: class_weights must be"),
        ({"log": {"to": ["wandbb"]}}, "Run [log]: to must be 'tensorboard'"),
        ({"rules": [{"lr_scale": 1}]}, "Run [rules.0]: match must be given; got none."),
        ({"rules": [{"match": "a", "lr": 1}]}, "Run [rules.0]: lr is not a setting. Did you mean"),
    ],
)
def test_a_wrong_setting_is_named(settings, sentence):
    with pytest.raises(checks.InvalidValue) as error:
        Run(**settings)
    assert str(error.value).startswith(sentence)


def test_a_value_by_its_name_elsewhere_is_said_in_ours():
    with pytest.raises(checks.InvalidValue, match=r"got 'bf16'\. Did you mean bfloat16\?$"):
        Run(precision="bf16")
    with pytest.raises(checks.InvalidValue, match="Mend it, or leave it out"):
        Run(precision="float8")


def test_the_names_of_other_tools_stand_for_settings_that_exist():
    of_its_class = {"optimizer.momentum", "optimizer.betas", "loss.gamma"}
    known = set(refusal._paths(Run)) | of_its_class
    assert set(refusal._ELSEWHERE.values()) <= known
    assert not set(refusal._ELSEWHERE) & known
    assert refusal.meant("learning_rate", Run) == "optimizer.learning_rate"
    assert refusal.meant("epoch", Run) == "epochs"
    assert refusal.meant("name", Run) is None  # of several sections
    assert refusal.meant("frobnicate", Run) is None


def test_a_wrong_setting_is_named_with_its_place(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[clip]\nnorms = 1\n")
    with pytest.raises(ValueError, match=r"^run.toml \[clip\]: norms is not a setting"):
        settings_of.load(file)
    with pytest.raises(ValueError, match=r"^--set: sed is not a setting. Did you mean seed\?"):
        settings_of.load(None, {"sed": "3"})
    with pytest.raises(ValueError, match="epochs has no parts"):
        settings_of.load(None, {"seed": "3", "epochs": "2", "epochs.x": "1"})
    file.write_text("epochs = = 3")
    with pytest.raises(ValueError, match="must be TOML"):
        settings_of.load(file)
    with pytest.raises(FileNotFoundError, match="Write one with: toque new"):
        settings_of.load(tmp_path / "none.toml")


def test_what_does_not_change_the_bits_may_differ():
    run = Run(threads=1, device="cpu")
    other = run.changed(threads=4, workers=2, out="x", log={"tensorboard": False})
    assert settings_of.differences(run, other) == []
    assert settings_of.differences(run, run.changed(epochs=20, loss={"label_smoothing": 0})) == [
        "epochs: 12.0 there, 20.0 here",
        "loss.label_smoothing: unset there, 0.0 here",
    ]
