"""The packed cache: the same images, and whole, fresh, finished, or an error."""

import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import time

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from tests.data import pictures
from toque import augment, checks, data
from toque.data import PackedSource, Part, damaged_files, evaluation_batches, pack, train_batches
from toque.data.packed import packing, writing
from toque.data.packed.images import resized

forks = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def varied(number):
    """A small picture of its own: size and pixels."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (20 + number % 7, 24 + number % 5, 3), dtype=np.uint8)
    kind = "PNG" if number % 3 else "JPEG"
    return pictures.saved(pixels, kind, **({"quality": 90} if kind == "JPEG" else {}))


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes of twelve images, of which the validation part is drawn."""
    files = {f"{'cat' if n % 2 else 'dog'}/{n:02}.jpg": varied(n) for n in range(24)}
    return pictures.tree(tmp_path / "photos", files)


@pytest.fixture
def cache(photos, tmp_path):
    """The folder packed, in several shards."""
    pack(photos, tmp_path / "cache", shard_bytes=6000, show="quiet")
    return tmp_path / "cache"


def assert_same(packed, source):
    assert packed.classes == source.classes and len(packed) == len(source)
    np.testing.assert_array_equal(packed.labels, source.labels)
    for index in range(len(source)):
        assert packed.name(index) == source.name(index)
        assert torch.equal(packed.read(index), source.read(index))


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_a_drawn_split_is_drawn_as_from_the_folder(photos, cache, seed):
    packed, folder = (data.open(one, seed=seed, val_fraction=0.3) for one in (cache, photos))
    assert len(list(cache.glob("*/all-*.bin"))) > 2
    assert_same(packed.train, folder.train)
    assert_same(packed.val, folder.val)
    assert packed.drawn and packed.channels == folder.channels == 3


def test_a_given_split_is_kept(tmp_path):
    files = {f"{part}/{name}/{n}.png": varied(n) for part in ("train", "valid")
             for name in ("a", "b") for n in range(3)}  # fmt: skip
    root = pictures.tree(tmp_path / "photos", files)
    pack(root, tmp_path / "cache", show="quiet")
    packed, folder = (data.open(one, seed=0) for one in (tmp_path / "cache", root))
    assert_same(packed.train, folder.train)
    assert_same(packed.val, folder.val)
    assert not packed.drawn


def test_small_images_of_one_size_are_gathered(tmp_path, monkeypatch):
    fashion = data.open("fashion", seed=0)
    few = data.Splits(Part(fashion.train, np.arange(40)), Part(fashion.val, np.arange(9)),
                      fashion.classes, (), 1)  # fmt: skip
    pack(few, tmp_path / "cache", shard_bytes=12_000, show="quiet")
    packed = data.open(tmp_path / "cache", seed=0)
    assert packed.train.in_memory
    assert_same(packed.train, few.train)
    indices = np.array([39, 0, 17, 17, 5, 31])
    assert torch.equal(packed.train.read_many(indices), few.train.read_many(indices))
    coloured = data.open(tmp_path / "cache", seed=0, channels=3)
    expected = few.train.read_many(indices).expand(-1, 3, -1, -1)
    assert torch.equal(coloured.train.read_many(indices), expected)
    assert torch.equal(coloured.train.read(4), few.train.read(4).expand(3, -1, -1))


