"""One rank is in trouble: all take the same decision, and one sentence says what and where."""

import json
import os
import socket
import sys

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import cross_entropy

import toque
from tests.conftest import write_photos
from tests.train.distributed import ranks
from tests.train.runs import images
from toque import cli
from toque.data.order import stream
from toque.train import distributed
from toque.train.distributed import sharding

SMALL = (
    "model=resnet10_small", "epochs=1", "image_size=16", "batch_size=8", "threads=1",
    "log.tensorboard=false", "distributed.timeout_s=30",
)  # fmt: skip


def rank():
    return int(os.environ["RANK"])


def command(folders, settings, more=()):
    """toque train on this rank, in its own folder, with its own further settings."""
    os.chdir(folders[rank()])
    words = [word for one in (*SMALL, *settings[rank()]) for word in ("--set", one)]
    sys.argv = ["toque", "train", "photos", "--out", "run", "--quiet", *words, *more]
    cli.main()


def scenarios(folder, names):
    """{name: exit codes}; what is said stands after "== name" in the output for errors."""
    here = folder / "same"
    write_photos(here / "photos", {"left": 12, "right": 12}, part="train")
    write_photos(here / "photos", {"left": 4, "right": 4}, part="val")
    other = folder / "other"
    write_photos(other / "photos", {"left": 12, "right": 13}, part="train")
    write_photos(other / "photos", {"left": 4, "right": 4}, part="val")
    (folder / "empty").mkdir()
    (folder / "bad").mkdir()
    write_photos(folder / "bad" / "photos", {"left": 12, "right": 12}, part="train")
    write_photos(folder / "bad" / "photos", {"left": 4, "right": 4}, part="val")
    # Damaged in its middle, which only the rank that decodes it meets.
    file = folder / "bad" / "photos" / "train" / "right" / "7.png"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    (folder / "file").touch()
    nothing = ((), ())
    taken = socket.create_server(("127.0.0.1", 0))
    port = {"MASTER_PORT": str(taken.getsockname()[1])}
    calls = {
        "bad image": (command, [folder / "bad"] * 2, nothing),
        "other settings": (command, [here] * 2, ((), ("optimizer.learning_rate=0.5",))),
        "other model": (command, [here] * 2, ((), ("model=resnet14_small",))),
        "other data": (command, [here, other], nothing),
        "no data on rank 1": (command, [here, folder / "empty"], nothing),
        "no folder": (command, [here] * 2, nothing, ("--out", str(folder / "file" / "run"))),
        "no gpu": (command, [here] * 2, (("device=cuda",),) * 2),
        "port in use": (command, [here] * 2, (("distributed.timeout_s=2",),) * 2),
    }
    codes = {}
    for name in names:
        print(f"== {name}", file=sys.stderr, flush=True)
        environment = port if name == "port in use" else {}

        def of_rank(rank, name=name, environment=environment):
            file = folder / f"{name} {rank}.json"  # as torchrun names one for each rank
            return {**environment, "TORCHELASTIC_ERROR_FILE": str(file)}

        children = ranks.start(2, *calls[name], rank_environment=of_rank)
        codes[name] = ranks.wait(children)[1]
    taken.close()
    return codes


def said_after(errors):
    said = {}
    for line in errors.splitlines():
        if line.startswith("== "):
            said[name := line[3:]] = []
        elif not line.startswith("warning: batch normalisation"):
            said[name].append(line)
    return said


def test_a_mistake_on_any_rank_is_one_sentence_and_ends_all(tmp_path):
    names = [
        "bad image", "other settings", "other model", "other data", "no data on rank 1",
        "no folder", "no gpu", "port in use",
    ]  # fmt: skip
    codes, errors = ranks.program(
        __name__, "scenarios", tmp_path, names, TORCH_CPP_LOG_LEVEL="ERROR"
    )
    said = said_after(errors)
    assert codes == {name: [2, 2] for name in names}, errors
    # A port that somebody else answers at: the rank that cannot reach rank 0 says so itself.
    of_port = sorted(said.pop("port in use"))
    assert of_port[0].startswith("toque: distributed: MASTER_PORT must be free on rank 0's host")
    assert of_port[1].startswith("toque: rank 1: MASTER_ADDR and MASTER_PORT must lead to rank 0")
    assert len(of_port) == 2
    assert {name: len(lines) for name, lines in said.items()} == dict.fromkeys(said, 1), errors
    sentence = {name: lines[0] for name, lines in said.items()}
    assert sentence["bad image"].startswith("toque: rank 1: data: every file must be a whole image")
    assert "train/right/7.png" in sentence["bad image"]
    expected = "optimizer.learning_rate: 0.0125 on rank 0, 0.5 on rank 1"
    assert "got other settings on rank 1 (sha256 " in sentence["other settings"]
    assert expected in sentence["other settings"], sentence
    assert "model: resnet10_small on rank 0, resnet14_small on rank 1" in sentence["other model"]
    assert "train_images: 24 on rank 0, 25 on rank 1" in sentence["other data"]
    assert sentence["no data on rank 1"].startswith("toque: rank 1: data: ")
    assert "--out must be a folder that can be written" in sentence["no folder"]
    assert "device must be one this machine has; got cuda" in sentence["no gpu"]
    assert not (tmp_path / "same" / "run").exists()
    # What torchrun prints as the root cause: of the rank that failed, and of it alone.
    told = json.loads((tmp_path / "bad image 1.json").read_text())
    assert "toque: rank 1: " + told["message"] == sentence["bad image"]
    assert not (tmp_path / "bad image 0.json").exists()


