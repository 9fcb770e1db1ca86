"""Out of memory, the plan under a limit, and that nothing grows."""

import copy
import dataclasses
import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from tests.train.runs import bits, train
from tests.train.stepping import batch, built, labels, pixels, weights
from toque import checks, layers, models
from toque.models import memory as predicted
from toque.train.optimisation import optimise
from toque.train.run import Run
from toque.train.steps import cutting, memory
from toque.train.steps.predicting import Example, Prediction


class Limited(nn.Module):
    """A network on a device that holds so many images at a time; it fails after BatchNorm ran."""

    def __init__(self, most, norm=True, error=torch.OutOfMemoryError):
        super().__init__()
        torch.manual_seed(0)
        self.most, self.error, self.calls = most, error, []
        self.first = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.Identity())
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x)
        self.calls.append(len(x))
        if len(x) > self.most:
            raise self.error("out of memory")
        return self.last(x)


def steps(model, count=3, **settings):
    step, said = built(model.double(), cross_entropy, lr=0.1, **settings), []
    step.warn = said.append
    for number in range(count):
        step(batch(pixels(8, 4, seed=number), labels(8, seed=number)), 8 * number, 0.1)
    return step, said


@pytest.mark.parametrize("sam", [0.0, 0.05])
def test_out_of_memory_halves_the_parts_and_repeats_the_step(sam):
    limited, roomy = Limited(2), Limited(8)
    step, said = steps(limited, sam=sam)
    steps(roomy, micro_batch=2, sam=sam)
    # The same bits as a run with these parts from the start: nothing of the failed tries is left.
    assert torch.equal(weights(limited), weights(roomy))
    assert limited.calls[:3] == [8, 4, 2] and 8 not in limited.calls[1:]
    assert [sentence.split(" with ")[1] for sentence in said] == [
        "8 images at a time: the step is done again, and the run goes on,",
        "4 images at a time: the step is done again, and the run goes on,",
    ]
    assert "BatchNorm takes its statistics over each part" in said[0]
    assert step.state_dict()["micro_batch"] == 2


def test_without_batchnorm_the_result_is_the_same_within_rounding():
    limited, roomy = Limited(3, norm=False), Limited(8, norm=False)
    _, said = steps(limited)
    steps(roomy)
    torch.testing.assert_close(weights(limited), weights(roomy), rtol=1e-12, atol=1e-14)
    assert said[-1].endswith("the result is equal within rounding")


def test_what_is_no_lack_of_memory_or_cannot_be_helped_is_raised():
    with pytest.raises(ValueError, match="the memory must be enough for one image at a time"):
        steps(Limited(0, norm=False))
    with pytest.raises(RuntimeError, match="out of memory"):
        steps(Limited(2, error=RuntimeError))


