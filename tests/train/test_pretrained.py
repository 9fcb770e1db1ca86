"""Runs that begin from the weights of a file."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.train import runs
from toque import checks
from toque.models import weights
from toque.train import run as settings_of


def weights_of(path, classes=2, seed=3):
    torch.manual_seed(seed)
    model = runs.network()
    if classes != 2:
        model[-1] = nn.Linear(4 * 36, classes)
    save_file(model.state_dict(), path)
    return model.state_dict()


def untrained(out, source, **changed):
    """A run whose rate is so small that its weights stay where they begin."""
    slow = {"name": "sgd", "learning_rate": 1e-12, "weight_decay": 0.0}
    return runs.train(
        out, pretrained=str(source), epochs=0.5, ema={}, optimizer=slow, **changed
    ).model.state_dict()


def test_a_run_begins_at_the_weights_of_a_file_and_its_head_anew_for_other_classes(
    tmp_path, capsys
):
    given = weights_of(tmp_path / "w.safetensors", classes=7)
    found = untrained(tmp_path / "run", tmp_path / "w.safetensors", show="lines")
    torch.testing.assert_close(found["0.weight"], given["0.weight"], rtol=1e-6, atol=1e-7)
    assert found["5.weight"].shape == (2, 144)
    said = capsys.readouterr().err
    assert "w.safetensors: 7 tensors loaded; 5.weight, 5.bias begin anew" in said


def test_a_finished_run_is_a_file_of_weights_too(tmp_path):
    runs.train(tmp_path / "first", epochs=1)
    first = load_file(tmp_path / "first" / "weights.safetensors")
    found = untrained(tmp_path / "second", tmp_path / "first")
    torch.testing.assert_close(found["5.weight"], first["5.weight"], rtol=1e-6, atol=1e-7)


def test_killed_before_its_first_save_it_does_not_depend_on_the_file_any_more(tmp_path):
    weights_of(tmp_path / "w.safetensors")
    given = {"pretrained": str(tmp_path / "w.safetensors"), "checkpoint": {"every_s": 1e6}}
    runs.train(tmp_path / "whole", **given)
    with pytest.raises(runs.Crash):
        runs.train(tmp_path / "killed", loss=runs.crashing_after(2), **given)
    weights_of(tmp_path / "w.safetensors", seed=4)  # someone trains on in that file
    runs.train(tmp_path / "killed", **given)
    assert runs.bits(tmp_path / "killed") == runs.bits(tmp_path / "whole")


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: None, "must be a file of weights; there is none"),
        (lambda path: path.write_bytes(b"no"), "a whole file of weights"),
        (lambda path: save_file({"x": torch.zeros(3)}, path), "those of the same architecture"),
    ],
)
def test_what_cannot_be_begun_from_is_refused_before_anything_is_written(tmp_path, write, says):
    write(tmp_path / "w.safetensors")
    with pytest.raises(checks.UserMistake, match=says):
        untrained(tmp_path / "run", tmp_path / "w.safetensors")
    assert not (tmp_path / "run").exists()


def test_the_setting_is_a_choice_or_a_file():
    for text, value in (("true", True), ("false", False), ("w.pth", "w.pth")):
        assert settings_of.load(overrides={"pretrained": text}).pretrained == value


def test_a_network_inside_of_a_module_is_found():
    own, theirs = runs.network(), runs.network()
    inside = {f"model.{name}": tensor for name, tensor in theirs.state_dict().items()}
    inside["criterion.weight"] = torch.ones(2)
    report = weights.load(own, inside, strict=True)
    assert len(report.loaded) == len(own.state_dict())
    assert torch.equal(own[0].weight, theirs[0].weight)
