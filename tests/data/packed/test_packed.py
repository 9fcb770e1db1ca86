"""The packed cache: the same images, whatever their size and encoding, or a sentence."""

import io

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from tests.data import pictures
from tests.data.packed.contents import assert_same, flip, varied
from toque import augment, data
from toque.data import PackedSource, Part, damaged_files, evaluation_batches, pack, train_batches
from toque.data.packed.images import resized


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


# Mistakes and words


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
