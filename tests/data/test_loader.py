"""The loader: the same pixels for any number of threads and workers, in order, and nothing left."""

import gc
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import pictures
from tests.data.standin import Anyhow, RandomDataset, Sampler, Sized
from toque import checks, data
from toque.data import (
    ArraySource,
    DatasetSource,
    Part,
    blocks,
    evaluation_batches,
    loader,
    train_batches,
)
from toque.data.order import stream
from toque.random import Key

forks = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

PIXELS = np.random.default_rng(0).integers(0, 256, (67, 3, 9, 8), dtype=np.uint8)
ARRAYS = ArraySource(PIXELS, np.arange(67) % 5)
SOURCES = {
    "arrays": ARRAYS,
    "gray arrays": ArraySource(PIXELS[:, 0], np.arange(67) % 5),
    "channels last": ArraySource(PIXELS.transpose(0, 2, 3, 1).copy(), np.arange(67) % 5),
    "part of arrays": Part(ARRAYS, np.arange(5, 50, 3)),
    "different sizes": Sized(),
}


def training(source, pipeline, *, batch_size=8, start=0, stop=100, seed=0, threads=2, workers=0):
    return train_batches(
        source, pipeline, seed=seed, batch_size=batch_size, start_images=start, stop_images=stop,
        threads=threads, workers=workers,
    )  # fmt: skip


def one_by_one(source, pipeline, seed, start, stop):
    """What the loader must give, from the definition: each image alone."""
    for index, epoch in zip(*stream(seed, len(source), start, stop), strict=True):
        key = Key(seed, int(epoch), [int(index)])
        image = pipeline.apply([source.read(int(index))], pipeline.draw(key))
        yield image[0], int(source.labels[index]), int(index), int(epoch)


def cut_small(patch):
    """Many chunks, blocks, slices and parts of slices."""
    patch.setattr(loader, "_CHUNK_IMAGES", 20)
    patch.setattr(loader, "_BLOCK_BYTES", 4000)
    patch.setattr(loader, "_SLICE_IMAGES", 3)
    patch.setattr(blocks, "DECODED_BYTES", 400)


def assert_same(batches, expected):
    for batch in batches:
        for i in range(len(batch)):
            image, target, index, epoch = next(expected)
            assert torch.equal(batch.images[i], image)
            got = (int(batch.targets[i]), int(batch.indices[i]), int(batch.epoch[i]))
            assert got == (target, index, epoch)
    assert next(expected, None) is None


def toque_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("toque")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert toque_threads() == []


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=25)
@given(
    batch_size=st.integers(1, 40),
    start=st.integers(0, 150),
    length=st.integers(0, 150),
    seed=st.integers(0, 3),
    threads=st.sampled_from([0, 1, 2, 4]),
    small=st.booleans(),
    size_known=st.booleans(),
)
def test_pixels_depend_on_seed_epoch_and_index_alone(
    name, batch_size, start, length, seed, threads, small, size_known
):
    source, pipeline = SOURCES[name], Sampler() if size_known else Anyhow()
    with pytest.MonkeyPatch.context() as patch:
        if small:
            cut_small(patch)
        batches = list(
            training(source, pipeline, batch_size=batch_size, start=start, stop=start + length,
                     seed=seed, threads=threads)
        )  # fmt: skip
    assert all(len(batch) == len(batch.images) == batch_size for batch in batches)
    stop = start + len(batches) * batch_size
    assert start + length <= stop < start + length + batch_size
    assert_same(batches, one_by_one(source, pipeline, seed, start, stop))


@pytest.mark.parametrize("threads", [0, 1, 2, 4])
@pytest.mark.parametrize("name", SOURCES)
def test_evaluation_visits_each_image_once_in_order(name, threads):
    source, pipeline = SOURCES[name], Sampler()
    batches = list(evaluation_batches(source, pipeline, batch_size=8, threads=threads))
    assert [len(batch) for batch in batches[:-1]] == [8] * (len(batches) - 1)
    images = torch.cat([batch.images for batch in batches])
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(len(source)))
    for i in range(len(source)):
        drawn = pipeline.draw(Key(0, 0, [i]))
        assert torch.equal(images[i], pipeline.apply([source.read(i)], drawn)[0])
    assert torch.cat([batch.targets for batch in batches]).tolist() == source.labels.tolist()


