"""Runs beside each other: what differs, how it went, and whether it is more than noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.train.test_report import Page
from toque.train.metrics import score
from toque.train.report import comparison
from toque.train.report.comparison import Compared
from toque.train.studies.comparing import compare, names


def run(name, share, *, n=400, seed=0, fingerprint="data", **changed):
    """A run that answers the first `share` of the images right."""
    right = np.arange(n) < share * n
    targets = np.zeros(n, np.int64)
    probabilities = np.where(right[:, None], [[0.8, 0.2]], [[0.3, 0.7]]).astype(np.float32)
    order = np.random.RandomState(seed).permutation(n)  # answers come in any order
    found = score(np.arange(n)[order], targets[order], probabilities[order], seed=0)
    rows = [
        {"split": split, "images_seen": 100 * e, "time_s": 5.0 * e, "loss": 1 / e, "accuracy": share,
         "learning_rate": 0.1}
        for e in range(1, 5) for split in ("train", "val")
    ]  # fmt: skip
    about = {
        "settings": {"epochs": 4, "optimizer": {"learning_rate": 0.1}},
        "metrics": {"accuracy": share}, "loss": 0.5, "scores": found, "fingerprint": fingerprint,
        "seconds": 20.0, "images_seen": 400,
    }  # fmt: skip
    return Compared(name=name, path=f"runs/{name}", rows=rows, **(about | changed))


def test_a_difference_beyond_the_noise_is_told_from_one_within():
    clear = comparison.verdict(run("b", 0.9), run("a", 0.8, seed=5))
    assert clear.startswith("b is more accurate than a by 10.0 points (")
    assert clear.endswith("more than the noise of these 400 validation images.")
    close = comparison.verdict(run("b", 0.805), run("a", 0.8))
    assert close.startswith("b is ahead of a by 0.5 points (") and "within the noise" in close
    assert "equally accurate" in comparison.verdict(run("b", 0.8), run("a", 0.8))


def test_pairs_are_the_same_images_whatever_their_order():
    # Both err on the same images but one: resampled apart, so small a difference would drown.
    first, second = run("a", 0.80, seed=1), run("b", 0.83, seed=2)
    assert "more than the noise" in comparison.verdict(second, first)


@pytest.mark.parametrize("other", [{"fingerprint": "other"}, {"n": 300}])
def test_other_images_are_not_compared_one_by_one(other):
    said = comparison.verdict(run("b", 0.9), run("a", 0.8, **other))
    assert "cannot be compared" in said


def test_runs_that_drew_their_validation_images_apart_are_told_how_to_share_them():
    two = [run(f"r{n}", 0.9 - n / 10, fingerprint=f"{n}") for n in (0, 1)]
    seeds = [{"data": "photos", "seed": n} for n in (0, 1)]
    first, second = (replace(one, settings=given) for one, given in zip(two, seeds, strict=True))
    assert "Give them one split_seed" in comparison.verdict(first, second)
    # The same draw, so it is something else that differs.
    first, second = (
        replace(one, settings={**given, "split_seed": 7})
        for one, given in zip(two, seeds, strict=True)
    )
    assert "split_seed" not in comparison.verdict(first, second)
    second = replace(second, settings={"data": "other", "seed": 1})
    assert "split_seed" not in comparison.verdict(first, second)


def test_the_best_is_compared_with_every_other():
    said = comparison.verdicts([run("a", 0.7), run("b", 0.9), run("c", 0.8)])
    assert [sentence.split()[0] for sentence in said] == ["b", "b", "This"]
    assert "Another seed" in said[-1]
    unfinished = run("a", 0.7, scores=None, loss=None, metrics={})
    assert comparison.verdicts([unfinished, run("b", 0.9)])[0].startswith("Fewer than two")


def test_the_page_shows_what_differs_and_how_it_went():
    other = run("b", 0.9, settings={"epochs": 4, "optimizer": {"learning_rate": 0.3}, "model": "x"})
    page = Page(comparison.render([run("a", 0.8), other]))
    differing = next(table for table in page.tables if table[0][0] == "Setting")
    assert differing[1:] == [["model", "–", "x"], ["optimizer.learning_rate", "0.1", "0.3"]]
    results = next(table for table in page.tables if table[0][0] == "Run")
    assert results[1][0] == "a" and results[1][1].startswith("80.0 % (") and "20 s" in results[1]
    labels = [svg["aria-label"] for svg in page.all("svg") if "aria-label" in svg]
    assert sum(label.startswith("Validation accuracy over images") for label in labels) == 1
    assert sum(label.startswith("Validation accuracy over seconds") for label in labels) == 1
    timed = next(label for label in labels if label.startswith("Training loss over seconds"))
    assert "from 1 to 0.25; lowest 0.25 at 20 seconds" in timed
    assert "a: 80.0" in labels[0] or "a: from 80.0" in labels[0]


def test_equal_settings_are_said_to_be_equal():
    page = Page(comparison.render([run("a", 0.8), run("b", 0.9)]))
    assert not any(table[0][0] == "Setting" for table in page.tables) and "None." in page.text


def test_a_run_of_another_task_has_its_own_metrics():
    first = run("a", 0.8, scores=None, metrics={"mean_iou": 0.5})
    page = Page(comparison.render([first, run("b", 0.8, scores=None, metrics={})]))
    results = next(table for table in page.tables if table[0][0] == "Run")
    assert results[0][1] == "mean_iou" and [row[1] for row in results[1:]] == ["0.5", "–"]


def test_ten_runs_can_be_told_apart_and_eleven_are_refused(tmp_path):
    assert len({comparison._kind(n) for n in range(comparison.MOST_RUNS)}) == 10
    with pytest.raises(ValueError, match="2 to 10 run folders; got 11"):
        compare([tmp_path / str(n) for n in range(11)], tmp_path / "c.html")


def test_names_are_as_short_as_they_can_be():
    assert names([Path("x/a"), Path("x/b")]) == ["a", "b"]
    assert names([Path("x/a"), Path("y/a")]) == ["x/a", "y/a"]
    with pytest.raises(ValueError, match="different run folders"):
        names([Path("x/a"), Path("x/../x/a")])


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="a folder that exists"):
        compare([tmp_path / "a", tmp_path / "b"], tmp_path / "none" / "c.html")