class Troubled(nn.Module):
    """A small model which, on rank 1 and at one call in training, is in trouble of a kind."""

    def __init__(self, kind, call):
        super().__init__()
        self.inside = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        self.spare = nn.Linear(3, 3) if kind == "unused" else nn.Identity()
        self.kind, self.left = kind, call

    def forward(self, x):
        outputs = self.inside(x)
        if not self.training:
            if self.kind == "memory of an evaluation" and rank() == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return outputs
        self.left -= 1
        if self.left or rank() != 1:
            return outputs
        if self.kind == "memory of a GPU":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if self.kind == "memory":
            torch.empty(1 << 60, dtype=torch.uint8)
        if self.kind == "nan":
            outputs = outputs * torch.tensor([[float("nan")]] + [[1.0]] * (len(x) - 1))
        return outputs


def train(out, kind, call, settings):
    run = toque.Run(
        out=str(out), epochs=2, batch_size=16, augment="light", threads=1,
        log={"tensorboard": False}, checkpoint={"weights": "last"}, **settings,
    )  # fmt: skip
    try:
        result = toque.fit(
            run, train=images(96), val=images(32, start=1000), model=Troubled(kind, call),
            loss=cross_entropy, show="quiet",
        )  # fmt: skip
    except (toque.checks.UserMistake, distributed.LostRank) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    bias = result.model.inside[1].bias
    return [result.loss, None if sharding.is_sharded(result.model) else bias.tolist()]


def troubles(folder, kinds):
    answers = {}
    for name, (kind, call, settings) in kinds.items():
        print(f"== {name}", file=sys.stderr, flush=True)
        found = ranks.wait(ranks.start(2, train, folder / name, kind, call, settings))
        answers[name] = found
        if (
            name == "memory where ranks wait"
        ):  # what the sentence advises, with the state that was saved
            print(f"== {name} again", file=sys.stderr, flush=True)
            children = ranks.start(3, train, folder / name, "", 0, settings)
            answers[f"{name} again"] = ranks.wait(children)
    return answers


def test_all_ranks_decide_alike_on_what_one_meets(tmp_path):
    fsdp = {"distributed": {"strategy": "fsdp"}}
    kinds = {
        "nan": ("nan", 3, {}),
        "nan in pieces of weights": ("nan", 3, fsdp),
        "no numbers any more": ("nan", 1, {}),
        "nothing": ("", 0, {}),
        "memory": ("memory", 8, {}),
        "memory of a GPU": ("memory of a GPU", 1, {}),
        "memory in pieces": ("memory", 8, fsdp),
        "memory where ranks wait": ("memory", 8, {"distributed": {"unused_parameters": True}}),
        "memory of an evaluation": ("memory of an evaluation", 0, {}),
        "unused": ("unused", 0, {}),
        "unused in pieces": ("unused", 0, fsdp),
    }
    found, errors = ranks.program(
        __name__, "troubles", tmp_path, kinds, TORCH_CPP_LOG_LEVEL="ERROR"
    )
    said = said_after(errors)
    for name in ("nan", "nan in pieces of weights"):
        (first, second), codes = found[name]
        assert codes == [0, 0] and first == second, errors
        (told,) = said[name]
        # The first image of rank 1 in the third step, told by rank 0.
        image = int(stream(0, 96, 2 * 16 + 8, 2 * 16 + 9)[0][0])
        assert f"step 3 was skipped: the loss is nan (images without a number: {image})" in told
    on_again = {"memory": 7 * 16, "memory of a GPU": 0}
    if hasattr(FSDPModule, "reset_iter_state"):  # not in torch 2.11
        on_again["memory in pieces"] = 7 * 16
    for name, image in on_again.items():
        (first, second), codes = found[name]
        assert codes == [0, 0] and first == second, errors
        assert first[0] == pytest.approx(found["nothing"][0][0][0], rel=1e-5)
        if first[1] is not None:
            assert torch.allclose(torch.tensor(first[1]), torch.tensor(found["nothing"][0][0][1]))
        assert said[name] == [
            f"warning: out of memory on rank 1 at image {image} with 8 images at a time: the step "
            "is done again, and the run goes on, with 4 (memory.micro_batch); the result is equal "
            "within rounding"
        ]
    ended = {
        "no numbers any more": "fit: loss must be finite; got nan at image 16",
        "memory where ranks wait": "rank 1: distributed: the memory of a rank must be enough for 8 "
        "images at a time with unused_parameters, where ranks wait for each other in the middle of a step; got less. "
        "Start more ranks",
        "memory of an evaluation": "rank 1: fit: a rank's part of a batch must fit into its memory",
        "unused": "every parameter must take part in the loss; got no gradient for spare.weight",
        "unused in pieces": "got no gradient for spare.weight, spare.bias",
    }
    for name, words in ended.items():
        assert found[name] == [[None, None], [2, 2]], (name, errors)
        assert len(said[name]) == 1 and words in said[name][0], errors
    # The state of the epoch before is whole, and continues as advised.
    (first, second, third), codes = found["memory where ranks wait again"]
    assert codes == [0, 0, 0] and first == second == third
    (told,) = said["memory where ranks wait again"]
    assert "ranks was 2, is 3" in told
