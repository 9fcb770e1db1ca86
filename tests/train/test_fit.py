"""fit: the same bits whatever happens in between, and a sentence for every mistake."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import toque
from tests.train.runs import (
    TRAIN,
    VAL,
    Crash,
    bits,
    crashing_after,
    images,
    network,
    settings,
    train,
)
from toque import checks
from toque.random import Key
from toque.train.run_folder import environment, folder
from toque.train.state import checkpoint


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "run"
    result = train(out)
    assert result.images_seen == 304  # 19 full batches: the first past 3 x 100 images
    return bits(out)


@pytest.fixture(scope="module")
def uncrashed(tmp_path_factory):
    """The bits of a run on a loss of the caller's that never crashes: its name is in the settings."""
    out = tmp_path_factory.mktemp("uncrashed") / "run"
    train(out, loss=crashing_after(10**9))
    return bits(out)


def test_it_learns_and_writes_a_folder_that_explains_itself(tmp_path):
    result = train(tmp_path / "run", epochs=10)
    assert result.accuracy > 0.9
    names = {path.name for path in (tmp_path / "run").iterdir()} - {".lock"}
    assert names == {
        "run.toml",
        "data.jsonl.gz",
        "metrics.jsonl",
        "checkpoints",
        "weights.safetensors",
        "result.json",
        "answers.safetensors",
        "signal.json",
        "report.html",
    }
    rows = bits(result.out)[1]
    assert [row["images_seen"] for row in rows if row["split"] == "val"] == [
        112,
        208,
        304,
        400,
        512,
        608,
        704,
        800,
        912,
        1008,
    ]
    assert max(row["accuracy"] for row in rows if row["split"] == "val") == pytest.approx(
        result.accuracy
    )


def test_the_same_settings_and_seed_give_the_same_bits_and_another_seed_others(tmp_path, reference):
    train(tmp_path / "same")
    assert bits(tmp_path / "same") == reference
    train(tmp_path / "other", seed=1)
    assert bits(tmp_path / "other")[0] != reference[0]


@pytest.mark.parametrize("threads", [1, 4])
def test_loader_threads_do_not_change_a_bit(tmp_path, reference, threads):
    train(tmp_path / "run", threads=threads)
    assert bits(tmp_path / "run") == reference


def test_what_came_before_in_the_process_does_not_change_a_bit(tmp_path, reference):
    torch.rand(17)
    np.random.rand(5)
    train(tmp_path / "run")
    assert bits(tmp_path / "run") == reference


@pytest.mark.parametrize("steps", [0, 1, 6, 7, 12, 18])
def test_crashed_at_any_step_and_continued_ends_in_the_same_bits(tmp_path, uncrashed, steps):
    with pytest.raises(Crash):
        train(tmp_path / "run", loss=crashing_after(steps))
    result = train(tmp_path / "run", loss=crashing_after(10**9))
    assert result.images_seen == 304
    assert bits(tmp_path / "run") == uncrashed


def test_continuing_in_the_same_environment_warns_of_nothing(tmp_path, capsys):
    with pytest.raises(Crash):
        train(tmp_path / "run", loss=crashing_after(9))
    train(tmp_path / "run", loss=crashing_after(10**9), show="lines")
    said = capsys.readouterr().err
    assert "continues at image 144 of 304" in said and "warning" not in said


def test_crashed_between_checkpoints_ends_in_the_same_bits(tmp_path):
    rare = {"checkpoint": {"every_s": 1e6}}
    train(tmp_path / "whole", loss=crashing_after(10**9), **rare)
    with pytest.raises(Crash):
        train(tmp_path / "run", loss=crashing_after(11), **rare)
    found = checkpoint.found(tmp_path / "run" / "checkpoints")
    assert [one.images_seen for one in found] == [112]  # only the end of the first epoch
    train(tmp_path / "run", loss=crashing_after(10**9), **rare)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_a_damaged_checkpoint_is_named_and_the_bits_are_made_again(tmp_path, uncrashed, capsys):
    with pytest.raises(Crash):
        train(tmp_path / "run", loss=crashing_after(9))
    newest = checkpoint.found(tmp_path / "run" / "checkpoints")[-1]
    file = newest.path / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content)
    train(tmp_path / "run", loss=crashing_after(10**9))
    said = capsys.readouterr().err
    assert f"damaged checkpoint: {file} has other bytes" in said
    assert bits(tmp_path / "run") == uncrashed


def test_all_checkpoints_damaged_starts_over_and_says_so(tmp_path, reference, capsys):
    train(tmp_path / "run")
    for one in checkpoint.found(tmp_path / "run" / "checkpoints"):
        (one.path / "manifest.json").write_text("{}")
    train(tmp_path / "run")
    assert capsys.readouterr().err.count("damaged checkpoint") >= 2
    assert bits(tmp_path / "run") == reference


def test_a_finished_run_trains_no_further(tmp_path, reference):
    train(tmp_path / "run", loss=crashing_after(10**9))
    before = bits(tmp_path / "run")
    result = train(tmp_path / "run", loss=crashing_after(0))
    assert bits(tmp_path / "run") == before
    assert result.images_seen == 304