@given(num_images=st.integers(1, 70), size=st.integers(1, 80))
def test_parts_are_a_batch_in_order_and_none_is_a_single_image_that_need_not_be(num_images, size):
    parts = [list(range(num_images))[part] for part in cutting.cut(num_images, size)]
    assert [image for part in parts for image in part] == list(range(num_images))
    sizes = [len(part) for part in parts]
    assert len(sizes) == -(-num_images // size) and max(sizes) <= size
    if 1 in sizes:  # no other way to cut it: one image, or parts of at most two
        assert num_images == 1 or size < 3
    smaller = cutting.smaller(num_images, size, 2)
    if smaller is not None:
        assert size // 2 <= smaller < size
        assert min(part.stop - part.start for part in cutting.cut(num_images, smaller)) > 1


@pytest.mark.parametrize(("num_images", "most", "parts"), [(8, 2, 2), (9, 3, 3), (5, 3, 3)])
def test_halving_makes_no_part_of_one_image_where_batchnorm_is_training(num_images, most, parts):
    limited, roomy = Limited(most), Limited(num_images)
    for model, settings in ((limited, {}), (roomy, {"micro_batch": parts})):
        step = built(model.double(), cross_entropy, lr=0.1, **settings)
        step(batch(pixels(num_images, 4), labels(num_images)), 0, 0.1)
    assert torch.equal(weights(limited), weights(roomy))
    assert 1 not in limited.calls


@pytest.mark.parametrize("num_images", [2, 3, 8])
def test_where_halving_would_leave_one_image_to_batchnorm_the_sentence_says_so(num_images):
    step = built(Limited(1).double(), cross_entropy)
    with pytest.raises(ValueError, match="enough for two images, as BatchNorm needs, at a time"):
        step(batch(pixels(num_images, 4), labels(num_images)), 0, 0.1)


@pytest.mark.parametrize(("num_images", "micro_batch"), [(1, None), (4, 1), (3, 2)])
def test_one_image_with_one_value_per_channel_is_a_sentence(num_images, micro_batch):
    step = built(Limited(8).double(), cross_entropy, micro_batch=micro_batch)
    with pytest.raises(checks.UserMistake, match=r"two or more where BatchNorm .* got 1\. Choose"):
        step(batch(pixels(num_images, 4), labels(num_images)), 0, 0.1)


def test_another_error_of_the_model_is_left_as_it_is():
    class Refusing(nn.Linear):
        def forward(self, x):
            raise ValueError("of the model itself")

    with pytest.raises(ValueError, match=r"^of the model itself$"):
        built(Refusing(4, 3).double(), cross_entropy)(batch(pixels(2, 4), labels(2)), 0, 0.1)


def test_the_cpus_way_to_say_it_is_understood():
    assert memory.is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you"))
    assert not memory.is_out_of_memory(ValueError("can't allocate memory"))


STARVED = """
import resource, sys, torch
from torch.nn.functional import cross_entropy
from tests.train.test_memory import Wide, steps, weights

def address_space():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

torch.set_num_threads(1)
steps(Wide(64), count=1)  # what the process keeps is there: threads, arenas, kernels
limit = address_space() + 150 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
model = Wide(1 << 19)
step, said = steps(model, count=2)
for sentence in said:
    print(sentence, file=sys.stderr)
print(step.micro_batch)
torch.save(weights(model), sys.argv[1])
"""


class Wide(nn.Module):
    """More than 256 MiB at the peak for 8 images, from a few weights."""

    def __init__(self, width):
        super().__init__()
        torch.manual_seed(0)
        self.width, self.last = width, nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        wide = (x * self.scale)[:, None, :].expand(-1, self.width, -1)
        return self.last((wide * 1.5).tanh().sum(1) / self.width)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_really_ends_halves_the_parts_within_rounding(tmp_path):
    file = tmp_path / "weights"
    done = subprocess.run(
        [sys.executable, "-c", STARVED, str(file)], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "out of memory at image 0 with 8 images at a time" in done.stderr
    assert 1 <= int(done.stdout) < 8
    roomy = Wide(1 << 19)
    steps(roomy, count=2)
    torch.testing.assert_close(torch.load(file), weights(roomy), rtol=1e-9, atol=1e-12)


def test_saved_tensors_in_host_memory_change_no_bit():
    one, other = Limited(8), Limited(8)
    steps(one)
    steps(other, offload=True)
    assert torch.equal(weights(one), weights(other))


def test_sizes_are_read():
    assert [memory.bytes_of(text) for text in ("6GiB", "500 MB", "1.5kib", "7B")] == [
        6 * 2**30, 500 * 10**6, 1536, 7,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"memory.limit must be a size; got '6 giga'. Write it as"):
        memory.bytes_of("6 giga")


def prediction(net, run, num_images, channels=1, loss=cross_entropy):
    size = run.image_size
    example = Example(torch.zeros(2, channels, size, size), torch.zeros(2, dtype=torch.int64))
    return Prediction(net, run, "float32", loss, example, num_images)


def planned(limit, net, predicting=None, num_images=64):
    run = resolved(batch_size=64, image_size=16, memory={"limit": limit})
    predicting = predicting or prediction(net, run, num_images)
    return memory.plan(predicting, run, net, num_images)


def resolved(**changed):
    run = Run(**changed)
    filled = optimise.resolve_optimizer(run.optimizer, run.batch_size, run.image_size)
    return run.changed(optimizer=filled.model_dump())


def small_resnet():
    torch.manual_seed(0)
    return models.create("resnet10_small", num_classes=3, in_channels=1).train()


def blocks_in_a_row(norm=nn.Identity):
    """Blocks that widen much and weigh little: checkpointing keeps a fraction."""
    torch.manual_seed(0)

    def block():
        return nn.Sequential(
            norm(4), nn.Conv2d(4, 16, 1), nn.GELU(), nn.Conv2d(16, 16, 1), nn.GELU(),
            nn.Conv2d(16, 4, 1),
        )  # fmt: skip

    row = [block() for _ in range(4)]
    return nn.Sequential(nn.Conv2d(1, 4, 1), *row, nn.Flatten(), nn.Linear(1024, 3)).train()


def chosen(plan):
    return plan.micro_batch, plan.keeping


@pytest.fixture(scope="module", params=[nn.Identity, nn.BatchNorm2d])
def descent(request):
    """Every plan that lower and lower limits lead to, to the byte; and the last one's error."""
    net = blocks_in_a_row(request.param)
    before = copy.deepcopy(net.state_dict())
    predicting = prediction(net, resolved(batch_size=64, image_size=16), 64)
    plans, refusal = [planned("9GiB", net, predicting)], ""
    while not refusal:
        assert planned(f"{plans[-1].peak_bytes}B", net, predicting) == plans[-1]
        try:
            plans.append(planned(f"{plans[-1].peak_bytes - 1}B", net, predicting))
        except ValueError as error:
            refusal = str(error)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert not layers.is_saving_memory(net) and all("forward" not in vars(m) for m in net.modules())
    return request.param is nn.BatchNorm2d, plans, refusal


def test_the_plan_takes_the_ways_in_the_order_of_their_time(descent):
    batchnorm, plans, refusal = descent
    peaks = [plan.peak_bytes for plan in plans]
    assert peaks == sorted(set(peaks), reverse=True)
    ways = [chosen(plan) for plan in plans]
    assert ways[:2] == [(None, "all"), (None, "recompute")]
    if batchnorm:  # smaller parts are other statistics: they come last, and never one image
        assert ways[2] == (None, "checkpoint")
        sizes = [images or 64 for images, _ in ways]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] == 2
    else:
        order = [(None, "all"), (None, "recompute"), (32, "recompute"), (16, "recompute")]
        order += [(size, "checkpoint") for size in (None, 32, 16, 8, 4, 2, 1)]
        assert ways == [way for way in order if way in ways]
        assert ways[2] == (32, "recompute") and ways[-1] == (1, "checkpoint")
    smallest = memory.readable(peaks[-1])
    assert f"memory.limit must be at least {smallest} for this model; got" in refusal


def test_the_line_says_what_was_chosen_and_what_it_would_be_without(descent):
    batchnorm, plans, _ = descent
    free = memory.readable(plans[0].peak_bytes)
    assert str(plans[0]) == f"{free} predicted with the whole batch at once"
    said, size = str(plans[2]), memory.readable(plans[2].peak_bytes)
    if batchnorm:
        begins = f"{size} predicted with the whole batch at once, 4 blocks computed again in"
    else:
        begins = f"{size} predicted with 32 images at a time, activations made again in"
    assert said.startswith(begins) and said.endswith(f" times the time; {free} without")


def test_the_peak_is_that_of_a_step_of_the_run():
    net, run = small_resnet(), resolved(batch_size=64, image_size=16)
    least = predicted.predict(net, [64, 1, 16, 16], optimizer="sgd").peak_bytes
    peak = prediction(net, run, 64).peak(64, "all")
    assert least <= peak <= 1.05 * least
    weights = sum(4 * p.numel() for p in net.parameters())
    averaged = resolved(batch_size=64, image_size=16, ema={"half_life_epochs": 1})
    assert prediction(net, averaged, 64).peak(64, "all") - peak == pytest.approx(weights, rel=0.05)
    adam = resolved(batch_size=64, image_size=16, optimizer={"name": "adamw"})
    assert prediction(net, adam, 64).peak(64, "all") - peak == pytest.approx(weights, rel=0.05)
    assert prediction(copy.deepcopy(net).to("meta"), run, 64).peak(64, "all") == peak
    example = Example(torch.zeros(2, 1, 16, 16), torch.zeros(2, dtype=torch.int64))
    waiting = Prediction(net, run, "float32", cross_entropy, example, 64, waiting=1)
    assert waiting.peak(64, "all") - peak == 64 * (4 * 16 * 16 + 8)  # the next batch's bytes
    unknown = resolved(batch_size=64, image_size=16, optimizer={"name": "soap"})
    assert prediction(net, unknown, 64).peak(64, "all") > peak


def test_checkpointing_changes_no_bit_of_a_run():
    one, other = blocks_in_a_row(nn.BatchNorm2d), blocks_in_a_row(nn.BatchNorm2d)
    for net in (one, other):
        net[1].append(nn.Dropout(0.3))
    plan = planned("9GiB", other)
    blocks = prediction(other, resolved(batch_size=64, image_size=16), 64).blocks()
    assert blocks == ("1", "2", "3", "4")
    dataclasses.replace(plan, keeping="checkpoint", blocks=blocks).prepare(other, compiled=False)
    for net in (one, other):
        step = built(net.double(), cross_entropy, lr=0.1)
        for number in range(3):
            x = pixels(8, 1, 16, 16, seed=number)
            step(batch(x, labels(8, seed=number)), 8 * number, 0.1)
    assert torch.equal(weights(one), weights(other))


def test_a_model_that_needs_numbers_to_run_is_told_so():
    class Looking(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)) * (2 if x.sum() > 0 else 1)

    with pytest.raises(ValueError, match=r"memory.limit must be unset for a model whose memory"):
        planned("1GiB", Looking(256, 3).train())


