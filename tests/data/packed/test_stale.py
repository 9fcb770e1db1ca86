"""A packed cache is as fresh as the files it was packed from, or it is an error."""

import os
import shutil

import pytest
import torch

from tests.data import pictures
from tests.data.packed.contents import assert_same, varied
from toque import data
from toque.data import damaged_files, pack


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