@pytest.mark.parametrize("size", [None, 64])
def test_masks_are_kept(tmp_path, size):
    nuclei = data.open("nuclei", seed=0)
    few = data.Splits(Part(nuclei.train, np.arange(5)), Part(nuclei.val, np.arange(2)),
                      nuclei.classes, (), 1)  # fmt: skip
    pack(few, tmp_path / "cache", size=size, show="quiet")
    packed = data.open(tmp_path / "cache", seed=0)
    assert packed.train.task == "segmentation" and packed.train.labels.shape == (5, 0)
    for index in range(5):
        mask = few.train.mask(index)
        expected = mask if size is None else mask[1::2, 1::2]
        assert torch.equal(packed.train.mask(index), expected)
        assert packed.train.read(index).shape[1:] == expected.shape
    path = next(tmp_path.glob("cache/*/train-*.masks"))
    flip(path, 70)
    assert damaged_files(tmp_path / "cache") == [path.relative_to(tmp_path / "cache").as_posix()]
    with pytest.raises(ValueError, match=r"\.masks .*pack again"):
        packed.train.mask(0)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_targets_are_kept(tmp_path, task):
    labels = np.eye(4, 3, dtype=np.float32) * (1 if task == "multilabel" else 0.5)
    source = data.ArraySource(np.zeros((4, 8, 8, 3), np.uint8), labels, ["a", "b", "c"])
    pack(data.Splits(source, source, source.classes, (), 3), tmp_path / "cache", show="quiet")
    packed = data.open(tmp_path / "cache", seed=0).val
    assert packed.task == task == source.task
    np.testing.assert_array_equal(packed.labels, labels)
    assert packed.labels.dtype == np.float32


def test_training_from_the_cache_gives_the_bits_of_the_folder(photos, cache):
    pipeline = augment.preset("imagenet", 16)

    def pixels(root, threads):
        batches = train_batches(
            data.open(root, seed=2).train, pipeline, seed=2, batch_size=8, start_images=0,
            stop_images=64, threads=threads, scaled_decoding=False,
        )  # fmt: skip
        return torch.cat([batch.images for batch in batches])

    expected = pixels(photos, 2)
    for threads in (0, 3):
        assert torch.equal(pixels(cache, threads), expected)


def test_images_are_views_of_the_mapped_file(cache):
    source = data.open(cache, seed=0).train
    whole = source._source
    assert isinstance(whole, PackedSource)
    image = whole.read(3)
    assert any(np.shares_memory(image.numpy(), memory) for memory in whole._memory)
    image[:] = 0  # private: what a caller does to a view never reaches the file
    assert damaged_files(cache) == []


# Size and encoding -------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(60, 80), (90, 50), (16, 200), (30, 30)])
def test_larger_images_are_reduced_as_pillow_reduces(tmp_path, height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    root = pictures.folder(tmp_path / "photos", {"a": 2, "b": 2}, pictures.png(pixels))
    pack(root, tmp_path / "cache", size=30, show="quiet")
    image = data.open(tmp_path / "cache", seed=0).train.read(0)
    small = min(height, width) <= 30
    target = (height, width) if small else resized(height, width, 30)
    assert small or min(target) == 30
    assert abs(target[1] / target[0] - width / height) < 0.03 * width / height
    expected = pixels if small else np.asarray(
        Image.fromarray(pixels).resize(target[::-1], Image.Resampling.LANCZOS))  # fmt: skip
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_reencoded_images_are_jpegs_that_the_loader_may_reduce(tmp_path):
    with Image.open(pictures.PHOTOS / "china.jpg") as image:
        content = pictures.saved(image.resize((320, 240)), "PNG")
    root = pictures.folder(tmp_path / "photos", {"a": 2, "b": 2}, content)
    pack(root, tmp_path / "cache", size=120, encoding="jpeg", quality=95, show="quiet")
    train = data.open(tmp_path / "cache", seed=0).train
    assert train.has_files and train.encoded(0).size == (120, 160)
    expected = np.asarray(
        Image.open(io.BytesIO(content)).resize((160, 120), Image.Resampling.LANCZOS), np.int64
    )
    got = train.read(0).permute(1, 2, 0).numpy()
    assert np.abs(got - expected).mean() < 6
    reference = simplejpeg.encode_jpeg(expected.astype(np.uint8), 95, "RGB", "420")
    np.testing.assert_array_equal(got, simplejpeg.decode_jpeg(reference))
    assert train.encoded(0).decode(2.0).shape == (3, 60, 80)


# Killed, full, twice -----------------------------------------------------------------------------


def whole_files(cache):
    """Content of every file but the journal, whose lines stand in the order of the calls."""
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in cache.rglob("*")
            if path.is_file() and path.name not in ("finished.jsonl", ".toque-pack")}  # fmt: skip


