"""Saving beside the training: a consistent copy, one save at a time, and no failure lost."""

import os
import threading
import time

import pytest
import torch

from tests.waiting import until
from toque.train.settings.course import CheckpointSettings
from toque.train.state import checkpoint, saving
from toque.train.state.saving import Saver
from toque.train.state.snapshot import Camera

OFTEN = {"every_s": 1e-6, "keep": 2}


@pytest.fixture
def said():
    return []


@pytest.fixture
def gate(monkeypatch):
    """Holds every write until it is opened; `entered` tells that one has begun."""
    real, opened, entered = checkpoint.write, threading.Event(), threading.Event()

    def held(*arguments, **named):
        entered.set()
        assert opened.wait(60)
        return real(*arguments, **named)

    monkeypatch.setattr(checkpoint, "write", held)
    opened.entered = entered
    yield opened
    opened.set()


def saver(folder, said, **settings):
    return Saver(folder, CheckpointSettings(**{**OFTEN, **settings}), said.append)


def test_what_is_written_is_the_state_of_the_moment_and_not_of_the_steps_after(
    tmp_path, said, gate
):
    weight = torch.arange(6.0).reshape(1, 2, 3, 1).to(memory_format=torch.channels_last)
    momentum = {0: {"m": torch.ones(3, dtype=torch.bfloat16), "steps": [1]}}
    state = {"model": {"w": weight, "tied": weight}, "optimizer": momentum}
    with saver(tmp_path, said) as saves:
        saves.save(state, 8, None)
        assert gate.entered.wait(60)
        weight.add_(100)  # the next step, in place
        momentum[0]["m"].zero_()
        momentum[0]["steps"].append(2)
        gate.set()
        assert saves.settle()
    saved = checkpoint.load(tmp_path / "images-000000000008")
    assert torch.equal(saved["model"]["w"], torch.arange(6.0).reshape(1, 2, 3, 1))
    assert torch.equal(saved["model"]["tied"], saved["model"]["w"])
    assert torch.equal(saved["optimizer"][0]["m"], torch.ones(3, dtype=torch.bfloat16))
    assert saved["optimizer"][0]["steps"] == [1] and said == []


def test_snapshots_use_their_memory_again_unless_the_state_has_changed(tmp_path):
    camera, tensor = Camera(), torch.ones(5)
    first = camera.take({"a": tensor})
    second = camera.take({"a": tensor.add_(1)})
    assert first.tensors["0"].data_ptr() == second.tensors["0"].data_ptr() != tensor.data_ptr()
    assert torch.equal(second.tensors["0"], torch.full((5,), 2.0))
    other = camera.take({"b": torch.zeros(5, dtype=torch.int64), "a": tensor})
    assert other.tensors["0"].dtype == torch.int64 and torch.equal(other.tensors["1"], tensor)


def test_a_save_that_is_waited_for_is_written_by_the_thread_that_waits(tmp_path, said, monkeypatch):
    real, threads = checkpoint.write, []

    def noted(*arguments, **named):
        threads.append(threading.current_thread() is threading.main_thread())
        return real(*arguments, **named)

    monkeypatch.setattr(checkpoint, "write", noted)
    with saver(tmp_path, said) as saves:
        saves.save({"a": torch.zeros(2)}, 1, None)
        saves.save({"a": torch.ones(2)}, 2, None, waiting=True)
        assert checkpoint.load(tmp_path / "images-000000000002")["a"].tolist() == [1, 1]
    assert threads == [False, True] and said == []


def test_the_training_goes_on_while_a_save_is_under_way_and_the_next_save_waits(
    tmp_path, said, gate
):
    with saver(tmp_path, said) as saves:
        time.sleep(0.001)
        assert saves.due()
        saves.save({"a": torch.zeros(2)}, 1, None)  # returns, though nothing can be written
        assert gate.entered.wait(60)
        assert not saves.due()
        threading.Timer(0.05, gate.set).start()
        saves.save({"a": torch.ones(2)}, 2, 0.5)
        assert saves.settle()
    found = checkpoint.found(tmp_path)
    assert [(one.images_seen, one.score) for one in found] == [(1, None), (2, 0.5)]
    assert torch.equal(checkpoint.load(found[0].path)["a"], torch.zeros(2))
    assert torch.equal(checkpoint.load(found[1].path)["a"], torch.ones(2))


@pytest.mark.parametrize("background", [True, False])
def test_a_failure_is_said_once_and_tried_again(tmp_path, said, monkeypatch, background):
    monkeypatch.setattr(saving, "_RETRY_S", 0.02)
    full = True

    def sometimes_full(path):
        if full:
            raise OSError(28, "No space left on device")

    with saver(tmp_path, said, every_s=1000, background=background) as saves:
        saves.save({"a": 1}, 1, None)
        assert saves.settle() and not saves.due()
        monkeypatch.setattr(checkpoint.durable, "sync", sometimes_full)
        saves.save({"a": 2}, 2, 0.9)
        assert not saves.settle() and len(said) == 1
        assert "the checkpoint at image 2 could not be saved ([Errno 28] No space" in said[0]
        with pytest.raises(ValueError, match=r"got .*No space.*Make room there"):
            saves.finish()
        assert checkpoint.load_chosen(tmp_path, checkpoint.newest)[1] == {"a": 1}
        full = False
        until(saves.due, "the time of the next save")
        saves.save({"a": 3}, 3, None)
        saves.finish()
    assert len(said) == 1
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "images-000000000001",
        "images-000000000003",
    ]


def test_a_failure_is_met_by_the_next_step(tmp_path, said, monkeypatch):
    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", no_space)
    with saver(tmp_path, said, every_s=1000) as saves:
        saves.save({"a": 1}, 1, None)

        def told():
            assert not saves.due()
            return said

        until(told, "the sentence")


def test_leaving_the_block_waits_for_the_save_under_way(tmp_path, said, gate):
    with pytest.raises(KeyError), saver(tmp_path, said) as saves:
        saves.save({"a": torch.ones(2)}, 1, None)
        threading.Timer(0.05, gate.set).start()
        raise KeyError
    assert torch.equal(checkpoint.load_chosen(tmp_path, checkpoint.newest)[1]["a"], torch.ones(2))


def test_a_bug_in_the_writer_is_not_swallowed(tmp_path, said, monkeypatch):
    def bug(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(checkpoint, "write", bug)
    with pytest.raises(ZeroDivisionError), saver(tmp_path, said) as saves:
        saves.save({"a": 1}, 1, None)
        saves.settle()


def test_a_state_that_is_not_plain_is_refused_by_the_caller_of_save(tmp_path, said):
    with saver(tmp_path, said) as saves, pytest.raises(TypeError, match="plain values; got object"):
        saves.save({"a": object()}, 1, None)
    assert checkpoint.found(tmp_path) == []


def test_a_large_copy_is_told_once(tmp_path, said, monkeypatch):
    pages = {"SC_PHYS_PAGES": 5, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    with saver(tmp_path, said) as saves:
        saves.save({"a": torch.zeros(100)}, 1, None)
        assert said == []
    with saver(tmp_path, said) as saves:
        for count in (2, 3):
            saves.save({"a": torch.zeros(2000)}, count, None)
    (sentence,) = said
    assert "checkpoint.background = false saves that memory" in sentence
