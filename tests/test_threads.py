"""Threads beside the one that computes."""

import threading

import pytest
import torch

from toque import augment, data
from toque.threads import threads_beside


@pytest.fixture(autouse=True)
def three_torch_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def seen_by_a_new_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_they_compute_alone_and_nobody_else_does():
    with threads_beside(4, "some") as pool:
        both = threading.Barrier(4)

        def asked(_):
            both.wait()  # so that each of the four answers once
            torch.ones(10**6).sum()  # where torch would look up the common number
            return threading.get_ident(), torch.get_num_threads()

        answers = dict(pool.map(asked, range(4)))
        assert list(answers.values()) == [1] * 4
        assert torch.get_num_threads() == 3 and seen_by_a_new_thread() == 3


def test_each_begins_as_it_is_told():
    begun = []
    with threads_beside(2, "some", begin=lambda: begun.append(threading.get_ident())):
        assert len(set(begun)) == 2 and threading.get_ident() not in begun


def test_one_that_fails_to_begin_leaves_nobody_waiting():
    def fail():
        raise OSError("not here")

    with threads_beside(2, "some", begin=fail) as pool, pytest.raises(RuntimeError):
        pool.submit(int).result()
    assert torch.get_num_threads() == 3 == seen_by_a_new_thread()


def test_no_thread_left_where_one_cannot_be_started(monkeypatch):
    start = threading.Thread.start

    def second_fails(thread):
        if thread.name.endswith("_1"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", second_fails)
    with pytest.raises(RuntimeError, match="can't start"):
        threads_beside(2, "few")
    monkeypatch.undo()
    assert torch.get_num_threads() == 3 == seen_by_a_new_thread()


def test_batches_are_made_by_such_threads():
    numbers = []

    def note(images):
        numbers.append((threading.get_ident(), torch.get_num_threads()))
        return images

    source = data.ArraySource(
        torch.zeros(64, 1, 8, 8, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64), ["a"]
    )
    pipeline = augment.Compose([augment.Lambda(note)])
    made = data.train_batches(
        source, pipeline, seed=0, batch_size=16, start_images=0, stop_images=64, threads=2
    )
    assert sum(len(batch.images) for batch in made) == 64
    assert {number for _, number in numbers} == {1}
    assert threading.get_ident() not in {thread for thread, _ in numbers}
    assert torch.get_num_threads() == 3