@forks
@pytest.mark.parametrize("after", [0, 3, 9, 22])
def test_killed_while_packing(photos, cache, tmp_path, monkeypatch, after):
    """Killed in the middle of the shard that holds image number `after`."""
    again, there = tmp_path / "again", tmp_path / "there"
    add, added = writing.ShardWriter.add, []

    def add_and_wait(shard, record):
        add(shard, record)
        added.append(record)
        if len(added) > after:
            there.touch()
            time.sleep(3600)  # until it is killed

    monkeypatch.setattr(writing.ShardWriter, "add", add_and_wait)
    process = multiprocessing.get_context("fork").Process(
        target=pack, args=(photos, again), kwargs={"shard_bytes": 6000, "show": "quiet"}
    )
    process.start()
    while not there.exists():
        assert process.is_alive()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    monkeypatch.undo()
    assert list(again.glob("*/*.bin")) and not (again / "manifest.json").exists()
    with pytest.raises(ValueError, match="a packed cache must be finished"):
        data.open(again, seed=0)
    packed = pack(photos, again, shard_bytes=6000, show="quiet")
    assert (packed.num_kept > 0) == (after > 3) and packed.num_images == 24
    assert packed.num_kept <= after
    assert whole_files(again) == whole_files(cache)


@forks
def test_a_disk_that_is_full(photos, cache, tmp_path):
    again, words = tmp_path / "again", tmp_path / "words"

    def pack_within(num_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
        try:
            pack(photos, again, shard_bytes=20_000, show="quiet", threads=1)
        except checks.UserMistake as mistake:
            words.write_text(str(mistake))

    process = multiprocessing.get_context("fork").Process(target=pack_within, args=(9000,))
    process.start()
    process.join()
    assert "no space left" in words.read_text() and "same command again" in words.read_text()
    assert not list(again.rglob("*.bin")) and not (again / "manifest.json").exists()
    pack(photos, again, shard_bytes=6000, show="quiet")
    assert_same(data.open(again, seed=0).train, data.open(cache, seed=0).train)


def test_what_a_failed_write_leaves_is_not_whole(tmp_path, monkeypatch):
    """Every write in turn fails: what is there is refused, and mended by the next call."""
    files = {f"{'cat' if n % 2 else 'dog'}/{n}.png": varied(n) for n in range(6)}
    photos = pictures.tree(tmp_path / "photos", files)
    calls = {"left": 10**9}
    honest = os.fsync

    def failing(descriptor):
        calls["left"] -= 1
        if calls["left"] < 0:
            raise OSError(28, "No space left on device")
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    pack(photos, tmp_path / "whole", shard_bytes=5000, show="quiet")
    num_syncs = 10**9 - calls["left"]
    assert num_syncs > 12
    for number in range(num_syncs - 1):  # the last one follows the rename of the manifest
        again = tmp_path / f"again{number}"
        calls["left"] = number
        with pytest.raises(ValueError, match="no space left"):
            pack(photos, again, shard_bytes=5000, show="quiet", threads=1)
        assert not (again / "manifest.json").exists()
        calls["left"] = 10**9
        pack(photos, again, shard_bytes=5000, show="quiet", threads=1)
        assert whole_files(again) == whole_files(tmp_path / "whole")
        shutil.rmtree(again)


@forks
def test_two_at_once(photos, tmp_path):
    target = tmp_path / "cache"
    target.mkdir()
    with (
        packing._locked(target),
        pytest.raises(ValueError, match="one process at a time"),
    ):
        pack(photos, target, show="quiet")
    pack(photos, target, show="quiet")


def test_a_half_written_line_of_the_journal_is_passed_over(photos, cache, tmp_path):
    journal = next(cache.glob("*/finished.jsonl"))
    lines = journal.read_bytes()
    (cache / "manifest.json").unlink()
    journal.write_bytes(lines[: len(lines) - 40] + b'\xff{"part": 3}')
    packed = pack(photos, cache, shard_bytes=6000, show="quiet")
    assert 0 < packed.num_kept < 24
    assert_same(data.open(cache, seed=0).train, data.open(photos, seed=0).train)


# Damage ------------------------------------------------------------------------------------------


def read_all(cache):
    for source in (data.open(cache, seed=0).train, data.open(cache, seed=0).val):
        for index in range(len(source)):
            source.read(index)


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << (position % 8)
    path.write_bytes(bytes(content))


def test_a_flipped_bit_in_any_file_is_found(cache):
    rng = np.random.default_rng(0)
    files = [path for path in cache.rglob("*") if path.is_file() and path.name != ".toque-pack"]
    files = [path for path in files if path.name != "finished.jsonl"]
    assert {path.suffix for path in files} == {".bin", ".index", ".facts", ".json"}
    for path in files:
        good = path.read_bytes()
        for position in rng.integers(0, len(good), 6).tolist():
            flip(path, position)
            if path.suffix != ".json":
                assert damaged_files(cache) == [path.relative_to(cache).as_posix()]
            if path.suffix != ".bin" or not is_padding(cache, path, position):
                with pytest.raises(ValueError, match=f"{path.name} .*[Pp]ack again"):
                    read_all(cache)
            path.write_bytes(good)
    read_all(cache)


def test_packing_again_mends_a_flipped_bit(photos, cache):
    path = sorted(cache.rglob("*.bin"))[1]
    good = path.read_bytes()
    flip(path, 100)
    packed = pack(photos, cache, shard_bytes=6000, show="quiet")
    assert 0 < packed.num_kept < 24 and path.read_bytes() == good


def is_padding(cache, path, position):
    """Whether a byte of a shard belongs to no image."""
    whole = data.open(cache, seed=0).train._source
    inside = [
        whole.index["offset"][n]
        <= position
        < whole.index["offset"][n] + whole.index["num_bytes"][n]
        for n in range(24)
        if whole._part.shards[whole.index.shard_of(n)].pixels.name == path.name
    ]
    return not any(inside)


@pytest.mark.parametrize("suffix", [".bin", ".index", ".facts", ".json"])
@pytest.mark.parametrize("how", ["truncated", "gone", "empty"])
def test_a_file_that_is_cut_off_or_gone(photos, cache, suffix, how):
    path = sorted(cache.rglob(f"*{suffix}"))[-1]
    good = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(good[: len(good) // 2] if how == "truncated" else b"")
    with pytest.raises(ValueError, match="finished" if path.suffix == ".json" and how == "gone"
                       else f"{path.name} .*pack again"):  # fmt: skip
        data.open(cache, seed=0)
    packed = pack(photos, cache, shard_bytes=6000, show="quiet")  # the fix that the sentence names
    assert path.read_bytes() == good
    assert packed.num_kept == 24 or suffix in (".bin", ".index")
    assert packed.num_kept > 0
    read_all(cache)


def test_another_format_is_named(cache):
    content = json.loads((cache / "manifest.json").read_text())
    content["format"] = 2
    (cache / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"format of .*manifest\.json must be 1; got 2\. Pack again"
    ):
        data.open(cache, seed=0)


# Stale -------------------------------------------------------------------------------------------


def test_a_file_that_changed_makes_the_cache_stale_and_packs_its_shard_again(photos, cache):
    changed = photos / "cat" / "05.jpg"
    size = changed.stat().st_size
    other = bytearray(varied(5))
    other[-20] ^= 1
    assert len(other) == size
    changed.write_bytes(bytes(other))
    os.utime(changed, ns=(1, 1))
    with pytest.raises(ValueError, match=r"1 that changed since: cat/05\.jpg\. Pack again"):
        data.open(cache, seed=0)
    changed.write_bytes(varied(100))
    packed = pack(photos, cache, shard_bytes=6000, show="quiet")
    assert 0 < packed.num_kept < 24
    assert_same(data.open(cache, seed=0).train, data.open(photos, seed=0).train)
    assert damaged_files(cache) == []


def test_a_file_that_was_only_touched_is_the_same(photos, cache):
    for path in photos.rglob("*.jpg"):
        os.utime(path, ns=(1, 1))
    assert len(data.open(cache, seed=0).train) + len(data.open(cache, seed=0).val) == 24


@pytest.mark.parametrize("what", ["more", "less", "a class", "shorter"])
def test_files_that_came_or_went(photos, cache, what):
    if what == "more":
        (photos / "dog" / "new.jpg").write_bytes(varied(1))
    elif what == "a class":
        pictures.tree(photos, {"cow/1.jpg": varied(1)})
    elif what == "less":
        (photos / "dog" / "04.jpg").unlink()
    else:
        (photos / "dog" / "04.jpg").write_bytes(varied(4)[:-1])
    with pytest.raises(ValueError, match=r"1 that changed since: (dog|cow)/"):
        data.open(cache, seed=0)
    if what in ("more", "less"):
        pack(photos, cache, show="quiet")
        assert_same(data.open(cache, seed=0).train, data.open(photos, seed=0).train)
        assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_without_the_files_the_cache_stands_alone(photos, cache):
    expected = data.open(photos, seed=0)
    images = [expected.train.read(index) for index in range(len(expected.train))]
    shutil.rmtree(photos)
    train = data.open(cache, seed=0).train
    assert all(torch.equal(train.read(n), image) for n, image in enumerate(images))


def test_files_left_out_do_not_make_it_stale(photos, tmp_path):
    (photos / "cat" / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.jpg"):
        pack(photos, tmp_path / "cache", show="quiet")
    pack(photos, tmp_path / "cache", on_bad="skip", show="quiet")
    assert_same(data.open(tmp_path / "cache", seed=0).train,
                data.open(photos, seed=0, on_bad="skip").train)  # fmt: skip


# Mistakes and words ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 0}, "size must be >= 1"),
        ({"encoding": "jpg"}, "encoding must be raw or jpeg; got jpg. Did you mean jpeg"),
        ({"quality": 101}, "quality must be in 1 .. 100"),
        ({"threads": 0}, "threads must be >= 1"),
        ({"channels": 2}, "channels must be 1 or 3"),
    ],
)
def test_settings_out_of_range(photos, tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        pack(photos, tmp_path / "cache", show="quiet", **settings)
    assert not (tmp_path / "cache").exists()


def test_folders_that_are_no_place_for_a_cache(photos, cache, tmp_path):
    with pytest.raises(ValueError, match=r"folder of its own; got .*photos, which holds"):
        pack(photos, photos, show="quiet")
    with pytest.raises(ValueError, match=r"outside of the data, .* Name .*photos-packed"):
        pack(photos, photos / "packed", show="quiet")
    assert not (photos / "packed").exists()
    with pytest.raises(ValueError, match=r"must be images; got .*a packed cache"):
        pack(cache, tmp_path / "other", show="quiet")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cache must be a folder"):
        pack(photos, tmp_path / "file", show="quiet")


def test_floats_are_not_packed(tmp_path):
    class Floats(torch.utils.data.Dataset):
        classes, targets = ("a", "b"), (0, 1, 0, 1)

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return torch.zeros(3, 8, 8), index % 2

    with pytest.raises(TypeError, match=r"every image must be uint8; got torch\.float32"):
        pack(data.own(Floats(), None, seed=0), tmp_path / "cache", show="quiet")


def test_the_other_settings_replace_the_cache(photos, cache):
    pack(photos, cache, size=10, show="quiet")
    assert min(data.open(cache, seed=0).train.read(0).shape[1:]) == 10
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_progress_is_said(photos, tmp_path, monkeypatch, capsys):
    from toque.data import progress

    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    pack(photos, tmp_path / "cache", show="lines")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 24 and lines[-1].startswith("packing: 24 of 24 images")
    assert pack(photos, tmp_path / "bar", show="bar").num_images == 24


def test_evaluation_reads_the_cache(cache):
    source = data.open_labelled(cache, classes=["cat", "dog"], channels=3)
    assert len(source) == 24
    pipeline = augment.preset("none", 16)
    batches = evaluation_batches(source, pipeline, batch_size=5, threads=2)
    assert sum(len(batch) for batch in batches) == 24
    with pytest.raises(ValueError, match="in the model's order"):
        data.open_labelled(cache, classes=["dog", "cat"], channels=3)
