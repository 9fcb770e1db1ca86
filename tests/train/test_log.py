"""The sums since the last row, and metrics.jsonl across a restart."""

import json
import math
import resource

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from toque.train.logs.log import MetricsLog, read_rows
from toque.train.logs.loggers import TensorBoard
from toque.train.logs.window import Window
from toque.train.metrics.counting import num_correct
from toque.train.steps.step import Outcome


def steps(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for number in range(count):
        size = 3 + number % 4
        outputs = torch.randn(size, 5, generator=generator)
        yield outputs, torch.randint(0, 5, (size,), generator=generator)


def outcome(loss, outputs, targets):
    return Outcome(loss, (~loss.isfinite()).float(), outputs, targets, np.arange(len(targets)), 0)


@given(cuts=st.sets(st.integers(0, 79), max_size=6))
def test_the_means_are_the_means_over_images_wherever_it_was_settled_or_saved(cuts):
    window = Window()
    losses, right = [], []
    for number, (outputs, targets) in enumerate(steps(80)):
        if window.add(outcome(cross_entropy(outputs, targets), outputs, targets)):
            window.settle()
        if number in cuts:  # saved, and continued by another process
            window.settle()
            state = json.loads(json.dumps(window.state_dict()))
            window = Window()
            window.load_state_dict(state)
        losses += cross_entropy(outputs, targets, reduction="none").tolist()
        right += (outputs.argmax(1) == targets).tolist()
    window.settle()
    whole = Window()
    for outputs, targets in steps(80):
        if whole.add(outcome(cross_entropy(outputs, targets), outputs, targets)):
            whole.settle()
    whole.settle()
    assert window.images == len(losses)
    row = window.take()
    assert row == whole.take()  # the same bits, not only near
    assert row["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert row["accuracy"] == sum(right) / len(right)
    assert window.images == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_skipped_step_is_given_back_and_counts_in_no_mean(bad):
    window, good = Window(), Window()
    for number, (outputs, targets) in enumerate(steps(5)):
        loss = torch.tensor(bad if number == 2 else float(number))
        window.add(outcome(loss, outputs, targets))
        if number != 2:
            good.add(outcome(loss, outputs, targets))
    settled = window.settle()
    assert [one.skipped for one in settled] == [False, False, True, False, False]
    assert str(settled[2].loss) == str(bad)
    good.settle()
    assert window.take() == good.take()


def test_accuracy_where_it_has_a_meaning():
    outputs = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
    assert num_correct(outputs, torch.tensor([1, 1, 1])) == 2
    assert num_correct(outputs, torch.tensor([[0.1, 0.9], [0.9, 0.1], [0.6, 0.4]])) == 2
    assert num_correct(torch.zeros(3), torch.zeros(3)) is None
    assert num_correct(torch.zeros(3, 1), torch.zeros(3, 1)) is None
    assert num_correct(torch.zeros(3, 2, 4, 4), torch.zeros(3, 4, 4).long()) is None


def test_regression_has_a_loss_and_no_accuracy():
    window = Window()
    window.add(outcome(torch.tensor(2.0), torch.zeros(4), torch.zeros(4)))
    window.settle()
    assert window.take() == {"loss": 2.0}


def test_a_resumed_log_drops_what_came_after_the_checkpoint_and_torn_lines(tmp_path):
    file = tmp_path / "metrics.jsonl"
    log = MetricsLog(file, 0)
    for count in (10, 20, 30):
        log.write({"images_seen": count, "split": "train", "loss": 1 / 3})
    log.close()
    with file.open("a") as opened:
        opened.write('{"images_seen": 40, "spl')
    assert [row["images_seen"] for row in read_rows(file)] == [10, 20, 30]
    log = MetricsLog(file, 20)
    log.write({"images_seen": 25, "split": "val", "loss": 0.5})
    log.close()
    assert [row["images_seen"] for row in read_rows(file)] == [10, 20, 25]
    assert log.rows == read_rows(file)


def test_tensorboard_gets_the_same_numbers(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0, [TensorBoard(tmp_path, 0)])
    log.write({"images_seen": 64, "split": "train", "loss": 0.25, "learning_rate": 0.1})
    log.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    (scalar,) = events.Scalars("loss/train")
    assert (scalar.step, scalar.value) == (64, 0.25)
    assert set(events.Tags()["scalars"]) == {"loss/train", "learning_rate/train"}


def test_a_log_that_is_cut_goes_on_from_there(tmp_path):
    file = tmp_path / "metrics.jsonl"
    log = MetricsLog(file, 0)
    for images in (10, 20, 30):
        log.write({"images_seen": images, "split": "train", "loss": 1.0})
    log.cut(20)
    log.write({"images_seen": 25, "split": "train", "loss": 0.5})
    log.close()
    assert [row["images_seen"] for row in read_rows(file)] == [10, 20, 25]


def test_rows_that_meet_a_full_disk_are_written_with_the_next_one(tmp_path):
    file = tmp_path / "metrics.jsonl"
    log = MetricsLog(file, 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    log.write({"images_seen": 1, "loss": 0.5})
    try:  # room for a part of the next row, and for nothing more
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 7, before[1]))
        log.write({"images_seen": 2, "loss": 0.25})
        log.write({"images_seen": 3, "loss": 0.75})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [row["images_seen"] for row in read_rows(file)] == [1]
    log.write({"images_seen": 4, "loss": 1.0})
    log.close()
    assert read_rows(file) == log.rows and [row["images_seen"] for row in log.rows] == [1, 2, 3, 4]
