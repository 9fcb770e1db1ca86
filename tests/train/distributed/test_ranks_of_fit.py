"""fit on several real ranks: the same run as on one, to the bit where it is promised."""

import hashlib
import json
import os
import signal

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

import toque
from tests.train.distributed import ranks
from tests.train.runs import images
from toque.train import Stopped

TIMES = {"images_per_s", "time_s", "memory_bytes"}


def batch_normed():
    """The second convolution is of the kind whose weights lie otherwise in memory."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * 16, 2),
    )  # fmt: skip


class InDouble(nn.Module):
    """A model in float64 for the loader's float32 images."""

    def __init__(self, norm):
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(),
            nn.Linear(4 * 16, 2),
        ).double()  # fmt: skip

    def forward(self, x):
        return self.inside(x.double())


def group_normed():
    return InDouble(nn.GroupNorm(2, 4))


def double_batch_normed():
    return InDouble(nn.BatchNorm2d(4))


class StopsAt:
    """A loss that sends this process SIGTERM when it is asked for the so-manieth time."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self, outputs, targets):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return cross_entropy(outputs, targets)


def train(out, model, *, stop_after=0, **changed):
    run = toque.Run(
        **{
            "out": str(out),
            "epochs": 3,
            "batch_size": 16,
            "augment": "light",
            "threads": 1,
            "ema": {"half_life_epochs": 0.5},
            "optimizer": {"name": "adamw"},
            "log": {"tensorboard": False, "every_images": 48},
            **changed,
        }
    )
    try:
        result = toque.fit(
            run, train=images(100), val=images(37, start=1000), model=globals()[model],
            loss=StopsAt(stop_after) if stop_after else cross_entropy, show="quiet",
        )  # fmt: skip
    except Stopped as stop:
        raise SystemExit(stop.code) from None
    return {
        "loss": result.loss,
        "accuracy": result.accuracy,
        "images": len(result.evaluation.targets),
        "indices": sorted(result.evaluation.indices.tolist()) == list(range(37)),
    }


def outcome(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows = [
        {name: row[name] for name in ("split", "images_seen", "loss", "accuracy")} for row in rows
    ]
    return hashlib.sha256((out / "weights.safetensors").read_bytes()).hexdigest(), rows


def weights(out):
    tensors = load_file(out / "weights.safetensors")
    return torch.cat([tensors[name].double().reshape(-1) for name in sorted(tensors)])


VIRTUAL = {"virtual_shards": 4}


def with_virtual_shards(folder):
    """Runs on 1, 2 and 4 ranks, and one that goes on from 4 to 1 to 2."""
    answers = {}
    for number in (1, 2, 4):
        settings = {"distributed": VIRTUAL}
        found = ranks.run(
            number, lambda s=settings, n=number: train(folder / f"w{n}", "batch_normed", **s)
        )
        assert all(one == found[0] for one in found)
        answers[str(number)] = [found[0], *outcome(folder / f"w{number}")]
    codes = []
    # 19 steps; a stop is agreed on one step after its signal. A shard asks the loss once.
    for number, calls in ((4, 5), (1, 4 * 5), (2, 0)):
        children = ranks.start(
            number,
            lambda calls=calls: train(
                folder / "moved", "batch_normed", stop_after=calls, distributed=VIRTUAL
            ),
        )
        codes.append(ranks.wait(children)[1])
    answers["moved"] = [None, *outcome(folder / "moved")]
    saved = sorted(path.name for path in (folder / "moved" / "checkpoints").iterdir())
    return {"answers": answers, "codes": codes, "saved": saved}


def test_virtual_shards_give_the_same_bits_on_any_number_of_ranks(tmp_path):
    found, errors = ranks.program(__name__, "with_virtual_shards", tmp_path)
    answers = found["answers"]
    assert found["codes"] == [[143] * 4, [143], [0, 0]]
    first = answers["1"]
    assert first[0]["images"] == 37 and first[0]["indices"]
    for number in ("2", "4"):
        assert answers[number] == first, number
    assert answers["moved"][1:] == first[1:]
    assert "cannot end in the bits" not in errors


def in_double(folder, kinds):
    """The weights on one rank and on several, in float64, by kind of run."""
    far = {}
    for name, (model, numbers, changed) in kinds.items():
        spread = {"epochs": 3.2, "ema": {"half_life_epochs": 0}, **changed}
        spread["checkpoint"] = {"weights": "last"}
        alone = {key: value for key, value in spread.items() if key != "distributed"}
        ranks.run(1, lambda m=model, n=name, s=alone: train(folder / f"{n}1", m, **s))
        reference = weights(folder / f"{name}1")
        for number in numbers:
            out = folder / f"{name}{number}"
            found = ranks.run(number, lambda m=model, o=out, s=spread: train(o, m, **s))
            assert all(one == found[0] for one in found)
            assert found[0]["indices"]
            gap = (weights(out) - reference).norm() / reference.norm()
            far[f"{name} on {number}"] = float(gap)
    # The same run again, moved between numbers of ranks and strategies through its checkpoints.
    out = folder / "moved"
    spread = {"epochs": 3.2, "checkpoint": {"weights": "last"}, "clip": {"norm": 0.3}}
    codes = []
    for number, strategy, calls in ((1, "ddp", 5), (2, "fsdp", 5), (4, "hsdp", 5), (1, "fsdp", 0)):
        settings = {**spread, "distributed": {"strategy": strategy}}
        children = ranks.start(
            number, lambda s=settings, c=calls: train(out, "group_normed", stop_after=c, **s),
            rank_environment=lambda rank: {"LOCAL_WORLD_SIZE": "2"},  # hsdp: two hosts of two
        )  # fmt: skip
        codes += ranks.wait(children)[1]
    reference = folder / "unmoved"
    ranks.run(1, lambda: train(reference, "group_normed", **spread))
    far["moved"] = float((weights(out) - weights(reference)).norm() / weights(reference).norm())
    assert codes == [143] * 7 + [0], codes
    return far


def test_ranks_agree_with_one_rank_within_rounding(tmp_path):
    """21 steps; 16 images are 6 + 5 + 5 on three ranks."""
    sgd = {"optimizer": {"name": "sgd"}}
    averaged = {"clip": {"norm": 0.3}, "ema": {"half_life_epochs": 0.5}}
    clipped = {"clip": {"norm": 0.3}}
    kinds = {
        "groups": ["group_normed", [3, 4], averaged],
        "pieces": ["group_normed", [2], {"memory": {"micro_batch": 3}, **clipped}],
        # SGD: a bias before BatchNorm has no gradient but rounding, which AdamW makes a step of.
        "pieces of weights": [
            "group_normed",
            [3],
            {"distributed": {"strategy": "fsdp"}, "memory": {"micro_batch": 5}, **averaged},
        ],
        # The plain run on one rank is the reference of virtual shards too.
        "sharded": ["group_normed", [2], {"distributed": {"virtual_shards": 4}, **clipped}],
        "synced": ["double_batch_normed", [3], {"distributed": {"sync_batch_norm": True}, **sgd}],
        "unsynced": ["double_batch_normed", [2], sgd],
    }
    far, errors = ranks.program(__name__, "in_double", tmp_path, kinds)
    unsynced = far.pop("unsynced on 2")
    assert all(gap <= 1e-12 for gap in far.values()), far
    assert len(far) == 7
    # The difference that BatchNorm makes is there, and is said.
    assert unsynced > 1e-4
    assert "batch normalisation sees the 8 images of each rank, not the batch of 16" in errors
