"""Runs on real ranks that save together: killed in the middle of it, sent back, stopped early."""

import hashlib
import json
import os
import signal
import time

import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

import toque
from tests.train.distributed import ranks
from tests.train.distributed.test_ranks_of_fit import group_normed
from tests.train.runs import images
from toque.train.distributed import saving
from toque.train.state import checkpoint

NEVER = 10**9


class Poisoned:
    """A loss without a number in two training passes of rank 1, or of a rank alone."""

    def __init__(self, begin):
        self.left = begin if os.environ.get("RANK", "1") == "1" else NEVER

    def __call__(self, outputs, targets):
        loss = cross_entropy(outputs, targets)
        if not torch.is_grad_enabled():
            return loss
        self.left -= 1
        return loss * float("nan") if self.left in (0, -1) else loss


def train(out, *, poison=NEVER, **changed):
    run = toque.Run(
        **{
            "out": str(out), "epochs": 3, "batch_size": 16, "augment": "light", "threads": 1,
            "ema": {"half_life_epochs": 0.5}, "optimizer": {"name": "adamw"},
            "log": {"tensorboard": False, "every_images": 48},
            "distributed": {"strategy": "fsdp"}, **changed,
        }
    )  # fmt: skip
    result = toque.fit(
        run, train=images(100), val=images(37, start=1000), model=group_normed,
        loss=Poisoned(poison), show="lines",
    )  # fmt: skip
    return result.images_seen, result.loss, result.accuracy


def train_and_die(out, victims, save):
    """Each of the victims is killed while it writes its part of that save, when all of them do."""
    real, left, rank = saving.save_file, save, int(os.environ["RANK"])

    def deadly(*arguments):
        nonlocal left
        left -= 1
        if left == 0:
            (out / f"dying-{rank}").touch()
            while not all((out / f"dying-{one}").exists() for one in victims):
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)
        real(*arguments)

    if rank in victims:
        saving.save_file = deadly
    return train(out)


def outcome(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    names = ("split", "images_seen", "loss", "accuracy", "learning_rate", "skipped_steps")
    kept = [{name: row[name] for name in names if name in row} for row in rows]
    return hashlib.sha256((out / "weights.safetensors").read_bytes()).hexdigest(), kept


def whole_checkpoints(out):
    return [one.images_seen for one in checkpoint.found(out / "checkpoints")]


def half_saved(out):
    return len(list((out / "checkpoints").glob(".writing-images-*")))


def killed(folder):
    found = {"answers": ranks.run(2, train, folder / "plain")}
    out = folder / "killed"
    for name, victims, save in (("one", [1], 2), ("all", [0, 1], 1)):
        # The second save of the run, by one; then what is the first one of the new start, by all.
        codes = ranks.wait(ranks.start(2, train_and_die, out, victims, save))[1]
        found[name] = [codes, whole_checkpoints(out), half_saved(out)]
        for marker in out.glob("dying-*"):
            marker.unlink()
    found["after"] = ranks.run(2, train, out)
    found["left"] = half_saved(out)
    # Each rank with a folder of its own: rank 0's is the one that counts.
    found["apart"] = ranks.run(2, lambda: train(folder / f"disk-{os.environ['RANK']}"))
    found["files"] = sorted(p.name for p in (folder / "disk-0/checkpoints").glob("*/*.safetensors"))
    found["other"] = (folder / "disk-1").exists()
    return found


def test_a_kill_in_the_middle_of_a_save_costs_that_save_and_nothing_else(tmp_path):
    found, errors = ranks.program(__name__, "killed", tmp_path, limit_s=400)
    plain = outcome(tmp_path / "plain")
    assert found["one"] == [[1, -signal.SIGKILL], [112], 1]
    assert "LostRank: rank 1 did not answer in" in errors
    assert found["all"] == [[-signal.SIGKILL] * 2, [112], 1]
    assert errors.count("continues at image 112 of 304") == 2
    assert found["left"] == 0
    assert found["after"] == found["answers"]
    assert outcome(tmp_path / "killed") == plain
    # On disks of their own the ranks train the same run; rank 0 alone has what it leaves.
    assert found["apart"] == found["answers"]
    assert outcome(tmp_path / "disk-0") == plain
    assert set(found["files"]) == {"tensors.safetensors"} and not found["other"]
    assert errors.count("rank 1 cannot write where rank 0 saves") == 1


def sent_back(folder):
    """Two steps of the second epoch have no number; and the score does not rise by 1."""
    changed = {
        "nonfinite": {"limit": 2, "then": "roll_back"}, "epochs": 5,
        "stop": {"patience_epochs": 2, "least_gain": 1.0},
    }  # fmt: skip
    one = ranks.run(1, lambda: train(folder / "one", poison=10, **changed))
    two = ranks.run(2, lambda: train(folder / "two", poison=10, **changed))
    return {"one": one, "two": two}


def test_ranks_go_back_and_stop_together_as_one_rank_does(tmp_path):
    found, errors = ranks.program(__name__, "sent_back", tmp_path, limit_s=400)
    (alone,), (first, second) = found["one"], found["two"]
    assert first == second
    assert alone[0] == first[0] == 304  # of 512: the epoch after the second without a rise
    assert errors.count("2 steps in a row had no number: the run went back to image 112") == 2
    _, rows = outcome(tmp_path / "one")
    _, same = outcome(tmp_path / "two")
    assert len(rows) == len(same)
    for row, other in zip(rows, same, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            assert value == other[name] or abs(value - other[name]) < 1e-12, (row, other)
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    assert rates[-1] < 0.6 * rates[1]  # halved
    alone, together = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two")
    )
    for name, tensor in alone.items():
        assert (together[name] - tensor).norm() <= 1e-12 * tensor.norm(), name
