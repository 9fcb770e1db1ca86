"""Images that grow: a pure function of images seen, the same bits through crashes and on ranks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import toque
from tests.train.runs import Crash, bits, crashing_after, images
from toque import data
from toque.train import build, parts, prepare
from toque.train.distributed import World
from toque.train.resizing import Phase, phases, size_at, sizes, stretches
from toque.train.steps import compiled

TRAIN, VAL = images(100), images(30, start=1000)
GROWING = {"from_px": 8, "to_px": 14, "begin_epoch": 0.5, "until_epoch": 2, "step_px": 4}


def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(16, 2),
    )  # fmt: skip


def settings(out, **changed):
    return toque.Run(
        **{
            "out": str(out), "epochs": 3, "batch_size": 16, "image_size": 16, "augment": "cifar",
            "optimizer": {"name": "adamw"}, "resize": GROWING, "device": "cpu",
            "checkpoint": {"every_s": 1e-6, "background": False},
            "log": {"tensorboard": False, "every_images": 16},
            **changed,
        }
    )  # fmt: skip


def train(out, *, loss=None, model=network, **changed):
    return toque.fit(
        settings(out, **changed), train=TRAIN, val=VAL, model=model, loss=loss, show="quiet"
    )


def resolved(**changed):
    own = prepare.Own(TRAIN, VAL, network)
    run = settings("unused", **changed)
    splits = prepare.open_splits(run, own)
    return prepare.resolve(run, splits, own, prepare.task_of(splits, own)), splits


# --- the function ---


def test_phases_begin_with_the_batch_that_begins_after_their_share():
    run, _ = resolved()
    # 8 until epoch 0.5; of the 6 px up to 14 at epoch 2, 12 is reached after 4: epoch 1.5.
    assert phases(run, 100) == (Phase(0, 8), Phase(160, 12), Phase(208, 14))
    assert [size_at(run, 100, seen) for seen in (0, 144, 160, 192, 208, 1000)] == [
        8, 8, 12, 12, 14, 14,
    ]  # fmt: skip
    assert list(stretches(run, 100, 144, 304)) == [(144, 160, 8), (160, 208, 12), (208, 304, 14)]
    assert list(stretches(run, 100, 176, 192)) == [(176, 192, 12)]


def test_without_it_every_image_has_the_size_of_the_run():
    run, _ = resolved(resize={})
    assert phases(run, 100) == (Phase(0, 16),) and sizes(run) == (16,)


def test_what_is_unset_is_filled_in_and_kept():
    run, _ = resolved(resize={"from_px": 8}, epochs=10)
    assert (run.resize.to_px, run.resize.until_epoch, run.resize.step_px) == (16, 8.0, 32)
    assert phases(run, 100) == (Phase(0, 8), Phase(800, 16))
    jump, _ = resolved(resize={"from_px": 8, "begin_epoch": 2, "until_epoch": 2, "step_px": 4})
    assert phases(jump, 100) == (Phase(0, 8), Phase(208, 16))


@given(
    st.integers(1, 300), st.integers(0, 200), st.integers(1, 64), st.integers(1, 70),
    st.floats(0, 4), st.floats(0, 4), st.integers(0, 40), st.integers(0, 40),
)  # fmt: skip
def test_stretches_tile_the_run_and_grow(first, more, step, batch, one, other, start, length):
    begin, until = sorted((one, other))
    asked = {"from_px": first, "to_px": first + more, "step_px": step}
    asked |= {"begin_epoch": begin, "until_epoch": until}
    run = toque.Run(image_size=first + more, batch_size=batch, epochs=4, resize=asked)
    found = list(stretches(run, 77, start * batch, (start + length) * batch))
    at = start * batch
    for began, ended, size in found:
        assert began == at and began % batch == ended % batch == 0
        assert all(size_at(run, 77, seen) == size for seen in range(began, ended, batch))
        # By hand: the share of the way, rounded down to a multiple, never back.
        epoch = began / 77
        share = 1.0 if epoch >= until else max(0.0, (epoch - begin) / (until - begin or 1))
        wanted = first + share * more
        assert size <= wanted + 1e-6
        assert size in {first, first + more} or size % step == 0
        assert wanted - size < step + 1e-6
        at = ended
    assert at == (start + length) * batch
    assert [one[2] for one in found] == sorted({one[2] for one in found})


# --- the run ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    train(out, loss=crashing_after(10**9))
    return out


def test_the_network_sees_the_sizes_and_the_rows_say_them(whole, tmp_path):
    seen = []

    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            if self.training:
                seen.append(x.shape[-1])
            return self.inner(x)

    result = train(tmp_path / "run", model=Looking)
    assert seen[1:] == [8] * 10 + [12] * 3 + [14] * 6  # the first is the look at the signal
    rows = bits(result.out)[1]
    assert [row["image_size"] for row in rows if row["split"] == "train"] == seen[1:]
    assert result.run.resize.to_px == 14
    assert resolved(resize={})[0].image_size == 16


@pytest.mark.parametrize("steps", [9, 10, 11, 13, 14])
def test_crashed_around_a_change_and_continued_ends_in_the_same_bits(tmp_path, whole, steps):
    with pytest.raises(Crash):
        train(tmp_path / "run", loss=crashing_after(steps))
    train(tmp_path / "run", loss=crashing_after(10**9))
    assert bits(tmp_path / "run") == bits(whole)


def batches(run, splits, start=0, world=None):
    return list(parts.train_batches(run, splits, start, 304, world or World()))


def test_any_start_and_the_ranks_together_give_the_same_batches():
    run, splits = resolved()
    alone = batches(run, splits)
    assert [len(set(batch.images.shape[-2:])) for batch in alone] == [1] * 19
    for start in (96, 160, 176, 288):
        for batch, same in zip(batches(run, splits, start), alone[start // 16 :], strict=True):
            assert torch.equal(batch.images, same.images)

    both = [batches(run, splits, 0, SimpleNamespace(rank=rank, size=2)) for rank in (0, 1)]
    for batch, first, second in zip(alone, *both, strict=True):
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))


def test_the_draws_do_not_depend_on_the_size():
    """The picture at 8 px and at 32 px shows the same part of the image."""
    run, splits = resolved(augment="imagenet")
    (small, large) = (build.training_pipeline(run, splits, size) for size in (16, 64))
    key = toque.random.Key(0, 3, np.arange(5))
    sizes_of = [(200, 300)] * 5
    corner = [torch.tensor([[0.0, 0, side, side]]) for side in (16, 64)]
    shown = [
        torch.cat(pipeline.to_source([one] * 5, pipeline.draw(key), sizes_of))
        for pipeline, one in zip((small, large), corner, strict=True)
    ]
    torch.testing.assert_close(*shown, rtol=0, atol=1e-3)


def test_the_packed_cache_gives_the_same_batches(tmp_path):
    run, splits = resolved()
    data.pack(data.Splits(TRAIN, VAL, TRAIN.classes, (), 1), tmp_path / "cache", show="quiet")
    packed = data.open(tmp_path / "cache", seed=0)
    for batch, same in zip(batches(run, packed), batches(run, splits), strict=True):
        assert torch.equal(batch.images, same.images) and torch.equal(batch.targets, same.targets)


def test_each_size_is_compiled_once(tmp_path, monkeypatch):
    shapes = []

    def backend(graph, inputs):
        shapes.extend(tuple(one.shape) for one in inputs if one.ndim == 4 and one.shape[0] == 16)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", backend)
    train(tmp_path / "run", compile=True, epochs=4)
    torch._dynamo.reset()
    assert shapes == [(16, 1, 8, 8), (16, 1, 16, 16), (16, 1, 12, 12), (16, 1, 14, 14)]


def test_the_memory_plan_takes_the_largest(tmp_path, monkeypatch):
    asked = []

    class Prediction:
        def __init__(self, network, run, precision, loss, example, *_):
            asked.append(list(example.images.shape))
            raise Crash

    monkeypatch.setattr(parts, "Prediction", Prediction)
    with pytest.raises(Crash):
        train(tmp_path / "run", memory={"limit": "1GiB"})
    assert asked == [[2, 1, 14, 14]]


def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 2))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"resize": {"to_px": 8}}, r"\[resize\]: from_px must be given with to_px; got nothing"),
        ({"resize": {"from_px": 15, "to_px": 14}}, r"from_px must be at most to_px, 14; got 15"),
        ({"resize": {"from_px": 8, "to_px": 32}}, r"to_px must be at most image_size, 16; got 32"),
        ({"resize": {"from_px": 8, "until_epoch": 4}}, r"until_epoch <= epochs, 3; got 0 and 4"),
        ({"resize": {"from_px": 8, "begin_epoch": 2, "until_epoch": 1}}, r"got 2 and 1"),
        ({"resize": {"from_px": 8}, "augment": "off"}, r"left out where augment is off; got 8"),
        ({"resize": {"from_px": 8, "step_px": 1}, "compile": True}, r"step_px must be so large"),
        ({"resize": {"from_px": 8}, "model": fixed}, r"a size that the model takes; got 8 \(.*mat1"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_written(tmp_path, changed, words):
    with pytest.raises(ValueError, match=words):
        train(tmp_path / "run", **changed)
    assert not (tmp_path / "run").exists()


def test_a_setting_of_another_name_is_named():
    with pytest.raises(
        ValueError, match=r"\[resize\]: from is not a setting. Did you mean from_px"
    ):
        toque.Run(resize={"from": 8})
