"""What real ranks save together and restore: in pieces, on any other number of them, whole or not.

Two programs, because to start ranks takes longer than what they do: one saves and restores the state
of a small model itself, the other trains.
"""

import json
import shutil
import threading

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._pytree import tree_map

import toque
from tests.train.distributed import ranks
from toque import durable
from toque.models.ema import EMA
from toque.train import distributed
from toque.train.distributed import checkpoints, preparing, saving, sharding
from toque.train.settings.course import CheckpointSettings
from toque.train.state import checkpoint, pieces

LAYOUTS = [
    (1, "ddp"),
    (2, "ddp"),
    (2, "fsdp"),
    (3, "fsdp"),  # axes that do not divide, and a rank that gets nothing of the shortest
    (4, "hsdp"),
]


def name_of(number, strategy):
    return f"{strategy}-{number}"


def two_to_a_host(rank):
    return {"LOCAL_WORLD_SIZE": "2"}


class Trained:
    """A model as one rank has it after a step, on its strategy; `state` is what fit would save."""

    def __init__(self, world, strategy, seed=0):
        torch.manual_seed(seed)
        self.world = world
        self.network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 7), nn.Linear(7, 2)
        )
        if world.size > 1 or strategy != "ddp":
            run = toque.Run(distributed={"strategy": strategy})
            self.network = preparing.place(run, world, self.network)
        self.network[1].running_mean.fill_(world.rank)  # as each rank has its own
        fused = strategy == "ddp"
        first, *others = self.network.parameters()
        self.parts = {
            "default": torch.optim.AdamW(others, fused=fused),
            "first": torch.optim.SGD([first], lr=0.1, momentum=0.9, fused=fused),
        }
        self.ema = EMA(self.network, half_life_images=10)
        if seed == 0:
            self.step()

    def step(self):
        for parameter in self.network.parameters():
            parameter.grad = parameter.detach() * 0.5 + 0.125
        for part in self.parts.values():
            part.step()
        self.ema.update(self.network, 3)

    def state(self):
        return {
            "model": self.network.state_dict(),
            "optimizer": {name: part.state_dict() for name, part in self.parts.items()},
            "ema": self.ema.state_dict(),
            "loss_scale": {"scale": torch.tensor(2.0**11), "grown": 3},
            "own": torch.full((2,), float(self.world.rank)),
        }

    def restore(self, state):
        sharding.load_module(self.network, state["model"])
        for name, part in self.parts.items():
            sharding.load_optimizer(part, state["optimizer"][name])
        self.ema.load_state_dict(sharding.all_like(self.ema.state_dict(), state["ema"]))

    def checkpoints(self, folder):
        if self.world.alone:
            return checkpoints.Alone(folder)
        return checkpoints.ByAll(self.world, folder, self.network, self.parts, self.ema, 60.0)


def flat(state):
    """{place: tensor or value} of a nested state."""
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        return {(): state}
    return {(key, *at): leaf for key, item in items for at, leaf in flat(item).items()}


def differing(one, other):
    """The places at which two whole states are not the same bits."""
    one, other = flat(one), flat(other)
    ways = {"fused", "foreach"}  # of computing a step: each start's own
    return [
        str(place)
        for place in one.keys() | other.keys()
        if not ways & set(place)
        and not (
            place in one and place in other
            and (torch.equal(one[place], other[place]) and one[place].dtype == other[place].dtype
                 if isinstance(one[place], torch.Tensor) else one[place] == other[place])
        )
    ]  # fmt: skip


