"""replay: a step again with the bits the run had, and with its images."""

import json
import math
import os
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

import toque
from tests.train.runs import TRAIN, VAL, network, settings
from toque import checks, cli, durable
from toque.train import replay
from toque.train.state import checkpoint

STEPS = 19


def train(out, **changed):
    """A run of 19 steps of 16 images, with a row and a checkpoint for each."""
    changed = {
        "augment": "light",
        "threads": 2,
        "checkpoint": {"every_s": 1e-6, "background": False, "keep": 99},
        "log": {"tensorboard": False, "every_images": 16},
        **changed,
    }
    return toque.fit(settings(out, **changed), train=TRAIN, val=VAL, model=network, show="quiet")


def again(out, **which):
    return replay(out, train=TRAIN, val=VAL, model=network, **which)


def rows_of(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["images_seen"]: row for row in rows if row["split"] == "train"}


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("replay") / "run"
    train(out)
    return out


@pytest.mark.parametrize("step", [1, 7, 19])
def test_the_step_has_the_bits_it_had_in_the_run(run, step):
    before = tree(run)
    found = again(run, step=step)
    row = rows_of(run)[16 * step]
    assert float(f"{found.loss:.7g}") == row["loss"]
    assert float(f"{found.learning_rate:.7g}") == row["learning_rate"]
    assert found.exact is True and found.notes == () and not found.skipped
    assert found.began_images == found.images_seen == 16 * (step - 1)
    assert again(run, images=16 * step).loss == found.loss == again(run, images=16 * step - 3).loss
    assert tree(run) == before


@pytest.mark.parametrize(
    "changed",
    [
        {"precision": "bfloat16"},
        {"precision": "float16", "clip": {"norm": 0.1}},
        {"memory": {"micro_batch": 6}, "optimizer": {"name": "sgd"}, "ema": {}},
    ],
)
def test_also_with_other_arithmetic_and_from_the_beginning(tmp_path, changed):
    train(tmp_path / "run", **changed)
    near = again(tmp_path / "run", step=9)
    assert near.exact and near.began_images == 128
    for one in checkpoint.found(tmp_path / "run" / "checkpoints"):
        if one.images_seen < 144:
            shutil.rmtree(one.path)
    far = again(tmp_path / "run", step=9)
    assert far.exact and far.began_images == 0
    assert far.loss == near.loss and far.gradient_norm == near.gradient_norm
    assert float(f"{far.loss:.7g}") == rows_of(tmp_path / "run")[144]["loss"]


def test_it_says_if_the_weights_are_others(run, monkeypatch):
    monkeypatch.setattr("toque.train.studies.trial.schedule", lambda run, total: lambda seen: 1e-5)
    assert again(run, step=5).exact is False


