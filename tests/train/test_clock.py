"""The clock: every second counted once, in the stage that took it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

import toque
from tests.train import runs
from toque.train.logs import clock as clocks
from toque.train.logs.clock import Clock, advice, remark
from toque.train.metrics.stages import STAGES, shares

CPU = torch.device("cpu")


class Time:
    """A clock that moves when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(clocks, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def passes(self, seconds):
        self.now += seconds


@pytest.fixture
def time(monkeypatch):
    return Time(monkeypatch)


def row(**seconds):
    return {f"{stage}_s": seconds.get(stage, 0.0) for stage in STAGES}


def source(in_memory=False, serial=False):
    return SimpleNamespace(in_memory=in_memory, serial=serial)


def run(**changed):
    return toque.Run(**{"data": "photos", "threads": 2, **changed})


def test_every_second_is_counted_once(time):
    clock = Clock(CPU)

    def slow():
        for _ in range(3):
            time.passes(5)
            yield 0

    for _ in clock.watch(slow()):
        time.passes(1)
        clock.step_begins()
        time.passes(20)
        clock.step_ends()
        time.passes(2)
        clock.settled()
    clock.lap("host")
    time.passes(7)
    clock.lap("validation")
    time.passes(11)
    clock.lap("checkpoint")
    taken = clock.take("train")
    assert taken == row(data=15, host=9, device=60, validation=7, checkpoint=11)
    assert sum(taken.values()) == time.now - 100
    assert clock.take("train") == row()


def test_two_readers_each_get_everything(time):
    clock = Clock(CPU)
    time.passes(3)
    clock.lap("data")
    assert clock.take("train") == row(data=3)
    time.passes(4)
    clock.lap("data")
    assert clock.take("train") == row(data=4)
    assert clock.take("val") == row(data=7)


class Event:
    """A CUDA event that has happened when the device had nothing left to do."""

    def __init__(self, dry):
        self._dry = iter(dry)

    def query(self):
        return next(self._dry)

    def record(self):
        pass


def test_a_device_that_ran_dry_waited_for_the_host(time, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", lambda: Event([True, False]))
    clock = Clock(torch.device("cuda"))
    for seconds in clock.watch([10, 20]):
        clock.step_begins()
        time.passes(seconds)
        clock.step_ends()
    time.passes(3)
    clock.settled()
    assert clock.take("train") == row(host=10, device=23)


def test_shares_add_up_and_none_are_none():
    part = shares([row(data=1, device=2), row(data=1)])
    assert part["data"] == 0.5 and sum(part.values()) == 1
    assert shares([{"loss": 1.0}]) == {}


def test_an_epoch_says_it_only_when_it_matters():
    assert remark(row(data=72, device=17, checkpoint=11)) == "waiting for images 72 %, saving 11 %"
    assert remark(row(data=10, device=85, checkpoint=5)) == ""
    assert remark(row(data=0.5)) == ""  # too short to tell


@pytest.mark.parametrize(
    ("given", "settings", "cores", "expected"),
    [
        (source(), {}, 4, "pack them with `toque pack photos CACHE`, or raise threads to 4."),
        (source(), {}, 2, "pack them with `toque pack photos CACHE`."),
        (source(serial=True), {"workers": 1}, 2, "raise workers to 2."),
        (source(in_memory=True), {}, 4, "raise threads to 4."),
        (source(in_memory=True), {}, 2, "choose a lighter augment, or a smaller image_size."),
    ],
)
def test_advice_is_what_helps_here(given, settings, cores, expected):
    said = advice([row(data=72, device=28)], run(**settings), given, cores)
    assert said == "72 % of the time was waiting for images: " + expected


def test_no_advice_for_a_run_that_computes():
    assert advice([row(data=19, device=81)], run(), source(), 4) is None


def test_advice_is_given_once(time):
    clock = Clock(CPU)
    first, second = (clock.advise(row(data=9, device=1), run(), source()) for _ in range(2))
    assert first and second is None


def test_rows_of_a_run_say_where_its_time_went(tmp_path):
    result = runs.train(tmp_path / "run", epochs=2)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    vals = [found for found in rows if found["split"] == "val"]
    trains = [found for found in rows if found["split"] == "train"]
    assert len(vals) == 2 and trains
    assert sum(found[f"{stage}_s"] for found in vals for stage in STAGES) < result.seconds
    assert all(found["device_s"] > 0 and found["validation_s"] > 0 for found in vals)
    assert vals[1]["checkpoint_s"] > 0  # the first epoch's end was saved after its row
    assert all(found["memory_bytes"] > 50e6 for found in trains)
