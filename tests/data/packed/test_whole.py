"""A packed cache is whole and finished, or it is an error that packing again mends."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import time

import numpy as np
import pytest

from tests.data import pictures
from tests.data.packed.contents import assert_same, flip, varied
from toque import checks, data
from toque.data import damaged_files, pack
from toque.data.packed import packing, writing

forks = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


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


# Damage


def read_all(cache):
    for source in (data.open(cache, seed=0).train, data.open(cache, seed=0).val):
        for index in range(len(source)):
            source.read(index)


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
