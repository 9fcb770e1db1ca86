"""Loops of a user's own, from the public parts: the guide's, killed; and each part by itself."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from tests import guides
from tests.train.runs import train as fitted
from tests.train.stepping import batch, labels, pixels, weights
from toque import data, losses, models, train
from toque.models.parameters import Rule
from toque.train.optimisation.schedule import schedule
from toque.train.run import Run
from toque.train.state import checkpoint
from toque.train.steps.step import Step

PAGE = "own_loop.md"

# A process that ends by kill -9 in the midst of what `at` says: a save, or a step.
KILLED = """
import os, signal, sys
import own
from toque.train.state import checkpoint
from toque.train.steps.step import Step

def dying(function, calls):
    def called(*given, **named):
        nonlocal calls
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **named)
    return called

at, calls = sys.argv[2], int(sys.argv[3])
if at == "save":  # all files are written; the name of the checkpoint is not
    checkpoint.complete = dying(checkpoint.complete, calls)
if at == "step":
    Step.__call__ = dying(Step.__call__, calls)
own.main(sys.argv[1])
if at == "end":
    own.main(sys.argv[1] + "-whole")
"""


def test_the_guides_loop_killed_in_a_save_and_in_a_step_ends_in_the_same_bits(tmp_path):
    (_, program), *_ = guides.blocks(PAGE, "python")
    (tmp_path / "own.py").write_text(program)

    def start(*at):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run-whole").mkdir(exist_ok=True)
        paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
        return subprocess.run(
            [sys.executable, "-c", KILLED, "run", *map(str, at)],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip

    folder = tmp_path / "run" / "checkpoints"
    assert start("save", 1).returncode == -9
    names = sorted(path.name for path in folder.iterdir())
    assert names == [".writing-images-000000001280", "images-000000000640"]
    assert start("step", 7).returncode == -9  # counted from the checkpoint on
    done = start("end", 0)
    assert done.returncode == 0, done.stderr
    assert "640 images" not in done.stdout.splitlines()[0]  # it went on, and did not begin anew
    killed = (tmp_path / "run" / "weights.safetensors").read_bytes()
    assert killed == (tmp_path / "run-whole" / "weights.safetensors").read_bytes()


def test_the_guide_runs_and_its_loop_over_a_dataloader_continues_in_the_same_bits(tmp_path, capsys):
    names = guides.run(PAGE, tmp_path)
    assert "best at image" in capsys.readouterr().out
    plain_loop = names["plain_loop"]
    rows = TensorDataset(pixels(650, 1, 28, 28, dtype=torch.float32), labels(650, classes=10))
    whole = plain_loop(tmp_path / "whole", rows)
    plain_loop(tmp_path / "stopped", rows, stop_images=1088)  # 128 images after a checkpoint
    continued = plain_loop(tmp_path / "stopped", rows)
    assert torch.equal(weights(whole), weights(continued))


def network(channels_last=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 3))
    return model.to(memory_format=torch.channels_last) if channels_last else model


def learn(model, optimizer, first, last):
    for number in range(first, last):
        x = pixels(5, 3, 6, 6, dtype=torch.float32, seed=number)
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels(5, seed=number)).backward()
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_a_plain_optimiser_of_channels_last_weights_is_restored_exactly(tmp_path, fused):
    def parts():
        model = network(channels_last=True)
        return {
            "model": model,
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused),
        }

    whole = parts()
    learn(*whole.values(), 0, 8)
    saved = parts()
    learn(*saved.values(), 0, 4)
    train.CheckpointFolder(tmp_path).save(saved, 20)
    restored = parts()
    assert train.CheckpointFolder(tmp_path).restore(restored) == 20
    learn(*restored.values(), 4, 8)
    assert torch.equal(weights(whole["model"]), weights(restored["model"]))


def test_a_damaged_checkpoint_is_told_set_aside_and_the_one_before_is_used(tmp_path):
    folder = train.CheckpointFolder(tmp_path, keep=3)
    model = nn.Linear(3, 2)
    first = copy.deepcopy(model.state_dict())
    folder.save({"model": model}, 10)
    nn.init.zeros_(model.weight)
    newest = folder.save({"model": model}, 20)
    file = newest / "tensors.safetensors"
    bytes_ = bytearray(file.read_bytes())
    bytes_[-1] ^= 1
    file.write_bytes(bytes_)
    with pytest.warns(UserWarning, match=r"damaged checkpoint: .*sha256.* one before it is used"):
        assert folder.restore({"model": model}) == 10
    assert torch.equal(model.weight, first["weight"])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["damaged-images-000000000020", "images-000000000010"]


def test_an_empty_folder_restores_nothing_and_dicts_are_filled_in_place(tmp_path):
    folder = train.CheckpointFolder(tmp_path / "not yet there")
    mine = {"rows": [1, 2.5, None, "x"], "mean": torch.arange(3), 7: {"deep": True}}
    assert folder.restore({"mine": mine}) == 0 and mine["rows"] == [1, 2.5, None, "x"]
    assert folder.latest() is None and folder.best() is None
    folder.save({"mine": mine}, 5)
    mine["mean"] += 1
    again = {"other": 1}
    assert folder.restore({"mine": again}) == 5
    assert again.keys() == mine.keys() and again["rows"] == mine["rows"]
    assert again["mean"].tolist() == [0, 1, 2] and again[7] == {"deep": True}


def test_the_newest_stay_and_the_best_by_score(tmp_path):
    folder = train.CheckpointFolder(tmp_path, keep=1)
    for images, score in ((10, 0.5), (20, 0.9), (30, 0.7), (40, None)):
        folder.save({"mine": {"images": images}}, images, score=score)
    found = [one.images_seen for one in checkpoint.found(tmp_path)]
    assert found == [20, 30, 40]  # best, last with a score, newest
    best = folder.best()
    assert (best.images_seen, best.score, best.state) == (20, 0.9, {"mine": {"images": 20}})
    # The same count again: kept as it is, but for one that has a score now.
    folder.save({"mine": {"images": -1}}, 40)
    assert folder.latest().state == {"mine": {"images": 40}}
    folder.save({"mine": {"images": -1}}, 40, score=1.0)
    assert folder.latest().state == folder.best().state == {"mine": {"images": -1}}


def test_a_save_that_fails_leaves_the_ones_before_whole(tmp_path, monkeypatch):
    folder = train.CheckpointFolder(tmp_path)
    folder.save({"mine": {"a": 1}}, 1)

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        folder.save({"mine": {"a": 2}}, 2)
    assert folder.latest().images_seen == 1
    assert [path.name for path in tmp_path.iterdir()] == ["images-000000000001"]


def test_what_does_not_fit_is_said_in_a_sentence(tmp_path):
    folder = train.CheckpointFolder(tmp_path / "own")
    model = nn.Linear(3, 2)
    for wrong, kind, sentence in (
        (lambda: train.CheckpointFolder(tmp_path, keep=0), ValueError, "keep must be >= 1; got 0"),
        (lambda: folder.save({}, 1), ValueError, "parts must be at least one"),
        (lambda: folder.save({"model": model}, -1), ValueError, "images_seen must be >= 0"),
        (lambda: folder.save({"m": model}, 1, score=float("nan")), ValueError, "score must be fin"),
        (lambda: folder.save({"loss": 3.0}, 1), TypeError, "loss must be a part with state_dict"),
        (lambda: folder.save({"a": {"b": np.int64(1)}}, 1), TypeError, "plain values; got int64"),
        (lambda: folder.save({"a": {(1, 2): 1}}, 1), TypeError, "keys of text .* got tuple"),
    ):
        with pytest.raises(kind, match=sentence):
            wrong()
    assert not (tmp_path / "own").exists()
    folder.save({"model": model}, 1)
    with pytest.raises(ValueError, match=r"parts must be those that were saved: model; got mine"):
        folder.restore({"mine": {}})
    with pytest.raises(ValueError, match=r"restore: model must be what it was .*size mismatch"):
        folder.restore({"model": nn.Linear(4, 2)})


def test_a_folder_of_fit_is_no_folder_of_ones_own(tmp_path):
    result = fitted(tmp_path / "run", epochs=1)
    with pytest.raises(ValueError, match=r"written by its save; got a run of toque\.fit"):
        train.CheckpointFolder(result.out / "checkpoints").latest()


def test_an_optimiser_has_its_groups_scaled_from_the_start_and_at_every_rate():
    model = network()
    made = train.create_optimizer(
        model, {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.3, "betas": [0.8, 0.9]},
        [Rule("3.*", lr_scale=10), Rule("0.*", frozen=True)],
    )  # fmt: skip
    (part,) = made.parts.values()
    assert isinstance(part, torch.optim.AdamW) and part.defaults["betas"] == (0.8, 0.9)

    def groups():
        return {
            name: (group["lr"], group["weight_decay"])
            for group in part.param_groups
            for name in group["names"]
        }

    assert groups() == {
        "1.weight": (0.01, 0), "1.bias": (0.01, 0), "3.weight": (0.1, 0.3), "3.bias": (0.1, 0),
    }  # fmt: skip
    made.set_learning_rate(0.5)
    assert groups()["3.bias"] == (5.0, 0) and groups()["1.bias"] == (0.5, 0)


def test_others_take_what_rules_give_them_at_their_own_rate():
    model, twin = network(), network()
    made = train.create_optimizer(
        model, {"name": "sgd", "learning_rate": 0.1, "weight_decay": 0},
        [Rule("3.*", optimizer="adam")], others={"adam": {"name": "adam", "learning_rate": 0.02}},
    )  # fmt: skip
    plain = [
        torch.optim.SGD([*twin[0].parameters(), *twin[1].parameters()], 0.1, 0.9, nesterov=True),
        torch.optim.Adam(twin[3].parameters(), 0.02, weight_decay=0),
    ]
    made.parts["adam"].param_groups[0]["weight_decay"] = 0
    for number in range(3):
        x, y = pixels(5, 3, 6, 6, dtype=torch.float32, seed=number), labels(5, seed=number)
        made.zero_grad()
        F.cross_entropy(model(x), y).backward()
        made.step()
        twin.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        for one in plain:
            one.step()
    torch.testing.assert_close(weights(model), weights(twin))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "adamw"}, r"create_optimizer: learning_rate must be given; got none\."),
        ({"name": "adamv", "learning_rate": 1}, "create_optimizer: adamv is not an .* adam or"),
        (
            {"name": "sgd", "learning_rate": 1, "momentun": 1},
            "^create_optimizer: momentun is not a",
        ),
        ({"name": "sgd", "learning_rate": -1}, "^create_optimizer: learning_rate must be greater"),
        ({"name": "sgd", "learning_rate": 1, "sam": 0.1}, "sam must be left out: it belongs"),
    ],
)
def test_a_wrong_optimiser_is_said_in_a_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        train.create_optimizer(network(), settings)


def test_wrong_rules_are_said_in_a_sentence():
    sgd = {"name": "sgd", "learning_rate": 0.1}
    with pytest.raises(ValueError, match=r"of rule 0\.\* must be a name among others; got adam"):
        train.create_optimizer(network(), sgd, [Rule("0.*", optimizer="adam")])
    with pytest.raises(ValueError, match="every rule must be one that matches a parameter"):
        train.create_optimizer(network(), sgd, [Rule("head.*", lr_scale=2)])
    with pytest.raises(TypeError, match=r"create_optimizer: model must be an nn\.Module"):
        train.create_optimizer("resnet18", sgd)


@pytest.mark.parametrize(
    "name", ["cosine", "linear", "constant", "step", "one_cycle", "trapezoid", "polynomial"]
)
def test_a_schedule_is_that_of_a_run(name):
    settings = {"name": name, "warmup_fraction": 0.3, "every_epochs": 1, "final_fraction": 0.1}
    run = Run(
        schedule=settings, optimizer={"learning_rate": 0.3}, batch_size=16, epochs=4
    )  # fmt: skip
    of_run = schedule(run, 4000)
    own = train.create_schedule(
        settings, learning_rate=0.3, total_images=4000, batch_size=16, epochs=4
    )
    assert [own(n) for n in range(0, 4001, 16)] == [of_run(n) for n in range(0, 4001, 16)]


def test_a_wrong_schedule_is_said_in_a_sentence():
    given = {"learning_rate": 0.1, "total_images": 100, "batch_size": 10}
    for settings, changed, sentence in (
        ({"name": "cosin"}, {}, "create_schedule: name must be 'cosine', 'linear'"),
        ({"warmup": 1}, {}, "create_schedule: warmup is not a setting. Did you mean schedule.warm"),
        ({"name": "step"}, {}, "epochs must be > 0 for step; got None"),
        ({}, {"total_images": 0}, "total_images must be > 0; got 0"),
        ({}, {"learning_rate": 0}, "learning_rate must be > 0; got 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            train.create_schedule(settings, **given | changed)


def test_a_step_of_a_plain_optimiser_is_the_loop_written_by_hand():
    model, twin = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=9.0, momentum=0.9)
    step = train.create_step(model, nn.CrossEntropyLoss(), optimizer, seed=0, clip_norm=0.5)
    plain = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for number in range(4):
        x, y = pixels(6, 3, 6, 6, dtype=torch.float32, seed=number), labels(6, seed=number)
        plain.zero_grad()
        value = F.cross_entropy(twin(x), y)
        value.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        plain.step()
        outcome = step(data.Batch.of(x, y), 6 * number, 0.1)
        torch.testing.assert_close(outcome.loss, value.detach())
    torch.testing.assert_close(weights(model), weights(twin))


def test_a_step_weighs_its_parts_by_their_targets_and_averages():
    torch.manual_seed(0)
    model = nn.Conv2d(2, 3, 3, padding=1).double()
    y = labels(7, 5, 5)
    y[0], y[2, :4] = 255, 255
    whole = copy.deepcopy(model)
    x = pixels(7, 2, 5, 5)
    F.cross_entropy(whole(x), y, ignore_index=255).backward()
    average = models.EMA(model, half_life_images=7)
    step = train.create_step(
        model, losses.create("cross_entropy", {"ignore_index": 255}),
        torch.optim.SGD(model.parameters(), lr=1.0), seed=0, micro_batch=2, ema=average,
    )  # fmt: skip
    before, parts = model.weight.detach().clone(), []
    model.register_forward_pre_hook(lambda module, given: parts.append(len(given[0])))
    step(data.Batch.of(x, y), 0, 1.0)
    assert parts == [2, 2, 2, 1]
    torch.testing.assert_close(before - model.weight, whole.weight.grad)
    assert torch.equal(average.model.weight, model.weight)  # the first update is a copy


def test_a_step_without_a_number_changes_nothing_and_memory_that_runs_out_is_told():
    model = network()
    optimizer = train.create_optimizer(model, {"name": "adamw", "learning_rate": 0.1})
    step = train.create_step(model, nn.CrossEntropyLoss(), optimizer, seed=0)
    good = batch(pixels(6, 3, 6, 6, dtype=torch.float32), labels(6))
    step(good, 0, 0.1)
    before = copy.deepcopy(step.state_dict())
    bad = batch(good.images * float("inf"), good.targets)
    outcome = step(bad, 6, 0.1)
    assert outcome.skipped == 1 and not outcome.loss.isfinite()
    after = step.state_dict()
    assert torch.equal(after["model"]["1.running_mean"], before["model"]["1.running_mean"])
    assert str(after) == str(before)

    forward, largest = model[0].forward, 3

    def small_memory(x):
        if len(x) > largest:
            raise torch.OutOfMemoryError("out of memory")
        return forward(x)

    model[0].forward = small_memory
    with pytest.warns(UserWarning, match="out of memory at image 12 with 6 images at a time"):
        step(good, 12, 0.1)
    assert step.micro_batch == 3 and step.state_dict()["micro_batch"] == 3


def test_a_wrong_step_is_said_in_a_sentence():
    model = network()
    loss, sgd = nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    two_rates = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[3].parameters()}], lr=0.1
    )
    for given, changed, sentence in (
        ((model, loss, sgd), {"micro_batch": 0}, "micro_batch must be > 0; got 0"),
        ((model, loss, sgd), {"clip_norm": -1.0}, r"clip_norm must be > 0; got -1\.0"),
        ((model, loss, sgd), {"precision": "float61"}, "precision must be .* mean float16"),
        (
            (model, loss, two_rates),
            {},
            r"of one rate, or with an lr_scale each; got \[0\.1, 0\.5\]",
        ),
        ((wrapped, loss, sgd), {}, "model must be on one device; got DistributedDataParallel"),
        ((model, loss, "adamw"), {}, r"of create_optimizer or of torch\.optim; got str"),
    ):
        with pytest.raises((ValueError, TypeError), match=sentence):
            train.create_step(*given, seed=0, **changed)
    with pytest.raises(TypeError, match=r"Batch\.of: images must be a tensor"):
        data.Batch.of([1, 2], labels(2))


def test_the_weights_of_the_best_checkpoint_are_those_saved(tmp_path):
    model = network()
    step = train.create_step(
        model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1), seed=0
    )
    assert isinstance(step, Step)
    folder = train.CheckpointFolder(tmp_path)
    folder.save({"step": step}, 0, score=1.0)
    kept = weights(model).clone()
    step(batch(pixels(6, 3, 6, 6, dtype=torch.float32), labels(6)), 0, 0.1)
    folder.save({"step": step}, 6, score=0.5)
    file = tmp_path / checkpoint.name_of(0) / "tensors.safetensors"
    assert load_file(file)  # safetensors, as anyone reads them
    model.load_state_dict(folder.best().state["step"]["model"])
    assert torch.equal(weights(model), kept)
