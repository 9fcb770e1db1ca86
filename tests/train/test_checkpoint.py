"""Checkpoints: exact, complete or absent, and every damage found."""

import json
import os
import random as python_random
import signal
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toque import durable
from toque.train.state import checkpoint, pieces


def small_state(value: float = 1.0):
    return {
        "model": {"weight": torch.full((3, 4), value), "steps": torch.tensor(7)},
        "optimizer": {
            "state": {0: {"m": torch.ones(2, dtype=torch.bfloat16)}},
            "groups": [{"lr": 0.1, "betas": (0.9, 0.99)}],
        },
        "none": None,
        "count": int(value),
    }


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return (
            isinstance(second, torch.Tensor)
            and first.dtype == second.dtype
            and torch.equal(first, second)
        )
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return type(first) is type(second) and first == second


plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
)
trees = st.recursive(
    plain | st.integers(0, 3).map(lambda n: torch.arange(n * 2, dtype=torch.float32).reshape(2, n)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 99), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(tree=st.dictionaries(st.text(max_size=3), trees, max_size=4))
def test_a_state_comes_back_as_it_was(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    path = checkpoint.save(folder, tree, images_seen=1, score=None)
    assert same(tree, checkpoint.load(path))


def test_layouts_and_shared_storage_are_saved_by_value(tmp_path):
    weight = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    state = {"a": weight, "tied": weight, "part": weight[:, :1], "scalar": torch.tensor(2.5)}
    assert same(state, checkpoint.load(checkpoint.save(tmp_path, state, images_seen=1, score=None)))


def test_what_is_not_plain_is_refused(tmp_path):
    with pytest.raises(TypeError, match="plain values; got object"):
        checkpoint.save(tmp_path, {"a": object()}, images_seen=1, score=None)
    assert checkpoint.found(tmp_path) == []


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_every_flipped_bit_and_every_truncation_is_found(tmp_path, name):
    path = checkpoint.save(tmp_path, small_state(), images_seen=5, score=0.5)
    file = path / name
    whole = file.read_bytes()
    draw = python_random.Random(0)
    positions = {draw.randrange(len(whole)) for _ in range(60)} | {0, len(whole) - 1}
    for position in positions:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        with pytest.raises(checkpoint.DamagedCheckpoint, match=name):
            checkpoint.load(path)
    for length in {0, 1, len(whole) // 2, len(whole) - 1}:
        file.write_bytes(whole[:length])
        with pytest.raises(checkpoint.DamagedCheckpoint, match=name):
            checkpoint.load(path)
    file.unlink()
    with pytest.raises(checkpoint.DamagedCheckpoint, match="missing"):
        checkpoint.load(path)
    file.write_bytes(whole)
    assert same(small_state(), checkpoint.load(path))


def test_a_damaged_newest_is_named_set_aside_and_the_one_before_used(tmp_path):
    for count in (10, 20):
        checkpoint.save(tmp_path, small_state(count), images_seen=count, score=None)
    file = tmp_path / "images-000000000020" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    found, state, warnings = checkpoint.load_chosen(tmp_path, checkpoint.newest)
    assert found.images_seen == 10 and state["count"] == 10
    assert len(warnings) == 1 and "images-000000000020/tensors.safetensors" in warnings[0]
    assert (tmp_path / "damaged-images-000000000020").is_dir()
    checkpoint.save(tmp_path, small_state(20), images_seen=20, score=None)
    assert checkpoint.load_chosen(tmp_path, checkpoint.newest)[0].images_seen == 20


def test_a_newer_format_is_not_guessed_at(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.formats, "VERSION", 99)
    monkeypatch.setattr(checkpoint, "TOQUE", "7.1")
    path = checkpoint.save(tmp_path, small_state(), images_seen=5, score=None)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"format 99, of a newer toque \(7.1; this is 0"):
        checkpoint.load(path)
    with pytest.raises(ValueError, match="newer toque"):  # and is not taken for damaged
        checkpoint.load_chosen(tmp_path, checkpoint.newest)
    assert path.is_dir()


def test_the_newest_and_the_best_are_kept(tmp_path):
    for count, score in [(1, 0.3), (2, 0.9), (3, 0.9), (4, None), (5, 0.1), (6, 0.2)]:
        checkpoint.save(tmp_path, small_state(count), images_seen=count, score=score)
        checkpoint.prune(tmp_path, keep=2)
    assert [one.images_seen for one in checkpoint.found(tmp_path)] == [2, 5, 6]
    assert checkpoint.best(tmp_path).images_seen == 2


@pytest.mark.parametrize("failing", ["save_file", "sync", "rename"])
def test_a_save_that_fails_leaves_the_others_and_no_leftovers(tmp_path, monkeypatch, failing):
    checkpoint.save(tmp_path, small_state(1), images_seen=1, score=None)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    if failing == "save_file":
        monkeypatch.setattr(checkpoint, "save_file", no_space)
    elif failing == "sync":
        monkeypatch.setattr(durable, "sync", no_space)
    else:
        monkeypatch.setattr("pathlib.Path.rename", no_space)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, small_state(2), images_seen=2, score=None)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["images-000000000001"]
    assert checkpoint.load_chosen(tmp_path, checkpoint.newest)[1]["count"] == 1


def _save_for_ever(folder):
    count = 1
    while True:
        checkpoint.save(folder, small_state(count), images_seen=count, score=float(-count))
        checkpoint.prune(folder, keep=2)
        count += 1


@pytest.mark.parametrize("attempt", range(8))
def test_killed_while_saving_leaves_whole_checkpoints_only(tmp_path, attempt):
    child = os.fork()
    if child == 0:
        try:
            _save_for_ever(tmp_path)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 20
    while not checkpoint.found(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.02 + 0.013 * attempt)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = checkpoint.found(tmp_path)
    assert found
    for one in found:
        state = checkpoint.load(one.path)
        assert state["count"] == one.images_seen
        assert torch.equal(state["model"]["weight"], torch.full((3, 4), float(one.images_seen)))


def test_write_replaces_a_file_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    durable.write(file, "old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "sync", no_space)
    with pytest.raises(OSError, match="No space"):
        durable.write(file, "new")
    monkeypatch.undo()
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    durable.write(file, "new")
    assert file.read_text() == "new"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dtype": "load"}, "of no dtype"),
        ({"dtype": "nothing"}, "nothing"),
        ({"shape": [1 << 40]}, "do not make it up"),
        (
            {"shape": [1 << 40], "pieces": [["a.safetensors", [0], [1 << 40]]]},
            "more than the files",
        ),
        ({"pieces": [["../a.safetensors", [0], [4]]]}, "../a.safetensors"),
    ],
)
def test_a_table_of_pieces_that_tells_of_what_is_not_there_is_refused(tmp_path, change, why):
    told = {"dtype": "float32", "shape": [4], "pieces": [["a.safetensors", [0], [4]]], **change}
    (tmp_path / pieces.TABLE).write_text(json.dumps({"0": told}))
    manifest = {"files": {pieces.TABLE: {"bytes": 99}, "a.safetensors": {"bytes": 100}}}
    with pytest.raises(checkpoint.DamagedCheckpoint, match=why):
        checkpoint.read_table(tmp_path, manifest)