def test_a_changed_environment_is_said(tmp_path, monkeypatch, capsys):
    with pytest.raises(Crash):
        train(tmp_path / "run", loss=crashing_after(9))
    real = environment.fingerprint
    monkeypatch.setattr(
        environment, "fingerprint", lambda device: real(device) | {"torch_threads": 99}
    )
    train(tmp_path / "run", loss=crashing_after(10**9))
    assert re.search(
        r"cannot end in the bits .* torch_threads was \d+, is 99", capsys.readouterr().err
    )


def test_a_full_disk_costs_a_warning_and_not_the_run(tmp_path, monkeypatch, capsys, reference):
    real, calls = checkpoint.write, []

    def sometimes_full(*arguments, **named):
        calls.append(named["images_seen"])
        if 32 < named["images_seen"] < 112:
            raise OSError(28, "No space left on device")
        return real(*arguments, **named)

    monkeypatch.setattr(checkpoint, "write", sometimes_full)
    train(tmp_path / "run")
    assert "could not be saved ([Errno 28] No space left on device)" in capsys.readouterr().err
    assert bits(tmp_path / "run") == reference


def test_a_module_that_was_built_before_keeps_its_weights_through_a_crash(tmp_path):
    torch.manual_seed(1)
    first = network()
    torch.manual_seed(1)
    train(tmp_path / "whole", model=network(), loss=crashing_after(10**9))
    with pytest.raises(Crash):
        train(tmp_path / "run", model=first, loss=crashing_after(0))
    torch.manual_seed(2)  # the restarted process draws other weights
    train(tmp_path / "run", model=network(), loss=crashing_after(10**9))
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


class Noisy(torch.utils.data.Dataset):
    """A dataset that draws from every global generator, as users' datasets do."""

    classes = ("left", "right")

    def __len__(self):
        return 40

    def __getitem__(self, index):
        import random

        image, label = TRAIN.item(index)
        shift = torch.rand(1) + random.random() + np.random.rand()
        return image.float().div(255).add(0.1 * shift), label


@pytest.mark.parametrize("workers", [0, 2])
def test_a_noisy_dataset_gives_the_same_bits_through_workers_and_a_crash(tmp_path, workers):
    fixed = {"train": Noisy(), "val": Noisy(), "augment": "off", "batch_size": 8, "epochs": 1}
    train(tmp_path / "whole", loss=crashing_after(10**9), **fixed)
    with pytest.raises(Crash):
        train(tmp_path / "run", loss=crashing_after(3), workers=workers, **fixed)
    train(tmp_path / "run", loss=crashing_after(10**9), workers=workers, **fixed)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_validation_counts_every_image_once(tmp_path):
    result = train(tmp_path / "run")
    x = VAL.read_many(np.arange(30)).float().div(255).sub(0.5).div(0.5)
    with torch.no_grad():
        outputs = result.model(x)
    targets = torch.from_numpy(VAL.labels)
    assert result.accuracy == pytest.approx(float((outputs.argmax(1) == targets).float().mean()))
    assert result.loss == pytest.approx(float(cross_entropy(outputs, targets)), rel=1e-5)
    assert result.evaluation.confusion(2).sum() == 30
    assert sorted(result.evaluation.indices.tolist()) == list(range(30))


def test_own_data_without_val_is_split(tmp_path):
    result = toque.fit(settings(tmp_path / "run"), train=TRAIN, model=network, show="quiet")
    assert 5 < len(result.evaluation.targets) < 40


@pytest.mark.parametrize("existed", [False, True])
def test_no_number_at_step_1_leaves_nothing(tmp_path, existed):
    out = tmp_path / "run"
    if existed:
        out.mkdir()
    with pytest.raises(ValueError, match=r"fit: loss must be finite; got nan at image 16 \(step 1"):
        train(out, loss=lambda outputs, targets: outputs.sum() * torch.nan)
    assert out.exists() == existed and not list(tmp_path.glob("run/*"))