def save_one(strategy, root, keep):
    with distributed.joined(60.0) as world:
        trained = Trained(world, strategy)
        folder = root / name_of(world.size, strategy)
        settings = CheckpointSettings(keep=keep)
        said = []
        opened, entered, real = threading.Event(), threading.Event(), saving.save_file

        def held(*arguments):
            entered.set()
            assert opened.wait(60)
            real(*arguments)

        if world.rank == world.size - 1 and not world.alone:
            saving.save_file = held  # its file comes last of all, and late
        else:
            opened.set()
        whole = tree_map(
            lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf,
            sharding.gathered(trained.state(), keep=True),
        )
        with trained.checkpoints(folder).saver(settings, said.append) as saver:
            saver.save(trained.state(), 10, 0.5)
            trained.step()  # while no file of the last rank is there
            under_way = not (world.alone or saver.due() or saver._under_way[1].done())
            opened.set()
            assert saver.settle()
            saver.save(trained.state(), 10, 0.5)  # it is there: nothing happens
            saver.save(trained.state(), 20, None)
        if world.first:
            torch.save(whole, folder / "whole.pt")
        return {"said": said, "under_way": under_way, "alone": world.alone}


def restore_all(strategy, root, names):
    """What each checkpoint gives on this rank, compared with what was saved."""
    with distributed.joined(60.0) as world:
        found = {}
        for name in names:
            trained = Trained(world, strategy, seed=1)
            folder = root / name
            one, state, damages = trained.checkpoints(folder).load(checkpoint.newest)
            trained.restore(state)
            saved = torch.load(folder / "whole.pt", weights_only=True)
            now = sharding.gathered(
                {**trained.state(), "loss_scale": state["loss_scale"], "own": state["own"]},
                keep=True,
            )
            ways = {
                group["fused"] for part in trained.parts.values() for group in part.param_groups
            }
            pieces_only = all(
                sharding.is_piece(value) == sharding.is_piece(trained.network.state_dict()[key])
                for key, value in state["model"].items()
            )
            wrong = differing(saved, now)
            trained.step()  # with what was loaded
            found[name] = {
                "differing": wrong, "images": one.images_seen, "damages": damages,
                "ways": sorted(map(str, ways)), "pieces_only": pieces_only,
            }  # fmt: skip
        return found


DAMAGES = {
    "truncated": ("tensors-2-of-2.safetensors", lambda content: content[:-1]),
    "flipped": ("tensors-1-of-2.safetensors", lambda c: c[:-5] + bytes([c[-5] ^ 4]) + c[-4:]),
    "missing": ("tensors-2-of-2.safetensors", None),
    "no table": ("tensors.json", None),
    "no manifest": ("manifest.json", lambda content: content.replace(b"20", b"21", 1)),
}


def restore_damaged(folders):
    with distributed.joined(60.0) as world:
        trained = Trained(world, "fsdp")
        answers = {}
        for folder in folders:
            one, _, damages = trained.checkpoints(folder).load(checkpoint.newest)
            answers[folder.name] = one.images_seen, damages
        return answers


def unwritable(root):
    """A save that fails on rank 1 alone, and the next that does not."""
    with distributed.joined(60.0) as world:
        trained, said, real = Trained(world, "fsdp"), [], saving.save_file

        def full(*arguments):
            raise OSError(28, "No space left on device")

        if world.rank == 1:
            saving.save_file = full
        settings = CheckpointSettings(background=False)
        with trained.checkpoints(root / "full").saver(settings, said.append) as saver:
            saver.save(trained.state(), 10, None)
            settled = saver.settle()
            saving.save_file = real
            left = sorted(path.name for path in (root / "full").iterdir())
            world.barrier("a test")
            saver.save(trained.state(), 20, None)
            assert saver.settle()
        return said, settled, left, sorted(path.name for path in (root / "full").iterdir())


def look(root):
    """Who can write: a folder of all, and one that each rank has for itself."""
    with distributed.joined(60.0) as world:
        shared = checkpoints.who_cannot_write(world, root / "shared")
        own = checkpoints.who_cannot_write(world, root / f"of-{min(world.rank, 1)}")
        left = sorted(path.name for path in (root / "shared").iterdir())
        return shared, own, left


