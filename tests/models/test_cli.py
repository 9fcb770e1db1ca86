"""toque models and toque describe, as functions: what a person reads."""

import pytest
import torch

from toque.cli.describe import describe
from toque.cli.models import models


def test_models_lists_parameters_operations_and_input(capsys):
    models("resnet*", 1000, 40)
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if "toque/resnet18" in line)
    assert "11.69 M" in row and "3.63" in row and "3x224x224" in row
    assert not any("repvgg" in line for line in lines)


def test_models_of_another_catalogue_and_a_limit(capsys):
    models("torchvision/mobilenet_v3*", 1000, 1)
    out = capsys.readouterr().out
    assert "torchvision/mobilenet_v3_large" in out and "1 more; see them with --limit 2." in out


def test_a_pattern_that_matches_nothing_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean toque/resnet18"):
        models("toque/resnet19", 1000, 40)


def test_describe_a_model(capsys, tmp_path):
    out = tmp_path / "model.html"
    describe("toque/resnet10_small", "1x28x28", 10, 4, 2, "adamw", True, str(out))
    text = capsys.readouterr().out
    assert "toque/resnet10_small for 4 x 1 x 28 x 28" in text
    assert "stage4 Stage" in text and "128x4x4" in text and "time" in text
    assert "a training step with adamw: peak" in text
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_describe_a_run_takes_its_model_and_classes(capsys, tmp_path, monkeypatch):
    from toque.train.run import Run

    environment = {"classes": ["cat", "dog", "hen"], "channels": 1}
    run = Run(data="photos", model="toque/resnet10_small", image_size=32)
    monkeypatch.setattr("toque.train.run_folder.folder.read_run", lambda path: (run, environment))
    describe(str(tmp_path), "", 1000, 1, 2, "sgd", False, "")
    text = capsys.readouterr().out
    assert f"toque/resnet10_small of {tmp_path} for 1 x 1 x 32 x 32" in text
    assert "head Linear" in text and "387" in text  # 128 * 3 + 3


@pytest.mark.parametrize("size", ["224", "3x224", "3x0x5", "axbxc"])
def test_describe_says_what_an_input_is(size):
    with pytest.raises(ValueError, match="CxHxW, such as 3x224x224"):
        describe("toque/resnet10_small", size, 10, 1, 2, "sgd", False, "")


def test_describing_does_not_disturb_the_generator():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    from toque.models import create, describe, memory

    state = torch.get_rng_state()
    model = create("resnet10_small", num_classes=2)
    torch.set_rng_state(state)
    describe(model, [1, 3, 32, 32])
    memory.predict(model, [1, 3, 32, 32])
    assert torch.equal(torch.rand(2), expected)