def test_no_number_later_keeps_the_good_checkpoints(tmp_path):
    count = 0

    def loss(outputs, targets):
        nonlocal count
        count += outputs.requires_grad
        return cross_entropy(outputs, targets) * (torch.nan if count > 10 else 1)

    with pytest.raises(ValueError, match=r"got nan at image 176 \(step 11, learning rate"):
        train(tmp_path / "run", loss=loss)
    found, state, _ = checkpoint.load_chosen(tmp_path / "run" / "checkpoints", checkpoint.newest)
    assert found.images_seen == 160
    assert all(torch.isfinite(value).all() for value in state["model"].values())


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"optimizer": {"name": "sgd", "momentun": 0.9}}, "Did you mean momentum"),
        ({"device": "cuda:77"}, "device must be one this machine has"),
        ({"augment": "cifr"}, "cifar"),
        ({"out": "/proc/none/run"}, "a folder that can be written"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(tmp_path, changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(**{"out": tmp_path / "run", **changed})
    assert list(tmp_path.iterdir()) == []


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        return self.inner(x), 0


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model": "resnet18"}, r'One by name is a setting: Run\(model="resnet18"\)'),
        ({"loss": "focal"}, r'Run\(loss=\{"name": "focal"\}\)'),
        ({"show": "silent"}, "one of auto, bar, lines, quiet; got silent"),
        ({"model": Pair}, "what the model returns must be one tensor; got tuple"),
        ({"loss": lambda x, y: 1.0}, "what the loss returns .* got float. Return the mean"),
        ({"loss": lambda x, y: cross_entropy(x, y, reduction="none")}, r"got \[16\]. Return the"),
        ({"loss": lambda x, y: cross_entropy(x.detach(), y)}, "a loss without a gradient"),
    ],
)
def test_what_a_caller_brings_along_is_checked(tmp_path, given, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence) as caught:
        train(tmp_path / "run", **given)
    assert isinstance(caught.value, checks.UserMistake)
    assert not (tmp_path / "run").exists()


def test_settings_that_are_no_run_are_refused():
    with pytest.raises(TypeError, match=r"run must be a toque.Run; got dict\. Give"):
        toque.fit({"epochs": 3})


def test_a_split_of_its_own_seed_stays_where_the_seed_changes(tmp_path):
    def data_of(**changed):
        out = tmp_path / "-".join(f"{key}{value}" for key, value in changed.items())
        train(out, val=None, epochs=1, **changed)
        run, recorded = folder.read_run(out)
        assert run.split_seed == changed.get("split_seed")
        return recorded["data_fingerprint"], bits(out)[0]

    first, second = (data_of(seed=n, split_seed=9) for n in (1, 2))
    assert first[0] == second[0] and first[1] != second[1]
    assert data_of(seed=1)[0] != data_of(seed=2)[0]
    assert data_of(seed=9) == data_of(split_seed=9, seed=9)  # unset, it is the seed


def test_a_result_is_one_line(tmp_path):
    result = train(tmp_path / "run", epochs=1)
    assert repr(result) == f"<Result of {tmp_path / 'run'}: {result.summary()}>"


def test_other_settings_do_not_continue_the_run(tmp_path):
    train(tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"epochs: 3.0 there, 4.0 here"):
        train(tmp_path / "run", epochs=4)
    with pytest.raises(ValueError, match="has changed since it began"):
        train(tmp_path / "run", train=images(101))
    assert before == {
        path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()
    }


def test_a_model_without_trainable_parameters_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no parameter that requires a gradient. Unfreeze"):
        train(tmp_path / "run", model=nn.Flatten)
    assert not (tmp_path / "run").exists()


def test_more_batch_than_images_works_and_is_said(tmp_path, capsys):
    few = images(10)
    result = train(tmp_path / "run", train=few, batch_size=32, epochs=5, show="lines")
    assert result.images_seen == 64
    assert "a step shows each of them 3.2 times" in capsys.readouterr().err


def test_the_first_line_says_what_will_be_done(tmp_path, capsys):
    train(tmp_path / "run", show="lines", epochs=1)
    first = capsys.readouterr().err.splitlines()[0]
    assert first == (
        "your dataset: 100 images to learn from, 30 to validate, 2 classes; own:network at 8 px, "
        "1 epoch, on cpu"
    )


def test_the_kept_weights_are_the_best(tmp_path):
    result = train(tmp_path / "run", epochs=6)
    rows = [row for row in bits(result.out)[1] if row["split"] == "val"]
    assert result.accuracy == pytest.approx(max(row["accuracy"] for row in rows))
    last = train(tmp_path / "last", epochs=6, checkpoint={"weights": "last"})
    assert last.accuracy == pytest.approx(rows[-1]["accuracy"])
    shutil.rmtree(tmp_path / "last")


@pytest.mark.parametrize(("weights", "passes"), [("last", 3), ("best", 4)])
def test_the_kept_weights_are_not_validated_twice(tmp_path, monkeypatch, weights, passes):
    answers = []
    real = toque.train.validation.measure

    def falling(*arguments):
        """The first epoch is made the best one."""
        found = real(*arguments)
        metrics = {**found.metrics, "accuracy": 1 / (1 + len(answers))}
        answers.append(dataclasses.replace(found, metrics=metrics))
        return answers[-1]

    monkeypatch.setattr(toque.train.validation, "measure", falling)
    result = train(tmp_path / "run", checkpoint={"weights": weights}, loss=crashing_after(10**9))
    assert len(answers) == passes and result.evaluation is answers[-1]
    # What was not measured again is what the kept weights answer.
    kept = toque.train.load_model(tmp_path / "run", model=network())
    with torch.no_grad():
        outputs = kept.model(kept.pipeline(VAL.images, key=Key(0, 0, np.arange(len(VAL)))))
    mine = outputs.softmax(1).numpy()
    assert np.allclose(result.evaluation.probabilities, mine, atol=1e-6)
    assert weights == "last" or not np.allclose(answers[2].probabilities, mine, atol=1e-6)
