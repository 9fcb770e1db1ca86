"""The memory of one rank ends: all ranks begin the step again in smaller parts, and go on."""

import os

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import cross_entropy

import toque
from tests.train.distributed import ranks
from tests.train.runs import images
from tests.train.stepping import batch, labels, pixels
from tests.train.test_memory import prediction, resolved
from toque import checks
from toque.train import distributed
from toque.train.distributed import preparing, sharding
from toque.train.distributed.replicas import Replicas
from toque.train.optimisation import optimise
from toque.train.run import Run
from toque.train.steps import cutting, memory
from toque.train.steps.precision import Precision
from toque.train.steps.step import Step


class _Full(torch.autograd.Function):
    """Passes its input on; the memory ends on the way there or on the way back."""

    @staticmethod
    def forward(ctx, x, where):
        ctx.where = where
        if where == "forward":
            raise torch.OutOfMemoryError("out of memory")
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if ctx.where == "backward":
            torch.empty(1 << 60, dtype=torch.uint8)
        return gradient, None


class Limited(nn.Module):
    """A network on ranks of which some hold so many images at a time, from some call on.

    On the way back it fails between layers that DDP sends in different buckets, and that FSDP2
    gathers in different units.
    """

    def __init__(self, where="", short=(), most=8, after=0, norm=False):
        super().__init__()
        torch.manual_seed(0)
        self.where, self.short, self.most, self.after = where, short, most, after
        self.sizes = []
        self.first = nn.Sequential(nn.Linear(4, 40), nn.BatchNorm1d(40) if norm else nn.Tanh())
        self.wide = nn.ModuleList([nn.Linear(40, 400), nn.Linear(400, 400)])
        self.last = nn.Linear(400, 3)

    def forward(self, x):
        self.sizes.append(len(x))
        rank = int(os.environ.get("RANK", "0"))
        full = rank in self.short and len(x) > self.most and len(self.sizes) > self.after
        second, third = self.wide
        x = second(self.first(x).relu())
        x = _Full.apply(x, self.where if full else "")
        return self.last(third(x).relu())


def steps(world, model, batch_size=8, micro_batch=None, strategy="ddp"):
    """Four steps of this rank: (weights, what was said, sizes of the parts, the last micro_batch)."""
    run = Run(
        batch_size=batch_size, optimizer={"name": "sgd", "learning_rate": 0.1},
        distributed={"strategy": strategy},
    )  # fmt: skip
    network = preparing.place(run, world, Limited(**model).double()).train()
    cpu, said = torch.device("cpu"), []
    step = Step(
        network, cross_entropy, optimise.build(run, network, cpu), seed=0,
        precision=Precision("float32", cpu), micro_batch=micro_batch,
        exchange=preparing.exchange(run, world, network, cross_entropy),
    )  # fmt: skip
    step.warn = said.append
    own = slice(*world.part(batch_size))
    for number in range(4):
        x, y = pixels(batch_size, 4, seed=number), labels(batch_size, seed=number)
        step(batch(x[own], y[own]), batch_size * number, 0.1)
    whole = sharding.gathered(dict(network.named_parameters()), keep=True)
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in whole.values()])
    return weights, said, network.sizes, step.state_dict()["micro_batch"]


LATE = {"after": 2, "most": 1}
KINDS = {
    "on the way there": {"where": "forward", "short": [1], "most": 2},
    "on the way back": {"where": "backward", "short": [1], "most": 2},
    "on rank 0": {"where": "backward", "short": [0], "most": 2},
    "on both": {"where": "backward", "short": [0, 1], "most": 2},
    "twice": {"where": "backward", "short": [1], "most": 1},
    "late": {"where": "backward", "short": [1], **LATE},
}
SECOND_PART = {"where": "backward", "short": [1], "most": 1, "after": 1}


SHARDED = ["on the way there", "on the way back", "on both", "late"]


def every_kind_sharded(strategy):
    found = {}
    sharding._UNIT_PARAMETERS = 10_000  # small layers are gathered by themselves, too
    with distributed.joined(60.0) as world, distributed.together(world):
        batch_size = 4 * world.size
        for name in SHARDED:
            found[name] = steps(world, KINDS[name], batch_size, strategy=strategy)
        for size in (1, 2, 4):
            parts = steps(world, {}, batch_size, micro_batch=size, strategy=strategy)
            found[f"parts of {size}"] = parts
        found["in the second part"] = steps(
            world, SECOND_PART, batch_size, micro_batch=2, strategy=strategy
        )
        normed = {**KINDS["on the way back"], "norm": True}
        found["normed"] = steps(world, normed, batch_size, strategy=strategy)
        found["normed in parts"] = steps(
            world, {"norm": True}, batch_size, micro_batch=2, strategy=strategy
        )
    return found