def test_files_of_different_sizes(tmp_path):
    for i in range(12):
        content = pictures.jpeg(20 + i, 30 - i)
        pictures.tree(tmp_path, {f"{'cat' if i % 2 else 'dog'}/{i}.jpg": content})
    source = data.open(tmp_path, seed=0).train
    for threads in (0, 3):
        batches = training(source, Sampler(), threads=threads)
        assert_same(batches, one_by_one(source, Sampler(), 0, 0, 104))


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_memory_format_is_the_pipelines(channels_last):
    for batch in training(ARRAYS, Sampler(channels_last=channels_last)):
        assert batch.images.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert batch.images.is_contiguous() != channels_last


def test_without_a_pipeline_images_are_stacked_as_they_are():
    for threads in (0, 2):
        for batch in training(ARRAYS, None, threads=threads):
            assert torch.equal(batch.images, ARRAYS.images[torch.from_numpy(batch.indices)])
    with pytest.raises(ValueError, match=r"without a pipeline must be of one size.*resizes"):
        list(training(Sized(), None))


def test_the_output_may_change_its_size_from_batch_to_batch():
    class Through(Anyhow):
        def apply(self, images, parameters, out=None):
            assert out is None
            return torch.stack(list(images)).float()

    source = Sized()
    for index, batch in enumerate(evaluation_batches(source, Through(), batch_size=1, threads=2)):
        assert torch.equal(batch.images[0], source.read(index).float())


def test_a_batch_that_is_kept_does_not_change():
    batches = list(training(Sized(), Sampler(), stop=400, threads=2))
    copies = [batch.images.clone() for batch in training(Sized(), Sampler(), stop=400, threads=0)]
    for batch, copy in zip(batches, copies, strict=True):
        assert torch.equal(batch.images, copy)


def test_memory_of_dropped_batches_is_used_again():
    places = {batch.images.data_ptr() for batch in training(Sized(), Sampler(), stop=800)}
    assert len(places) < 20


# Threads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_closing_early_ends_the_threads(threads):
    batches = training(Sized(), Sampler(), stop=10**9, threads=threads)
    next(batches)
    assert toque_threads()
    began = time.monotonic()
    batches.close()
    assert toque_threads() == []
    assert time.monotonic() - began < 5


def test_an_exception_of_the_consumer_ends_the_threads():
    def consume():
        for _ in training(Sized(), Sampler(), stop=10**9):
            raise KeyError("a mistake in the training loop")

    with pytest.raises(KeyError):
        consume()
    gc.collect()
    assert toque_threads() == []


@pytest.mark.parametrize("threads", [0, 1, 2, 4])
def test_an_exception_comes_in_its_place(threads):
    source = Sized(bad=17)
    batches = evaluation_batches(source, Sampler(), batch_size=4, threads=threads)
    for first in (0, 4, 8, 12):
        assert next(batches).indices[0] == first
    with pytest.raises(ValueError, match="image 17 is bad"):
        next(batches)
    assert toque_threads() == []


def test_a_file_that_vanishes_is_named(tmp_path):
    pictures.folder(tmp_path, {"cat": 8, "dog": 8})
    source = data.open(tmp_path, seed=0).train
    name = source.name(len(source) - 1)
    (tmp_path / name).unlink()
    batches = evaluation_batches(source, Sampler(), batch_size=4, threads=2)
    with pytest.raises(FileNotFoundError, match=name):
        list(batches)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_at_most_three_batches_are_prepared_ahead(threads):
    source = Sized()
    batches = training(source, Sampler(), batch_size=4, stop=10**6, threads=threads)
    for taken in range(1, 8):
        next(batches)
        time.sleep(0.02)
        assert source.reads <= 4 * (taken + 3)
    batches.close()


def test_threads_do_the_work():
    places = set()

    class Watched(Sampler):
        def apply(self, images, parameters, out=None):
            places.add(threading.current_thread().name)
            return super().apply(images, parameters, out)

    list(training(Sized(), Watched(), threads=2))
    assert places and all(name.startswith("toque-data") for name in places)


# A user's own Dataset ----------------------------------------------------------------------------


def pixels_of(source, *, threads, workers, evaluate=False):
    if evaluate:
        batches = evaluation_batches(source, None, batch_size=5, threads=threads, workers=workers)
    else:
        batches = training(source, None, batch_size=5, stop=60, threads=threads, workers=workers)
    return [(batch.images, batch.targets, batch.indices) for batch in batches]