def test_a_damaged_checkpoint_is_passed_over_noted_and_left_where_it_is(run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    file = out / "checkpoints" / f"images-{64:012d}" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    before = tree(out)
    found = again(out, step=5)
    assert found.began_images == 48 and found.exact
    assert len(found.notes) == 1 and str(file) in found.notes[0]
    assert tree(out) == before


def test_the_gradient_norm_is_that_of_the_step(tmp_path):
    plain = {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0}
    train(tmp_path / "run", optimizer=plain, precision="float16", memory={"micro_batch": 5})
    found = again(tmp_path / "run", step=4)
    before, after = (
        checkpoint.load(tmp_path / "run" / "checkpoints" / f"images-{count:012d}")["model"]
        for count in (48, 64)
    )
    moved = [(after[name] - before[name]).flatten() for name, _ in network().named_parameters()]
    norm = float(torch.cat(moved).norm()) / found.learning_rate
    assert found.gradient_norm == pytest.approx(norm, rel=1e-3)
    # Clipping shortens what the optimiser takes, not what is shown.
    train(tmp_path / "clipped", optimizer=plain, clip={"norm": 1e-4})
    train(tmp_path / "free", optimizer=plain)
    first, same = again(tmp_path / "clipped", step=1), again(tmp_path / "free", step=1)
    assert first.gradient_norm == same.gradient_norm > 0.1


def test_images_answers_and_losses_belong_together(run):
    found = again(run, step=3)
    assert found.images.shape == (16, 1, 8, 8) and len(found.names) == len(found.losses) == 16
    assert [TRAIN.name(int(index)) for index in found.indices] == list(found.names)
    assert [int(TRAIN.labels[index]) for index in found.indices] == found.targets.tolist()
    # Of the settings' loss: label smoothing as in the run.
    mine = cross_entropy(found.outputs, found.targets, label_smoothing=0.1, reduction="none")
    assert found.losses == pytest.approx(mine.tolist(), rel=1e-5)
    assert np.mean(found.losses) == pytest.approx(found.loss, rel=1e-5)


class Poisoned(torch.utils.data.Dataset):
    """Float pictures, of which one has a pixel that is no number."""

    classes = ("left", "right")
    targets = tuple(TRAIN.labels.tolist())

    def __len__(self):
        return len(TRAIN)

    def __getitem__(self, index):
        image = TRAIN.read(index).float() / 255
        if index == 42:
            image[0, 3, 3] = math.nan
        return image, self.targets[index]


def test_a_step_without_a_number_names_its_image(tmp_path):
    out = tmp_path / "run"
    run = settings(
        out,
        augment="off",
        log={"tensorboard": False, "every_images": 16},
        nonfinite={"limit": 1},
    )
    poisoned = {"train": Poisoned(), "val": VAL, "model": network}
    with pytest.raises(ValueError, match=r"loss must be finite; got .* \(step (\d+)") as stopped:
        toque.fit(run, **poisoned, show="quiet")
    step = int(str(stopped.value).split("(step ")[1].split(",")[0])
    if not (out / "run.toml").exists():
        pytest.fail("the seed of this test put the image into the first step: choose another")
    found = replay(out, step=step, **poisoned)
    assert found.skipped and math.isnan(found.loss) and not math.isfinite(found.gradient_norm)
    assert "0.weight" in found.not_finite
    (bad,) = (n for n, picture in enumerate(found.images) if not picture.isfinite().all())
    assert found.indices[bad] == 42


@pytest.mark.parametrize(
    ("which", "sentence"),
    [
        ({}, "step, images must be one of the two; got neither"),
        ({"step": 1, "images": 16}, "got both"),
        ({"step": 20}, r"step must be 1 .. 19; got 20. A step has 16 images"),
        ({"images": 305}, r"step must be 1 .. 19; got 20"),
        ({"step": 0}, r"step must be 1 .. 19; got 0"),
        ({"step": 2, "train": None}, "train must be what the run was given; got none"),
        ({"step": 2, "model": None}, "model must be what the run was given; got none"),
        ({"step": 2, "train": VAL}, r"other data: .*100 \+ 30 images then, 30 \+ 30 now"),
    ],
)
def test_mistakes(run, which, sentence):
    with pytest.raises(checks.UserMistake, match=sentence):
        replay(run, **{"train": TRAIN, "val": VAL, "model": network, **which})


def test_a_model_built_before_the_run_needs_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    model, data = network(), {"train": TRAIN, "val": VAL}
    toque.fit(settings(tmp_path / "run"), **data, model=model, show="quiet")
    sentence = r"step must be \d+ or later, after the oldest checkpoint left, for a module built"
    with pytest.raises(ValueError, match=sentence):
        replay(tmp_path / "run", step=3, **data, model=network())
    assert replay(tmp_path / "run", step=STEPS, **data, model=network()).exact


def test_it_says_how_many_steps_it_runs_and_why(run, tmp_path):
    said = []
    again(run, step=9, say=said.append)
    out = tmp_path / "run"
    shutil.copytree(run, out)
    for one in checkpoint.found(out / "checkpoints")[:12]:
        shutil.rmtree(one.path)
    oldest = checkpoint.found(out / "checkpoints")[0].images_seen
    again(out, step=4, say=said.append)
    again(out, step=oldest // 16 + 3, say=said.append)
    shutil.rmtree(out / "checkpoints" / f"images-{oldest + 16:012d}")
    again(out, step=oldest // 16 + 2, say=said.append)
    assert said == [
        "one step, from the checkpoint just before it",
        "4 steps, from the beginning: no checkpoint before it was kept; the oldest left is at "
        f"image {oldest} (checkpoint.keep = 99)",
        "one step, from the checkpoint just before it",
        f"2 steps, from the checkpoint at image {oldest}",
    ]


def photos_of(folder):
    for kind in ("cat", "dog"):
        (folder / kind).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 255, (12, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{number}.bmp")
    return folder


def test_files_written_since_the_run_began_are_named(tmp_path, capsys):
    photos, out = photos_of(tmp_path / "photos"), tmp_path / "run"
    run = settings(out, data=str(photos), batch_size=4, epochs=1)
    toque.fit(run, show="quiet")
    before = replay(out, step=2)
    file = photos / before.names[1]
    pixels = bytearray(file.read_bytes())
    pixels[-30:] = bytes(30)  # as many bytes as there were: the fingerprint is the same
    file.write_bytes(pixels)
    os.utime(file, ns=(time.time_ns(), time.time_ns() + 10**9))
    found = replay(out, step=2)
    assert len(found.notes) == 1 and found.exact is not True
    assert found.notes[0].startswith(f"1 (train/{before.names[1]}) written since this run began")
    assert found.loss != before.loss
    capsys.readouterr()
    toque.fit(run, show="lines")
    assert f"warning: 1 (train/{before.names[1]}) written since" in capsys.readouterr().err
    # Another copy of the data has other times throughout, and nothing is said of it.
    for file in photos.rglob("*.bmp"):
        os.utime(file, ns=(time.time_ns(), time.time_ns() + 10**9))
    assert replay(out, step=2).notes == ()


def test_a_picture_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    photos, out, sheet = photos_of(tmp_path / "photos"), tmp_path / "run", tmp_path / "step.png"
    toque.fit(settings(out, data=str(photos), batch_size=4, epochs=1), show="quiet")
    command = ["replay", str(out), "--step", "2", "-o", str(sheet)]
    sheet.write_bytes(b"the one before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "sync", full)
    assert CliRunner().invoke(cli.app, command).exit_code != 0
    assert sheet.read_bytes() == b"the one before"
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "run", "step.png"}


def test_the_command_shows_the_step_and_writes_the_picture(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 255, (12, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{number}.png")
    out, sheet = tmp_path / "run", tmp_path / "sheets" / "step.png"
    run = settings(out, data=str(tmp_path / "photos"), batch_size=4, epochs=1)
    toque.fit(run, show="quiet")
    answer = CliRunner().invoke(cli.app, ["replay", str(out), "--step", "2", "-o", str(sheet)])
    assert answer.exit_code == 0, answer.output
    assert "step 2   images 4 .. 7" in answer.output and "gradient norm" in answer.output
    assert answer.output.count(".png") == 4 + 1
    with Image.open(sheet) as picture:
        assert picture.width == 4 * 168
    answer = CliRunner().invoke(cli.app, ["replay", str(out), "--images", "8", "--json"])
    found = json.loads(answer.stdout)
    assert found["step"] == 2 and len(found["images"]) == 4
    losses = [image["loss"] for image in found["images"]]
    assert losses == sorted(losses, reverse=True)
    assert found["images"][0]["target"] == found["images"][0]["name"].split("/")[0]