def every_kind():
    found = {}
    with distributed.joined(60.0) as world:
        for norm, ending in ((False, ""), (True, " normed")):
            for name, kind in KINDS.items():
                if not norm or kind["most"] > 1:
                    found[name + ending] = steps(world, {**kind, "norm": norm})
            for size in (1, 2, 4) if not norm else (2,):
                parts = steps(world, {"norm": norm}, micro_batch=size)
                found[f"parts of {size}{ending}"] = parts
        # Seven images: three on one rank, four on the other, in as many parts on both.
        uneven = {"where": "forward", "short": [0], "most": 2}
        found["uneven"] = steps(world, uneven, batch_size=7)
        found["uneven in parts"] = steps(world, {}, batch_size=7, micro_batch=2)
    return found


def full_ranks(folder):
    torch.save(ranks.run(2, every_kind), folder / "found")


def full_sharded_ranks(folder):
    torch.save(ranks.run(2, every_kind_sharded, "fsdp"), folder / "fsdp")
    hosts_of_two = {"LOCAL_WORLD_SIZE": "2"}
    many = ranks.run(4, every_kind_sharded, "hsdp", rank_environment=lambda rank: hosts_of_two)
    torch.save(many, folder / "hsdp")


def by_kind(every):
    """{kind: what each rank found}."""
    return {name: tuple(one[name] for one in every) for name in every[0]}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    ranks.program(__name__, "full_ranks", folder, TORCH_CPP_LOG_LEVEL="ERROR")
    return by_kind(torch.load(folder / "found"))


@pytest.fixture(scope="module")
def found_sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    ranks.program(__name__, "full_sharded_ranks", folder, TORCH_CPP_LOG_LEVEL="ERROR")
    return {strategy: by_kind(torch.load(folder / strategy)) for strategy in ("fsdp", "hsdp")}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", ["on the way there", "on the way back", "on rank 0", "on both"])
def test_all_ranks_begin_the_step_again_in_smaller_parts(found, name, norm):
    ending = " normed" * norm
    who = ", ".join(map(str, KINDS[name]["short"]))
    reference = found[f"parts of 2{ending}"][0][0]
    for weights, said, sizes, micro_batch in found[name + ending]:
        # The same bits as with these parts from the start: nothing of the failed try is left.
        assert torch.equal(weights, reference)
        assert micro_batch == 2 and sizes == [4] + [2] * 8
        (sentence,) = said
        assert sentence.startswith(
            f"out of memory on rank {who} at image 0 with 4 images at a time: the step is done "
            "again, and the run goes on, with 2 (memory.micro_batch); "
        )


def test_it_may_come_late_and_halve_twice(found):
    once, _, sizes, micro_batch = found["twice"][1]
    assert micro_batch == 1 and sizes == [4, 2] + [1] * 16
    assert torch.equal(once, found["parts of 1"][1][0])
    late, said, sizes, micro_batch = found["late"][1]
    assert micro_batch == 1 and sizes == [4, 4, 4, 2] + [1] * 8
    assert [sentence.partition(":")[0] for sentence in said] == [
        "out of memory on rank 1 at image 16 with 4 images at a time",
        "out of memory on rank 1 at image 16 with 2 images at a time",
    ]
    torch.testing.assert_close(late, found["parts of 4"][1][0], rtol=1e-12, atol=1e-14)


needs_reset = pytest.mark.skipif(
    not hasattr(FSDPModule, "reset_iter_state"), reason="this torch cannot begin a pass anew"
)


@needs_reset
@pytest.mark.parametrize("strategy", ["fsdp", "hsdp"])
@pytest.mark.parametrize("name", ["on the way there", "on the way back", "on both"])
def test_ranks_that_share_the_weights_begin_the_step_again_in_smaller_parts(
    found_sharded, strategy, name
):
    found = found_sharded[strategy]
    who = ", ".join(map(str, KINDS[name]["short"]))
    reference = found["parts of 2"][0][0]
    for weights, said, sizes, micro_batch in found[name]:
        assert torch.equal(weights, reference)
        assert micro_batch == 2 and sizes == [4] + [2] * 8
        (sentence,) = said
        assert sentence.startswith(f"out of memory on rank {who} at image 0 with 4 images at a ")