def exchanged(folder):
    names = [name_of(*layout) for layout in LAYOUTS]
    options = {"hsdp": {"rank_environment": two_to_a_host}}
    saved, restored = {}, {}
    for number, strategy in LAYOUTS:
        saved[name_of(number, strategy)] = ranks.run(
            number, save_one, strategy, folder, 2, **options.get(strategy, {})
        )
    damaged = []
    for name, (file, change) in DAMAGES.items():
        where = folder / "damaged" / name
        shutil.copytree(folder / "fsdp-2", where)
        target = where / "images-000000000020" / file
        if change is None:
            target.unlink()
        else:
            target.write_bytes(change(target.read_bytes()))
        damaged.append(where)
    answers = ranks.run(2, restore_damaged, damaged)
    for number, strategy in LAYOUTS:
        shutil.rmtree(folder / name_of(number, strategy) / "images-000000000020")
    for number, strategy in LAYOUTS:
        restored[name_of(number, strategy)] = ranks.run(
            number, restore_all, strategy, folder, names, **options.get(strategy, {})
        )
    return {
        "saved": saved, "restored": restored, "damaged": answers,
        "full": ranks.run(2, unwritable, folder), "looked": ranks.run(3, look, folder),
    }  # fmt: skip


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exchange")
    found, errors = ranks.program(__name__, "exchanged", folder, limit_s=400)
    assert errors == ""
    return found, folder


def test_what_any_ranks_saved_any_others_restore_bit_for_bit(exchange):
    found, _ = exchange
    for reader, every in found["restored"].items():
        for rank, answer in enumerate(every):
            for writer, one in answer.items():
                where = f"{writer} read by rank {rank} of {reader}"
                assert one["differing"] == [], where
                assert (one["images"], one["damages"]) == (10, []), where
                # A rank reads the pieces that it keeps, and each start computes in its own way.
                assert one["pieces_only"], where
                assert one["ways"] == [str(reader.startswith("ddp"))], where


def test_the_training_goes_on_while_a_rank_still_writes(exchange):
    found, _ = exchange
    for name, every in found["saved"].items():
        for one in every:
            assert one["said"] == [] and one["under_way"] is not one["alone"], name


@pytest.mark.parametrize("name", [name_of(*layout) for layout in LAYOUTS if layout[0] > 1])
def test_every_byte_is_written_once_and_by_all(exchange, name):
    _, folder = exchange
    path = folder / name / "images-000000000010"
    number = int(name[-1])
    files = [path / pieces.file_of(rank, number) for rank in range(number)]
    manifest = json.loads((path / "manifest.json").read_text())
    of_tensors = {file for file in manifest["files"] if file.endswith(".safetensors")}
    assert of_tensors == {file.name for file in files}
    for file, told in manifest["files"].items():
        assert told["sha256"] == durable.sha256(path / file)
    bytes_of = [sum(tensor.nbytes for tensor in load_file(file).values()) for file in files]
    whole = torch.load(folder / name / "whole.pt", weights_only=True)
    tensors = [leaf for leaf in flat(whole).values() if isinstance(leaf, torch.Tensor)]
    assert sum(bytes_of) == sum(tensor.nbytes for tensor in tensors)
    # Shared out: no rank writes more than its share and one tensor of the largest.
    assert max(bytes_of) <= sum(bytes_of) / number + max(tensor.nbytes for tensor in tensors)
    # Nothing is pickled, and one process reads it without any other.
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}
    assert differing(whole, checkpoint.load(path)) == []


def test_damage_to_any_file_is_found_by_all_and_the_checkpoint_before_used(exchange):
    found, folder = exchange
    first, second = found["damaged"]
    assert first == second
    for name, (file, _) in DAMAGES.items():
        images_seen, (damage,) = first[name]
        assert images_seen == 10 and file in damage, (name, damage)
        left = sorted(path.name for path in (folder / "damaged" / name).glob("*images-*"))
        assert left == ["damaged-images-000000000020", "images-000000000010"]


def test_a_rank_that_cannot_write_spoils_nothing(exchange):
    found, _ = exchange
    for said, settled, left, after in found["full"]:
        (sentence,) = said
        assert (
            "image 10 could not be saved (rank 1: [Errno 28] No space left on device)" in sentence
        )
        assert not settled and left == []
        assert after == ["images-000000000020"]


def test_a_folder_of_all_and_one_of_each_are_told_apart(exchange):
    found, _ = exchange
    assert found["looked"] == [[[], [1, 2], []]] * 3
