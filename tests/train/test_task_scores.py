"""How sure the scores of labels, numbers and masks are, and whether two runs of one task differ."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.train.test_compare import run as compared
from toque.train.metrics import resampled
from toque.train.metrics.intervals import resample
from toque.train.report import comparison
from toque.train.report.comparison import Compared
from toque.train.run_folder import kept
from toque.train.tasks import (
    LabelsEvaluation,
    MaskEvaluation,
    Multilabel,
    NumbersEvaluation,
    Regression,
    Segmentation,
    multilabel,
    regression,
    segmentation,
)

N, K = 30, 4


def labels(seed=0, noise=0.5):
    draw, other = np.random.default_rng(0), np.random.default_rng(seed)
    targets = (draw.random((N, K)) < [0.5, 0.3, 0.1, 0.0]).astype(np.float32)  # one never there
    scores = np.clip(0.25 + 0.5 * targets + noise * other.normal(size=(N, K)), 0.01, 0.99)
    scores = np.round(scores, 1).astype(np.float32)  # many of one score
    micro, each = multilabel.f1_scores(scores, targets)
    metrics = {
        "mean_average_precision": multilabel.mean(multilabel.average_precisions(scores, targets)),
        "f1_micro": micro,
        "f1_macro": multilabel.mean(each),
    }
    return LabelsEvaluation(0.5, metrics, Multilabel.metrics, np.arange(N), targets, scores)


def numbers(seed=0, noise=0.3):
    draw, other = np.random.default_rng(0), np.random.default_rng(seed)
    targets = (draw.normal(size=(N, 2)) * [1, 100] + [5, 1e4]).astype(np.float32)
    said = (targets + noise * other.normal(size=(N, 2)) * [1, 100]).astype(np.float32)
    return NumbersEvaluation(
        0.5, regression.errors(said, targets), Regression.metrics, np.arange(N), targets, said
    )


def masks(seed=0, noise=0.2):
    draw, other = np.random.default_rng(0), np.random.default_rng(seed)
    true = draw.integers(0, 3, (N, 6, 5))  # of four classes one is nowhere
    said = np.where(other.random(true.shape) < noise, other.integers(0, 3, true.shape), true)
    pixels = np.zeros((N, K, K), np.int64)
    for n in range(N):
        for pair, count in Counter(zip(true[n].ravel(), said[n].ravel(), strict=True)).items():
            pixels[(n, *pair)] = count
    overlaps = np.stack([pixels.diagonal(axis1=1, axis2=2), pixels.sum(2), pixels.sum(1)], axis=1)
    ious = np.array([np.nanmean(segmentation.class_ious(one)) for one in pixels], np.float32)
    worst = [segmentation.Worst(3, 0.25, said[3].astype(np.uint8))]
    metrics = mask_metrics(pixels.sum(0))
    return MaskEvaluation(
        0.5, metrics, Segmentation.metrics, np.arange(N), pixels.sum(0), ious, overlaps, worst
    )


def mask_metrics(pixels):
    return {
        "mean_iou": float(np.nanmean(segmentation.class_ious(pixels))),
        "pixel_accuracy": float(np.trace(pixels) / pixels.sum()),
    }


def drawn_again(evaluation, rows):
    """The metrics of images of which some stand there several times: an independent way."""
    if isinstance(evaluation, LabelsEvaluation):
        targets, scores = evaluation.targets[rows], evaluation.probabilities[rows]
        micro, each = multilabel.f1_scores(scores, targets)
        precisions = multilabel.average_precisions(scores, targets)
        return [multilabel.mean(precisions), micro, multilabel.mean(each)]
    if isinstance(evaluation, NumbersEvaluation):
        found = regression.errors(evaluation.predictions[rows], evaluation.targets[rows])
        return list(found.values())
    both, true, said = evaluation.overlaps[rows].sum(0)
    known = (true + said) > 0
    return [np.mean(both[known] / (true + said - both)[known]), both.sum() / true.sum()]


@pytest.mark.parametrize("make", [labels, numbers, masks])
def test_an_image_drawn_twice_counts_twice(make):
    evaluation = make()
    statistic = evaluation.statistic()
    whole = statistic(np.ones((1, N), np.float32))[0]
    assert whole == pytest.approx(list(evaluation.metrics.values()), rel=1e-5)
    for counts in next(resample(N, 0, 5)):
        rows = np.repeat(np.arange(N), counts.astype(int))
        found = statistic(counts[None])[0]
        assert found == pytest.approx(drawn_again(evaluation, rows), rel=1e-4)


@pytest.mark.parametrize("make", [labels, numbers, masks])
def test_the_order_of_the_images_changes_nothing(make):
    one, order = make(), np.random.default_rng(1).permutation(N)
    arrays = {
        name: value[order] if len(value) == N else value for name, value in one.kept().items()
    }
    kind = {labels: Multilabel, numbers: Regression, masks: Segmentation}[make]
    other = kind.evaluation_of(arrays, 0.5, one.metrics)
    assert list(other.indices) == list(order)
    for name, value in one.intervals(0).items():
        again = other.intervals(0)[name]
        assert (again.low, again.high) == pytest.approx((value.low, value.high), rel=1e-4)
        assert value.low < value.value < value.high


def test_a_number_that_is_always_the_same_has_an_r2():
    targets = np.full((8, 1), 3.0, np.float32)
    for away, r2 in ((0.0, 1.0), (1.0, 0.0)):
        statistic = resampled.of_numbers(targets + np.float32(away), targets)
        assert statistic(np.ones((1, 8), np.float32))[0].tolist() == [away, away, r2]


def test_the_work_of_the_bootstrap_is_bounded():
    assert resampled.resamples_for(100) == 1000
    assert resampled.resamples_for(400_000) == 500 and resampled.resamples_for(10**9) == 200


def beside(name, evaluation, **more):
    about = {"metrics": evaluation.metrics, "loss": 0.5, "fingerprint": "data",
             "intervals": evaluation.intervals(0)}  # fmt: skip
    return Compared(name, name, {}, (), answers=evaluation, **(about | more))


@pytest.mark.parametrize(
    "make, says, label, little, much",
    [
        (labels, "higher", "mAP", 0.25, 2.0),
        (numbers, "lower", "MAE", 0.05, 0.6),
        (masks, "higher", "mean IoU", 0.05, 0.6),
    ],
)
def test_two_runs_of_one_task(make, says, label, little, much):
    good, bad = beside("good", make(1, little)), beside("bad", make(2, much))
    for pair in ((good, bad), (bad, good)):
        said, *_ = comparison.verdicts(pair)
        assert said.startswith(f"good has a {says} {label} than bad by "), said
        assert said.endswith("more than the noise of these 30 validation images.")
    near = comparison.verdicts([good, beside("near", make(3, little))])[0]
    assert "within the noise" in near, near
    assert "equally good" in comparison.verdicts([good, beside("same", make(1, little))])[0]
    other = beside("other", make(2, much), fingerprint="more")
    assert "cannot be compared image by image" in comparison.verdicts([good, other])[0]


def test_runs_of_different_tasks_are_not_compared():
    said = comparison.verdicts([beside("a", labels()), beside("b", numbers())])
    assert "different tasks" in said[0]
    assert "different tasks" in comparison.verdicts([beside("a", labels()), compared("c", 0.5)])[0]


def test_the_page_of_two_runs_of_numbers():
    runs = [beside("a", numbers(1)), beside("b", numbers(2, 0.6))]
    page = comparison.render(runs)
    sure = runs[0].answers.intervals(0)["mae"]
    assert Regression.metrics[0].sure(sure) in page and "a has a lower MAE than b" in page


def test_damaged_answers_are_named(tmp_path):
    one = masks()
    assert kept.write(tmp_path, "segmentation", one, "data")
    file = tmp_path / "answers.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"answers\.safetensors must be the answers of a run"):
        kept.read(tmp_path, one.metrics, 0.5)
    short = {**one.kept(), "ious": one.ious[:-1]}
    wrong = Segmentation.evaluation_of(short, 0.5, one.metrics)
    kept.write(tmp_path, "segmentation", wrong, "data")
    with pytest.raises(ValueError, match="arrays of different lengths"):
        kept.read(tmp_path, one.metrics, 0.5)