@needs_reset
@pytest.mark.parametrize("strategy", ["fsdp", "hsdp"])
def test_sharded_ranks_keep_nothing_of_parts_that_did_not_travel(found_sharded, strategy):
    found = found_sharded[strategy]
    for weights, _, sizes, micro_batch in found["in the second part"]:
        assert micro_batch == 1 and sizes == [2, 2] + [1] * 16
        assert torch.equal(weights, found["parts of 1"][0][0])
    late, said, sizes, micro_batch = found["late"][1]
    assert micro_batch == 1 and sizes == [4, 4, 4, 2] + [1] * 8 and len(said) == 2
    torch.testing.assert_close(late, found["parts of 4"][1][0], rtol=1e-12, atol=1e-14)
    for (weights, *_), (reference, *_) in zip(
        found["normed"], found["normed in parts"], strict=True
    ):
        assert torch.equal(weights, reference)


def test_uneven_ranks_take_as_many_parts(found):
    (first, said, sizes, _), (second, other_said, other_sizes, _) = found["uneven"]
    assert torch.equal(first, second) and said == other_said and len(said) == 1
    assert sizes == [3] + [1, 2] * 4 and other_sizes == [4] + [2, 2] * 4
    assert torch.equal(first, found["uneven in parts"][0][0])


class Seeing(nn.Sequential):
    """Notes the sizes of the batches that it learns from."""

    def forward(self, x):
        if self.training and type(x) is torch.Tensor:
            sizes.append(len(x))
        return super().forward(x)


sizes = []


def seeing():
    return Seeing(nn.Conv2d(1, 32, 3), nn.GELU(), nn.Flatten(), nn.Linear(32 * 36, 2))


def train(out, limit):
    run = toque.Run(
        out=str(out), epochs=1, batch_size=32, augment="light", threads=1,
        log={"tensorboard": False}, memory={"limit": limit} if limit else {},
    )  # fmt: skip
    del sizes[:]
    result = toque.fit(
        run, train=images(96), val=images(32, start=1000), model=seeing, loss=cross_entropy,
        show="lines",
    )  # fmt: skip
    return sizes, result.loss, result.model[0].weight.flatten().tolist()


def limited(folder, limit):
    return [ranks.run(2, train, folder / f"run{i}", given) for i, given in enumerate([limit, ""])]


def test_a_limit_is_met_by_the_same_parts_on_every_rank(tmp_path):
    # Room for a quarter of a rank's images, whatever is recomputed.
    few = prediction(seeing().train(), resolved(batch_size=32, image_size=8), 16)
    limit = f"{memory._reserved(few.peak(4, 'recompute'))}B"
    (under, free), errors = ranks.program(__name__, "limited", tmp_path, limit)
    (first_sizes, *first), (second_sizes, *second) = under
    assert first_sizes == second_sizes and first == second
    assert set(first_sizes) <= {2, 4} and sum(first_sizes) == 48
    said = [line for line in errors.splitlines() if line.startswith("memory.limit")]
    assert len(said) == 1 and f"memory.limit {limit}: " in said[0], errors
    assert f"with {max(first_sizes)} images at a time" in said[0]
    assert set(free[0][0]) == {16}
    assert first[0] == pytest.approx(free[0][1], rel=1e-5)
    assert first[1] == pytest.approx(free[0][2], rel=1e-4, abs=1e-6)


def test_parts_are_even_and_none_is_empty():
    for images_in_all in range(1, 40):
        for number in range(1, 12):
            parts = cutting.evenly(images_in_all, number)
            lengths = [part.stop - part.start for part in parts]
            assert [i for part in parts for i in range(part.start, part.stop)] == list(
                range(images_in_all)
            )
            assert len(lengths) == min(number, images_in_all)
            assert max(lengths) - min(lengths) <= 1 and min(lengths) >= 1


def test_ranks_that_wait_for_each_other_take_as_many_parts_whatever_a_checkpoint_says():
    """A run alone may have come down to one image at a time before it goes on with several ranks."""
    world, network = distributed.World(0, 3), nn.Linear(2, 2)
    for strategy, parts in (("fsdp", 5), ("ddp", 6)):
        replicas = Replicas(network, cross_entropy, world, batch_size=16, strategy=strategy)
        assert replicas._num_parts(1) == parts
        assert replicas._num_parts(2) == 3 and replicas._num_parts(6) == 1
    assert replicas.smaller(6, 1) == 3 and replicas.smaller(6, 2) == 3
    assert replicas.smaller(2, 1) == 1 and replicas.smaller(2, 2) is None


def test_ranks_that_wait_for_each_other_need_as_many_parts_each():
    run = Run(batch_size=7, memory={"micro_batch": 1}, distributed={"strategy": "fsdp"})
    with pytest.raises(
        checks.UserMistake, match=r"a multiple of the 2 ranks .* got 7\. Set it to 6"
    ):
        preparing.check(run, distributed.World(0, 2))
    preparing.check(run.changed(memory={"micro_batch": 2}), distributed.World(0, 2))
    preparing.check(run.changed(distributed={"strategy": "ddp"}), distributed.World(0, 2))
