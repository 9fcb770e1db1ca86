"""What a person sees in a terminal: a bar, and below it one of the validation."""

import io

import pytest
from rich.console import Console

import toque
from tests.train.runs import TRAIN, VAL, network, settings
from toque import data
from toque.train.logs import progress


@pytest.fixture
def shown(monkeypatch):
    """A bar as in a terminal, that shows every validation."""
    monkeypatch.setattr(progress.Bar, "_VALIDATION_SHOWN_S", 0.0)
    bar = progress.Bar()
    bar._console = bar._bar.live.console = Console(file=io.StringIO(), force_terminal=True)
    return bar


def rows(shown):
    """The rows of the bar as they stand now."""
    text = io.StringIO()
    Console(file=text, width=100).print(shown._bar.get_renderable())
    return [row for row in text.getvalue().splitlines() if row.strip()]


def test_a_validation_has_a_row_of_its_own_until_it_ends(shown):
    shown.begin(0, 1000)
    shown.step(250, 0.5, 0.1)
    shown.validating(0, 400)
    shown.validating(100, 400)
    training, validating = rows(shown)
    assert "25 %" in training and "loss 0.5000" in training and "lr 0.1" in training
    assert "25 %" in validating and "images/s" in validating and "validating" in validating
    shown.validating(200, 400)
    assert "50 %" in rows(shown)[1]
    shown.validating(400, 400)
    assert len(rows(shown)) == 1
    shown.step(500, 0.25, 0.1)
    assert "50 %" in rows(shown)[0]
    shown.end()


def test_the_last_validation_is_shown_after_the_end_of_training(shown):
    shown.begin(0, 1000)
    shown.step(1000, 0.5, 0.1)
    shown.end()
    assert not shown._bar.live.is_started
    shown.validating(0, 400)
    shown.validating(300, 400)
    (row,) = rows(shown)
    assert "75 %" in row and shown._bar.live.is_started
    shown.validating(400, 400)
    assert not shown._bar.live.is_started and not rows(shown)


def test_a_run_that_stops_within_a_validation_leaves_no_bar(shown):
    shown.begin(0, 1000)
    shown.validating(0, 400)
    shown.validating(100, 400)
    shown.end()
    assert not shown._bar.live.is_started and not shown._bar.tasks
    shown.end()


def test_a_short_validation_has_no_row():
    shown = progress.Bar()
    shown.validating(0, 400)
    shown.validating(100, 400)
    assert not shown._bar.tasks


def test_fit_tells_of_every_batch_that_it_validates(tmp_path, monkeypatch):
    told = []

    class Told(progress.Quiet):
        def validating(self, images, num_images):
            told.append((images, num_images))

    monkeypatch.setattr(progress, "create", lambda kind: Told())
    toque.fit(settings(tmp_path / "run", epochs=1), train=TRAIN, val=VAL, model=network)
    assert told[:4] == [(0, 30), (16, 30), (29, 30), (30, 30)]
    assert told[-1] == (30, 30)


@pytest.mark.parametrize("kind", ["lines", "quiet"])
def test_a_log_gets_no_line_of_it(kind, capsys):
    shown = progress.create(kind)
    for images in (0, 100, 400):
        shown.validating(images, 400)
    shown.say("warning: after")
    assert capsys.readouterr().err == "warning: after\n"


def test_ranks_count_each_others_batches():
    # Rank 0 of two has half of the batches: it counts as many of the other, and not beyond the last.
    from toque.train.validation import Validation

    told = []

    class World:
        size = 2

    class Splits:
        val = range(50)

    class Shown:
        def validating(self, images, num_images):
            told.append(images)

    one = Validation.__new__(Validation)
    one._splits, one._world, one._shown = Splits, World, Shown()
    half = data.evaluation_batches(VAL, None, batch_size=16, threads=0, rank=0, ranks=1)
    assert sum(map(len, one._told(half))) == 30
    assert told == [0, 32, 49, 50]