def test_fit_says_what_it_chose(tmp_path, capsys):
    train(tmp_path / "run", memory={"limit": "1GiB"}, show="lines", epochs=1)
    assert "memory.limit 1GiB: 0.1 MiB predicted with the whole batch" in capsys.readouterr().err


def test_nothing_grows_from_step_to_step(tmp_path):
    """Tensors alive 1,000 steps later, as far from a row and an epoch, are no more."""
    counts = []
    kinds = (torch.Tensor, nn.Parameter)

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            parts = nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.1), nn.Linear(64, 2)
            self.inside, self.steps = nn.Sequential(*parts), 0

        def forward(self, x):
            self.steps += self.training
            if self.training and self.steps in (61, 1061):
                gc.collect()
                counts.append(sum(type(one) in kinds for one in gc.get_objects()))
            return self.inside(x)

    changed = {"batch_size": 2, "checkpoint": {"every_s": 1e6}, "log": {"every_images": 10}}
    train(tmp_path / "run", model=Counting, epochs=22, **changed)
    assert len(counts) == 2 and counts[1] <= counts[0]


# -- torch.compile


@pytest.fixture
def eager_backend(monkeypatch):
    """Graphs are captured, guarded and counted, and run without a compiler's minutes."""
    from torch._dynamo.utils import counters

    from toque.train.steps import compiled

    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    yield counters
    torch._dynamo.reset()


def test_compiled_once_to_train_and_once_to_evaluate(tmp_path, eager_backend):
    changed = {"ema": {"half_life_epochs": 0}}
    result = train(tmp_path / "run", compile=True, **changed)  # 30 images: 16 and a part of 14
    assert eager_backend["stats"]["unique_graphs"] == 2
    assert len(result.evaluation.indices) == 30
    train(tmp_path / "plain", **changed)
    assert bits(tmp_path / "run") == bits(tmp_path / "plain")
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"_orig_mod" not in path.read_bytes()