def assert_equal_pixels(ones, others):
    for one, other in zip(ones, others, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
        np.testing.assert_array_equal(one[2], other[2])


@forks
@pytest.mark.parametrize("evaluate", [False, True])
def test_a_random_dataset_has_the_same_pixels_for_any_workers(evaluate):
    source = DatasetSource(RandomDataset())
    expected = pixels_of(source, threads=0, workers=0, evaluate=evaluate)
    assert len({image[0, 0, 0].item() for images, _, _ in expected for image in images}) == (
        23 if evaluate else 60  # a different draw for each image in each epoch
    )
    for images, targets, indices in expected:
        assert images[:, 0, 0, 2].tolist() == indices.tolist()
        assert targets.tolist() == (indices % 4).tolist()
    for threads, workers in [(1, 0), (4, 0), (0, 1), (2, 2)]:
        got = pixels_of(source, threads=threads, workers=workers, evaluate=evaluate)
        assert_equal_pixels(got, expected)


@forks
def test_workers_carry_images_of_different_sizes():
    source = DatasetSource(RandomDataset(varied=True))
    expected = [batch.images for batch in training(source, Sampler(), threads=0)]
    for batch, images in zip(training(source, Sampler(), workers=2), expected, strict=True):
        assert torch.equal(batch.images, images)
    sized = Sized()
    assert_same(training(sized, Sampler(), workers=1), one_by_one(sized, Sampler(), 0, 0, 104))


@forks
@pytest.mark.parametrize("workers", [0, 1])
def test_the_generators_of_the_training_process_stay_as_they_were(workers):
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    before = states()
    source = DatasetSource(RandomDataset())
    pixels_of(source, threads=2, workers=workers)
    source.read(3)
    assert source.labels.tolist() == [index % 4 for index in range(23)]
    assert states() == before


@forks
@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_of_a_dataset_comes_in_its_place(workers):
    source = DatasetSource(RandomDataset(bad=11))
    batches = evaluation_batches(source, None, batch_size=4, threads=2, workers=workers)
    assert [next(batches).indices[0] for _ in range(2)] == [0, 4]
    with pytest.raises(LookupError, match="no image 11") as caught:
        next(batches)
    notes = caught.value.__notes__
    assert notes[0] == "toque: item 11 of RandomDataset was asked for"
    if workers:
        assert "standin.py" in notes[1]  # where it happened, in the other process


class Stubborn(Exception):
    """Cannot be pickled."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


@forks
def test_an_exception_that_cannot_travel_is_told():
    class Broken(RandomDataset):
        def __getitem__(self, index):
            raise Stubborn("too", "stubborn")

    batches = evaluation_batches(DatasetSource(Broken()), None, batch_size=4, threads=1, workers=1)
    with pytest.raises(RuntimeError, match="Stubborn: too stubborn"):
        next(batches)


@forks
def test_a_mistake_in_a_worker_is_one_sentence():
    class NoLabel(RandomDataset):
        def __getitem__(self, index):
            return torch.zeros(3, 4, 4), "cat"

    batches = evaluation_batches(DatasetSource(NoLabel()), None, batch_size=4, threads=1, workers=1)
    with pytest.raises(
        checks.UserMistake, match=r"^DatasetSource: every target must be a class number"
    ):
        next(batches)


@forks
def test_closing_early_ends_the_workers():
    import multiprocessing

    batches = training(DatasetSource(RandomDataset()), None, stop=10**9, workers=2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


SPAWN = """
import multiprocessing, sys
import numpy as np
from tests.data.standin import RandomDataset
from toque.data import DatasetSource, evaluation_batches

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    source = DatasetSource(RandomDataset())
    batches = [
        list(evaluation_batches(source, None, batch_size=5, threads=1, workers=workers))
        for workers in (0, 1)
    ]
    for one, other in zip(*batches, strict=True):
        assert (one.images == other.images).all()
    print("equal")
"""


def test_workers_may_be_spawned(tmp_path):
    paths = [str(Path(__file__).parents[2]), str(Path(data.__file__).parent.parent.parent)]
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path[:0] = {paths}\n{SPAWN}")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert ended.stdout == "equal\n", ended.stderr


# Mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1; got 0"),
        ({"threads": -1}, "threads must be >= 0; got -1"),
        ({"workers": -1}, "workers must be >= 0"),
        ({"start": 5, "stop": 4}, "0 <= start_images <= stop_images"),
        ({"start": -1}, "0 <= start_images"),
    ],
)
def test_counts_out_of_range(settings, words):
    with pytest.raises(ValueError, match=words):
        training(ARRAYS, None, **settings)


def test_a_source_without_images():
    with pytest.raises(ValueError, match="source must be at least one image"):
        training(Sized(num_images=0), None)
