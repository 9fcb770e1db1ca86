"""Scores, intervals, calibration and suspects, each against something worked out another way."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toque.train.metrics import answers as answer_files
from toque.train.metrics import calibration as calibrating
from toque.train.metrics import intervals, score, scores_of, suspects, temperature_of
from toque.train.metrics.answers import answers_of


def answered(n=400, k=7, seed=0, lead=1.5):
    """Logits that favour the label, and their probabilities."""
    generator = np.random.RandomState(seed)
    targets = generator.randint(0, k, n)
    logits = generator.randn(n, k)
    logits[np.arange(n), targets] += lead
    return targets, torch.from_numpy(logits).softmax(1).numpy().astype(np.float32)


def scored(n=400, k=7, **changed):
    targets, probabilities = answered(n, k, **changed)
    return score(np.arange(n), targets, probabilities, seed=3)


# ---- scores


def test_scores_are_the_plain_counts():
    targets, probabilities = answered(300, 9)
    found = score(np.arange(300), targets, probabilities, seed=0)
    right = top = 0
    nats = 0.0
    f1 = []
    for target, row in zip(targets, probabilities, strict=True):
        ranked = sorted(range(9), key=lambda c: -row[c])
        right += ranked[0] == target
        top += target in ranked[:5]
        nats -= math.log(row[target])
    said = probabilities.argmax(1)
    for c in range(9):
        hit = sum((targets == c) & (said == c))
        f1.append(2 * hit / (sum(targets == c) + sum(said == c)))
    assert found.accuracy.value == pytest.approx(right / 300)
    assert found.top5.value == pytest.approx(top / 300)
    assert found.loss.value == pytest.approx(nats / 300, rel=1e-5)
    assert found.f1.value == pytest.approx(sum(f1) / 9, rel=1e-5)


def test_top5_is_left_out_where_it_must_be_all():
    assert scored(k=5).top5 is None and scored(k=6).top5 is not None


def test_f1_is_the_mean_of_the_classes_that_occur():
    probabilities = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 3]]
    found = score(np.arange(5), np.array([0, 0, 1, 0, 1]), probabilities, seed=0)
    # Class 0: 2 of 3 found, none wrongly; class 1: one found, one missed, one too many.
    assert found.f1.value == pytest.approx((2 * 2 / 5 + 2 * 1 / 4) / 2)


def test_f1_counts_classes_in_blocks(monkeypatch):
    from toque.train.metrics import classification

    whole = scored(200, 7).f1
    monkeypatch.setattr(classification, "_BLOCK", 3)
    assert scored(200, 7).f1.value == pytest.approx(whole.value, rel=1e-6)


def test_scores_come_back_from_json():
    found = scored()
    again = scores_of(json.loads(json.dumps(found.as_dict())), found.answers)
    assert again.as_dict() == found.as_dict()


def test_the_summary_says_how_sure_it_is():
    found = scored(k=3)
    low, high = found.accuracy.low, found.accuracy.high
    assert f"({100 * low:.1f} to {100 * high:.1f})" in found.summary()
    assert "top 5" not in found.summary()
    assert "top 5" in scored(k=8).summary()


# ---- intervals


def test_the_interval_is_the_normal_one_where_that_holds():
    found = scored(2000, 4)
    share = found.accuracy.value
    half = 1.96 * math.sqrt(share * (1 - share) / 2000)
    assert found.accuracy.low == pytest.approx(share - half, abs=0.1 * half + 0.0005)
    assert found.accuracy.high == pytest.approx(share + half, abs=0.1 * half + 0.0005)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.RandomState(1)
    held = 0
    for trial in range(200):
        values = (generator.rand(150) < 0.7).astype(float)[:, None] / 150
        found = intervals.bootstrap(lambda c, v=values: c @ v, 150, seed=trial)[0]
        held += found.low <= 0.7 <= found.high
    assert 178 <= held <= 199  # 95 % of 200, give or take three deviations


def test_resamples_draw_every_image_as_often_as_another_and_by_key():
    counts = np.concatenate(list(intervals.resample(50, seed=5)))
    assert counts.shape == (1000, 50) and (counts.sum(1) == 50).all()
    assert counts.mean(0) == pytest.approx(np.ones(50), abs=0.15)
    assert counts.var() == pytest.approx(1 - 1 / 50, rel=0.05)
    assert np.array_equal(counts, np.concatenate(list(intervals.resample(50, seed=5))))
    assert not np.array_equal(counts, np.concatenate(list(intervals.resample(50, seed=6))))


def test_pieces_do_not_show_in_the_resamples(monkeypatch):
    whole = np.concatenate(list(intervals.resample(40, seed=5, resamples=30)))
    monkeypatch.setattr(intervals, "_CELLS", 7 * 40)
    pieces = list(intervals.resample(40, seed=5, resamples=30))
    assert len(pieces) == 5 and np.array_equal(np.concatenate(pieces), whole)


def test_all_right_is_not_certainty():
    found = score(np.arange(20), np.zeros(20, int), np.tile([[0.9, 0.1]], (20, 1)), seed=0)
    assert found.accuracy.high == 1 and found.accuracy.low == pytest.approx(1 - 0.1611, abs=5e-5)


def test_wilson_interval_is_the_published_one():
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3: 81 of 263 and 0 of 20.
    assert intervals.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert intervals.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_a_difference_on_the_same_images_is_surer_than_two_apart():
    generator = np.random.RandomState(0)
    first = (generator.rand(500) < 0.8).astype(float)
    second = first.copy()
    second[:25] = 1 - second[:25]
    paired = intervals.difference(first, second, seed=0)
    apart = intervals.difference(first, np.roll(second, 7), seed=0)
    assert paired.value == pytest.approx(second.mean() - first.mean())
    assert paired.high - paired.low < 0.6 * (apart.high - apart.low)
    same = intervals.difference(first, first, seed=0)
    assert (same.value, same.low, same.high) == (0, 0, 0)


# ---- calibration


def test_ece_is_the_sum_written_out():
    sure = np.array([0.95, 0.91, 0.55, 0.52, 0.1])
    right = np.array([True, False, True, True, False])
    bins = calibrating.reliability(sure, right, bins=10)
    assert [(b.low, b.count) for b in bins] == [(0.0, 1), (0.5, 2), (0.9, 2)]
    expected = (2 * abs(0.93 - 0.5) + 2 * abs(0.535 - 1) + 0.1) / 5
    assert calibrating.ece(bins) == pytest.approx(expected)


def test_a_calibrated_model_stays_as_it_is():
    generator = np.random.RandomState(0)
    logits = 2 * generator.randn(20000, 5)
    probabilities = torch.from_numpy(logits).softmax(1).numpy().astype(np.float32)
    drawn = (generator.rand(20000, 1) > probabilities.cumsum(1)).sum(1).clip(0, 4)
    assert calibrating.fit_temperature(drawn, probabilities) == pytest.approx(1, abs=0.03)
    found = calibrating.calibrate(drawn, probabilities, seed=0)
    assert found.ece < 0.015

    # Sharpened by 3, the temperature that mends it is 3.
    sharp = torch.from_numpy(3 * logits).softmax(1).numpy().astype(np.float32)
    sharpened = calibrating.calibrate(drawn, sharp, seed=0)
    assert sharpened.temperature == pytest.approx(3, rel=0.03)
    assert sharpened.ece > 0.1 and sharpened.ece_after < 0.02
    assert "surer than it is right" in sharpened.sentence()


def test_the_temperature_is_the_best_there_is():
    targets, probabilities = answered(500, 4)
    best = calibrating.fit_temperature(targets, probabilities)

    def nats(temperature):
        p = calibrating.at_temperature(probabilities, temperature)
        return -np.log(p[np.arange(500), targets].astype(float)).mean()

    assert nats(best) <= min(nats(best * step) for step in (0.9, 0.98, 1.02, 1.1))


@given(st.integers(2, 6), st.floats(0.2, 5.0))
def test_temperature_on_probabilities_is_temperature_on_logits(k, temperature):
    logits = torch.randn(20, k, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
    found = calibrating.at_temperature(logits.softmax(1).float().numpy(), temperature)
    expected = (logits / temperature).softmax(1).numpy()
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_error_after_fitting_is_measured_on_other_images(monkeypatch):
    targets, probabilities = answered(101, 4)
    fitted, measured = [], []
    fit, cool = calibrating.fit_temperature, calibrating.at_temperature
    rows = {row.tobytes(): n for n, row in enumerate(probabilities)}

    def seen(p):
        return frozenset(rows[row.tobytes()] for row in p)

    def fit_seen(t, p):
        fitted.append(seen(p))
        return fit(t, p)

    def cool_seen(p, temperature):
        measured.append(seen(p))
        return cool(p, temperature)

    monkeypatch.setattr(calibrating, "fit_temperature", fit_seen)
    monkeypatch.setattr(calibrating, "at_temperature", cool_seen)
    calibrating.calibrate(targets, probabilities, seed=0)
    assert len(measured) == 2 and measured[0] | measured[1] == frozenset(range(101))
    assert all(not one & other for one, other in zip(fitted, measured, strict=False))
    assert fitted[2] == frozenset(range(101))  # the temperature that is kept


def test_the_temperature_of_a_run_can_be_asked_for(tmp_path):
    assert temperature_of(tmp_path) is None
    (tmp_path / "result.json").write_text(json.dumps({"scores": scored().as_dict()}))
    assert temperature_of(tmp_path) == pytest.approx(scored().calibration.temperature, rel=1e-5)
    (tmp_path / "result.json").write_text("{")
    assert temperature_of(tmp_path) is None


# ---- answers


def test_answers_survive_the_file(tmp_path):
    found = scored(k=12).answers
    answer_files.write(tmp_path, found, "abc")
    back, fingerprint = answer_files.read(tmp_path)
    assert fingerprint == "abc" and back.num_classes == 12
    for name in ("indices", "targets", "top_classes", "top_probabilities", "target_probabilities"):
        assert np.array_equal(getattr(back, name), getattr(found, name))
    assert answer_files.read(tmp_path / "none") is None


@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_a_damaged_file_is_named(tmp_path, damage):
    answer_files.write(tmp_path, scored().answers, "abc")
    file = tmp_path / answer_files.FILE
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    else:
        from safetensors.numpy import save_file

        save_file({"x": np.zeros(3)}, file)
    with pytest.raises(ValueError, match=r"answers\.safetensors.*toque evaluate"):
        answer_files.read(tmp_path)


def test_equal_probabilities_are_ranked_by_class():
    found = answers_of(np.arange(1), np.array([3]), np.full((1, 7), 1 / 7, np.float32))
    assert found.top_classes.tolist() == [[0, 1, 2, 3, 4]] and found.in_top.all()


def test_certain_answers_name_every_class_once():
    certain = np.eye(6, dtype=np.float32)[[4]]
    found = answers_of(np.arange(1), np.array([4]), certain)
    assert found.top_classes.tolist() == [[4, 0, 1, 2, 3]]


def test_confusion_leaves_out_answers_beyond_the_classes():
    probabilities = np.eye(3, dtype=np.float32)[[0, 2, 1, 1]]
    found = answers_of(np.arange(4), np.array([0, 0, 1, 0]), probabilities)
    assert found.confusion(2).tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("indices", "targets", "message"),
    [
        ([0, 1], [0, 0, 0], r"of shapes \[N\]"),
        ([0, 1, 2], [0, 3, 0], r"in 0 \.\. 2"),
        ([0, 1, 1], [0, 1, 0], "each image once"),
    ],
)
def test_answers_that_make_no_sense_are_refused(indices, targets, message):
    with pytest.raises(ValueError, match=message):
        answers_of(np.array(indices), np.array(targets), np.full((3, 3), 1 / 3, np.float32))


# ---- suspects


def test_planted_wrong_labels_are_found():
    targets, probabilities = answered(2000, 6, lead=5.0)
    wrong = np.arange(0, 2000, 40)
    labels = targets.copy()
    labels[wrong] = (labels[wrong] + 1) % 6
    found = suspects(answers_of(np.arange(2000), labels, probabilities))
    rows = [suspect.row for suspect in found]
    assert len(set(rows) & set(wrong)) >= 0.6 * len(
        wrong
    )  # those of which the model is surer than usual
    assert len(set(rows) - set(wrong)) <= 0.02 * 2000
    assert len(set(rows[:25]) & set(wrong)) >= 23
    leads = [suspect.answer_probability - suspect.label_probability for suspect in found]
    assert leads == sorted(leads, reverse=True)


def test_a_hesitant_mistake_is_no_suspect():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.45, 0.55]], np.float32)
    # The third is taken for class 1 with less than the 0.8 that class 1 usually gets.
    assert suspects(answers_of(np.arange(3), np.array([0, 1, 0]), probabilities)) == []
