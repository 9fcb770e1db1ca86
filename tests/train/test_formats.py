"""Runs that an older toque began: this one continues them.

format-1 and format-2 were written by toque 0.1.0: 7 of 12 steps of the run below, ended by a SIGTERM.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import toque
from toque import data
from toque.train.run_folder import folder
from toque.train.state import checkpoint

HERE = Path(__file__).parent


def images():
    pixels = np.random.RandomState(0).randint(0, 256, (48, 8, 8), dtype=np.uint8)
    labels = np.arange(48) % 3
    classes = ["a", "b", "c"]
    return (
        data.ArraySource(pixels[:32], labels[:32], classes),
        data.ArraySource(pixels[32:], labels[32:], classes),
    )


def network():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(72, 3)
    )


@pytest.mark.parametrize("name", ["format-1", "format-2"])
def test_a_run_of_an_older_toque_is_continued(tmp_path, name, capsys):
    out = tmp_path / "run"
    shutil.copytree(HERE / name, out)
    before = (out / "metrics.jsonl").read_text().splitlines()
    train, val = images()
    stored, _ = folder.read_run(out)
    result = toque.fit(
        stored.changed(out=str(out)), train=train, val=val, model=network,
        loss=nn.functional.cross_entropy, show="lines",
    )  # fmt: skip
    said = capsys.readouterr().err
    assert "continues at image 56 of 96" in said
    # The machine may be another one; of what the format lacked nothing may be called changed.
    assert "precision" not in said and "ranks" not in said and "damaged" not in said
    assert result.images_seen == 96 and result.weights.is_file()
    rows = (out / "metrics.jsonl").read_text().splitlines()
    assert rows[: len(before)] == before
    assert [json.loads(row)["images_seen"] for row in rows[len(before) :]] == [64, 64, 72, 80, 88, 96, 96]  # fmt: skip


def test_every_tensor_of_format_1_is_where_the_step_looks_for_it():
    path = HERE / "format-1" / "checkpoints" / "images-000000000056"
    state = checkpoint.load(path)
    raw = load_file(path / "tensors.safetensors")
    names = list(network().state_dict())
    assert list(state["model"]) == names
    for number, name in enumerate(names):  # the model comes first in the file
        assert torch.equal(state["model"][name], raw[str(number)])
    moments = state["optimizer"]["default"]["state"]
    assert sorted(moments) == [0, 1, 2, 3, 4, 5] and float(moments[0]["step"]) == 7
    assert moments[0]["exp_avg"].shape == (2, 1, 3, 3)
    assert state["loss_scale"] is None and state["images_seen"] == 56
    assert int(state["ema"]["images"]) == 56
