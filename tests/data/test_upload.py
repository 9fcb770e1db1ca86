"""Batches on their way to a device: the same pixels, in the same order, and nothing left behind."""

import gc
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import pictures
from tests.data.standin import Anyhow, RandomDataset, Sampler
from tests.data.test_loader import SOURCES, assert_same, cut_small, one_by_one
from toque import augment, checks, data
from toque.data import Upload, evaluation_batches, train_batches
from toque.data import upload as uploading

HOST = torch.device("cpu")  # where nothing is copied, and everything else is as on a GPU
PIPELINE = augment.Compose([augment.RandomResizedCrop(24), augment.RandomHorizontalFlip()])


def training(source, pipeline, *, augments, batch_size=8, start=0, stop=100, threads=2, workers=0):
    return train_batches(
        source, pipeline, seed=0, batch_size=batch_size, start_images=start, stop_images=stop,
        threads=threads, workers=workers, upload=Upload(HOST, augments),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert [one.name for one in threading.enumerate() if one.name.startswith("toque")] == []


@settings(max_examples=40)
@given(
    name=st.sampled_from(sorted(SOURCES)),
    batch_size=st.integers(1, 40),
    start=st.integers(0, 150),
    length=st.integers(0, 150),
    threads=st.sampled_from([0, 1, 3]),
    augments=st.booleans(),
    small=st.booleans(),
    size_known=st.booleans(),
)
def test_pixels_are_those_of_each_image_alone(
    name, batch_size, start, length, threads, augments, small, size_known
):
    source, pipeline = SOURCES[name], Sampler() if size_known else Anyhow()
    with pytest.MonkeyPatch.context() as patch:
        if small:
            cut_small(patch)
            patch.setattr(uploading, "_SOURCE_BYTES", 1000)
        batches = list(
            training(
                source, pipeline, augments=augments, batch_size=batch_size, start=start,
                stop=start + length, threads=threads,
            )
        )  # fmt: skip
    stop = start + len(batches) * batch_size
    assert_same(batches, one_by_one(source, pipeline, 0, start, stop))


@pytest.mark.parametrize("augments", [False, True])
def test_decoded_files_are_the_same_as_without(tmp_path, augments):
    # Large enough to be reduced and cut out, in memory that the next part is decoded into.
    for i in range(24):
        content = pictures.saved(noise(200 + 9 * i, 330 - 5 * i, i), "JPEG", quality=90)
        kind = "png" if i % 5 == 0 else "jpg"
        if kind == "png":
            content = pictures.png(noise(50, 60 + i, i))
        pictures.tree(tmp_path, {f"{'cat' if i % 2 else 'dog'}/{i}.{kind}": content})
    source = data.open(tmp_path, seed=0).train
    plain = train_batches(
        source, PIPELINE, seed=0, batch_size=10, start_images=0, stop_images=40, threads=2
    )
    sent = training(source, PIPELINE, augments=augments, batch_size=10, stop=40)
    for one, other in zip(plain, sent, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)
        assert np.array_equal(one.indices, other.indices)


def noise(height, width, seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    return np.kron(coarse, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)


@pytest.mark.parametrize("augments", [False, True])
def test_masks_move_with_their_images(tmp_path, augments):
    for i in range(8):
        pixels = noise(40 + i, 50, i)
        pictures.tree(tmp_path, {f"images/{i}.png": pictures.png(pixels)})
        mask = (pixels[..., 0] > 127).astype(np.uint8)
        pictures.tree(tmp_path, {f"masks/{i}.png": pictures.png(mask)})
    source = data.open(tmp_path, seed=0).train
    plain = train_batches(
        source, PIPELINE, seed=0, batch_size=4, start_images=0, stop_images=16, threads=2
    )
    sent = training(source, PIPELINE, augments=augments, batch_size=4, stop=16)
    for one, other in zip(plain, sent, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.targets, other.targets)
        assert other.targets.unique().tolist() in ([0, 1], [0, 1, 255])


@pytest.mark.parametrize("augments", [False, True])
def test_a_dataset_of_the_callers_and_tensors_that_are_ready(augments):
    source = data.DatasetSource(RandomDataset())
    for pipeline in (PIPELINE, None):
        plain = train_batches(
            source, pipeline, seed=0, batch_size=4, start_images=0, stop_images=12, threads=1
        )
        sent = training(source, pipeline, augments=augments, batch_size=4, stop=12, threads=1)
        for one, other in zip(plain, sent, strict=True):
            assert torch.equal(one.images, other.images)


def test_evaluation_gives_each_image_once():
    source = SOURCES["different sizes"]
    batches = list(
        evaluation_batches(
            source, Sampler(), batch_size=8, threads=2, upload=Upload(HOST, augments=False)
        )
    )
    assert np.concatenate([one.indices for one in batches]).tolist() == list(range(len(source)))
    plain = evaluation_batches(source, Sampler(), batch_size=8, threads=0)
    for one, other in zip(plain, batches, strict=True):
        assert torch.equal(one.images, other.images)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("augments", [False, True])
def test_an_error_comes_in_its_place(tmp_path, threads, augments):
    pictures.folder(tmp_path, {"cat": 10, "dog": 10})
    source = data.open(tmp_path, seed=0).train
    batches = training(source, PIPELINE, augments=augments, threads=threads, batch_size=4)
    next(batches)
    for file in tmp_path.rglob("*.jpg"):
        file.unlink()
    with pytest.raises(checks.UserMistake):
        list(batches)


def test_only_the_next_batch_is_sent_ahead(monkeypatch):
    sent, lock = [], threading.Lock()

    class Counted(Upload):
        def send(self, images, targets):
            with lock:
                sent.append(len(images))
            return super().send(images, targets)

    source = SOURCES["different sizes"]
    batches = train_batches(
        source, Sampler(), seed=0, batch_size=8, start_images=0, stop_images=80, threads=2,
        upload=Counted(HOST, augments=False),
    )  # fmt: skip
    for used in range(1, 11):
        next(batches)
        assert used <= len(sent) <= used + 1
    batches.close()


@pytest.mark.parametrize("augments", [False, True])
def test_where_the_next_batch_finds_no_room_it_goes_after_the_step(augments):
    """The sender's thread meets a full device; the thread that trains, when it asks, does not."""

    class Full(Upload):
        def _sent(self, images, targets):
            if threading.current_thread() is not threading.main_thread():
                raise torch.OutOfMemoryError("out of memory")
            return super()._sent(images, targets)

    source = SOURCES["different sizes"]
    batches = train_batches(
        source, Sampler(), seed=0, batch_size=8, start_images=0, stop_images=80, threads=2,
        upload=Full(HOST, augments),
    )  # fmt: skip
    assert_same(batches, one_by_one(source, Sampler(), 0, 0, 80))
