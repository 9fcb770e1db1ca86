"""The range test: what it proposes on losses that are known, and that it leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest

from tests.train import runs
from toque.train.prepare import Own
from toque.train.studies import tuning

RATES = np.geomspace(1e-5, 10, 100)


def curve(lowest, steepest, rises=True):
    """A loss over the rate that falls most steeply at one rate and is lowest at another."""
    x = np.log10(RATES)
    slope = -np.exp(-((x - np.log10(steepest)) ** 2) / 0.5)
    slope[np.log10(lowest) <= x] = 3.0 if rises else 0.0
    return 3 + np.cumsum(slope) * (x[1] - x[0])


def test_the_rate_is_read_off_the_curve():
    found = tuning.judge(RATES, curve(0.3, 0.03), False, 0.1)
    # The average lags behind by some of the steps, six hundredths of a decade each.
    assert np.log10(found.lowest / 0.3) == pytest.approx(0.2, abs=0.25)
    assert np.log10(found.steepest / 0.03) == pytest.approx(0.4, abs=0.4)
    assert found.proposal == pytest.approx(found.lowest / 3) and found.risen
    said = " ".join(found.sentences())
    assert f"{found.proposal:.2g}" in said and "1506.01186" in said and "factor of three" in said
    assert "settings give 0.1" in said


def test_the_steepest_point_is_looked_for_on_the_way_down():
    losses = curve(0.3, 0.03)
    losses[75:85] = 30.0  # behind the lowest point the loss jumps, and comes back steeply
    losses[85:] = 4.0
    assert tuning.judge(RATES, losses, True, 0.1).steepest < 0.5


def test_a_loss_that_still_falls_at_the_highest_rate_says_so():
    found = tuning.judge(RATES, curve(0.3, 0.03, rises=False) - np.linspace(0, 0.1, 100), False, 1)
    assert not found.risen and "--high" in " ".join(found.sentences())


def test_a_loss_that_never_falls_gives_no_proposal():
    assert tuning.judge(RATES, np.linspace(2, 9, 100), True, 1).proposal is None
    assert tuning.judge(RATES[:1], np.array([2.0]), True, 1).proposal is None
    said = tuning.judge(RATES, np.full(100, 2.0), False, 1).sentences()
    assert "no rate can be proposed" in said[0]


def test_the_average_of_a_constant_is_that_constant():
    assert tuning.smooth(np.full(7, 2.5)) == pytest.approx(np.full(7, 2.5))
    assert tuning.smooth(np.array([1.0, 0.0])) == pytest.approx([1.0, 0.09 / 0.19])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    settings = runs.settings(out, optimizer={"name": "sgd"})
    own = Own(runs.TRAIN, runs.VAL, runs.network)
    steps = []
    result = tuning.tune_learning_rate(
        settings, steps=40, high=1000, own=own, say=lambda *told: steps.append(told)
    )
    return result, steps, out, settings, own


def test_it_trains_at_rising_rates_until_the_loss_is_lost(found):
    result, steps, _, _, _ = found
    assert [rate for _, rate, _ in steps] == pytest.approx(list(result.rates))
    assert result.rates[0] == pytest.approx(1e-5) and len(result.rates) < 40 and result.risen
    assert result.proposal is not None and 1e-4 < result.proposal < 100


def test_the_same_settings_give_the_same_answer_and_no_run_folder(found):
    result, _, out, settings, own = found
    again = tuning.tune_learning_rate(settings, steps=40, high=1000, own=own)
    assert np.array_equal(again.losses, result.losses) and not out.exists()


def test_the_page_marks_the_proposal(found, tmp_path):
    result = found[0]
    tuning.write(tmp_path / "t.html", result, "photos")
    text = (tmp_path / "t.html").read_text()
    assert "1e-5" in text and "Proposal" in text and f"{result.proposal:.2g}" in text
    with pytest.raises(FileNotFoundError, match="a folder that exists"):
        tuning.write(tmp_path / "no" / "t.html", result, "photos")


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"steps": 5}, "--steps must be >= 20"), ({"low": 1.0, "high": 0.1}, "0 < low < high")],
)
def test_mistakes_are_named(changed, words):
    with pytest.raises(ValueError, match=words):
        tuning.tune_learning_rate(runs.settings("x"), **changed)
