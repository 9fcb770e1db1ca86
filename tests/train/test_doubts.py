"""Images whose labels, numbers or masks the answers contradict, against counting by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

import toque
from toque.data import open as open_data
from toque.train import reporting
from toque.train.metrics.doubts import (
    FEW_WRONG,
    FEWEST,
    Firmness,
    firmness,
    in_words,
    kinds_of,
    label_leads,
    outlyingness,
)
from toque.train.studies import contradicted
from toque.train.tasks import (
    LabelsEvaluation,
    MaskEvaluation,
    Multilabel,
    NumbersEvaluation,
    Regression,
    Segmentation,
)


def labels_of(targets, shares):
    targets, shares = np.array(targets, np.float32), np.array(shares, np.float32)
    indices = np.arange(len(targets)) + 100
    return LabelsEvaluation(0.5, {}, Multilabel.metrics, indices, targets, shares)


def numbers_of(targets, said):
    targets, said = np.array(targets, np.float32), np.array(said, np.float32)
    indices = np.arange(len(targets)) + 100
    return NumbersEvaluation(0.5, {}, Regression.metrics, indices, targets, said)


def masks_of(ious):
    none = np.zeros((2, 2), np.int64)
    return MaskEvaluation(
        0.5, {}, Segmentation.metrics, np.arange(len(ious)) + 100, none,
        np.array(ious, np.float32), np.zeros((len(ious), 3, 2), np.int64), [],
    )  # fmt: skip


def usual_labels(wrong=1):
    """100 validation images of two labels: a is answered with 0.9 or 0.2, b with 0.8 or 0.1; of a
    `wrong` images that have it and as many that do not are answered as if it were otherwise."""
    targets = np.stack([np.arange(100) < 50, np.arange(100) % 2 == 0], 1)
    shares = np.where(targets, [0.9, 0.8], [0.2, 0.1])
    for n in range(wrong):
        shares[n, 0], shares[99 - n, 0] = 0.2, 0.9
    return labels_of(targets, shares)


def test_labels_are_doubted_one_by_one_as_firmly_as_answers_that_are_hardly_ever_wrong():
    # The usual support: a 0.886, not a 0.786, b 0.8, not b 0.9; as firm ones are wrong in 1 of 50.
    found = labels_of(
        [[1, 1], [0, 0], [0, 0], [1, 1]], [[0.05, 0.1], [0.85, 0.81], [0.95, 0.5], [0.3, 0.2]]
    )
    doubts = found.doubts("ab", usual_labels())
    assert [(one.index, one.label, one.answer, one.kind) for one in doubts] == [
        (100, "a: superfluous", "not there (95.0 %)", "superfluous"),
        (102, "a: missing", "there (95.0 %)", "missing"),
        (100, "b: superfluous", "not there (90.0 %)", "superfluous"),
        (101, "b: missing", "there (81.0 %)", "missing"),
    ]
    assert kinds_of(doubts) == {"missing": 2, "superfluous": 2}
    assert in_words(kinds_of(doubts)) == " (labels: 2 missing, 2 superfluous)"
    assert in_words({}) == "" and found.cannot_tell(usual_labels()) == ""


def test_a_model_that_is_often_wrong_doubts_nothing_and_says_so():
    poor = usual_labels(wrong=5)
    sure = labels_of([[1, 1], [0, 0]], [[0.0, 0.0], [1.0, 1.0]])
    assert len(sure.doubts("ab", usual_labels())) == 4
    # Of the firmest answers, 0.9, 5 of 50 are wrong: fewer than 3 % never are.
    assert [one.kind for one in sure.doubts("ab", poor)] == ["superfluous"] * 2
    assert sure.cannot_tell(poor) == (
        "Which labels are missing it cannot tell: of its 50 firmest answers that a label is there, "
        "10.0 % are contradicted by validation labels, and 3.0 % may be."
    )
    few = labels_of([[1, 0]] * 20, [[0.9, 0.1]] * 20)
    assert sure.doubts(
        "ab", few
    ) == [] and "on fewer than 50 validation labels" in sure.cannot_tell(few)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_firm_is_what_counting_one_by_one_finds(seed, there):
    draw = np.random.default_rng(seed)
    shares = np.round(draw.random((150, 3)) ** 0.5, 2 if seed % 2 else 4).astype(np.float32)
    true = draw.random((150, 3)) < 1 / (1 + np.exp(-9 * (shares - 0.5)))
    true[:, 2] &= seed > 1  # a label that no image has
    found = firmness(true.astype(np.float32), shares, there)
    firm = shares.astype(float) if there else 1 - shares.astype(float)
    pairs = [(firm[n, k], true[n, k] == there) for n in range(150) for k in range(3)]
    others = sum(not right for _, right in pairs)
    fine = []
    for least in {one for one, _ in pairs if one > 0.5}:
        rights = [right for one, right in pairs if one >= least]
        wrong = rights.count(False)
        if len(rights) >= FEWEST and wrong <= FEW_WRONG * min(len(rights), others):
            fine.append(least)
    for k in range(3):
        of_it = [firm[n, k] for n in range(150) if true[n, k] == there]
        wanted = max(np.mean(of_it), min(fine)) if of_it and fine else np.inf
        assert found.least[k] == pytest.approx(wanted)
    assert fine or found.asked == FEWEST


def test_leads_are_those_of_counting_one_by_one():
    draw = np.random.default_rng(0)
    targets = (draw.random((60, 3)) < [0.5, 0.2, 0.0]).astype(np.float32)
    shares = draw.random((60, 3)).astype(np.float32)
    there, not_there = Firmness(np.array([0.6, 0.7, np.inf])), Firmness(np.array([0.8, 0.55, 0.9]))
    leads = label_leads(targets, shares, there, not_there)
    for n in range(60):
        for k in range(3):
            said = shares[n, k] > 0.5
            answer = shares[n, k] if said else 1 - shares[n, k]
            firm = answer >= (there if said else not_there).least[k]
            doubted = said != (targets[n, k] > 0) and firm
            assert leads[n, k] == pytest.approx(2 * answer - 1 if doubted else 0, abs=1e-6)
    assert (leads > 0).any() and not leads[:, 2].any()


def test_a_number_far_off_is_doubted_by_the_usual_miss_of_validation_images():
    validation = numbers_of([[10, 5]] * 5, [[11, 5], [9, 5], [12, 5], [11, 5], [10, 5]])  # 1 and 0
    found = numbers_of([[10, 5], [10, 5], [30, 5], [0, 5]], [[14.9, 5], [15, 5], [10, 9], [3, 5]])
    doubts = found.doubts(["age", "size"], validation)
    assert [(one.index, one.label, one.answer) for one in doubts] == [
        (102, "age 30", "age 10, 20.0 times the usual miss"),
        (101, "age 10", "age 15, 5.0 times the usual miss"),
    ]
    # Without validation the images themselves say what is usual: misses of 4.9, 5, 20 and 3.
    assert found.doubts(["age", "size"]) == []


def test_a_mask_that_agrees_far_less_than_usual_is_doubted():
    usual = [0.8, 0.82, 0.78, 0.81, 0.79, np.nan]  # median 0.80, deviations 0, .01, .01, .02, .02
    found = masks_of([0.8, 0.751, 0.7, 0.3, np.nan, 1.0])
    doubts = found.doubts(["ground", "cell"], masks_of(usual))
    assert [one.index for one in doubts] == [103, 102]  # beyond 0.80 - 3.5 * 0.01 / 0.6745 = 0.748
    assert doubts[0].answer == "IoU 30.0 %, usual are 80.0 %"


def test_outlyingness_is_in_standard_deviations_of_what_is_normal():
    usual = np.random.default_rng(0).normal(5, 2, 100_000)
    np.testing.assert_allclose(
        outlyingness(np.array([5.0, 9.0, 1.0]), usual), [0, 2, -2], atol=0.03
    )
    assert not outlyingness(np.array([1.0, 9.0]), np.array([1.0, 1.0, 1.0, 2.0])).any()
    assert not outlyingness(np.array([1.0]), np.array([np.nan])).any()


def test_kept_and_measured_in_any_order_the_doubts_are_the_same():
    found = numbers_of([[10], [20], [30], [99]], [[11], [19], [31], [40]])
    order = np.array([2, 0, 3, 1])
    turned = dataclasses.replace(
        found, indices=found.indices[order], targets=found.targets[order],
        predictions=found.predictions[order],
    )  # fmt: skip
    assert [one.index for one in found.doubts(["age"])] == [103]
    assert turned.doubts(["age"]) == found.doubts(["age"])


def test_wrong_masks_of_training_images_are_named_and_shown(tmp_path):
    """Squares on dark ground; two training masks lie elsewhere."""
    draw = np.random.default_rng(0)
    wrong = ("05", "17")
    for part, count in (("train", 24), ("val", 9)):
        for n in range(count):
            mask = np.zeros((32, 32), np.uint8)
            top, left, side = draw.integers(0, 20), draw.integers(0, 20), draw.integers(6, 12)
            mask[top : top + side, left : left + side] = 1
            image = draw.integers(0, 60, (32, 32), dtype=np.uint8) + 150 * mask
            label = 1 - mask if part == "train" and f"{n:02}" in wrong else mask
            for kind, pixels in (("images", image), ("masks", label)):
                file = tmp_path / "data" / part / kind / f"{n:02}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(file)
    run = toque.Run(
        data=str(tmp_path / "data"), out=str(tmp_path / "run"), epochs=5, batch_size=4,
        augment="none", optimizer={"name": "adamw", "learning_rate": 3e-3}, image_size=32,
        log={"tensorboard": False},
    )  # fmt: skip
    result = toque.fit(run, show="quiet")
    assert result.evaluation.metrics["mean_iou"] > 0.9
    found = contradicted.contradicted(run.out, show="quiet")
    ((finding, read),) = [one for one in found if one[0].says.startswith("Training")]
    names = [item.name for (item,) in finding.groups]
    assert sorted(names[:2]) == [f"train/images/{n}.png" for n in wrong]
    (item,) = finding.groups[0]
    shown = read(item).float()  # the label laid over: its pixels are coloured, the square is not
    assert shown.shape[0] == 3
    coloured = (shown.amax(0) - shown.amin(0)) > 20
    assert coloured.float().mean() > 0.6
    page = reporting.write_report(result.out, open_data(run.data, seed=0)).read_text()
    assert "Training labels to check" in page and "usual are" in page


def test_a_long_list_says_that_it_is_about_the_model():
    assert "train it longer" in contradicted._how_to_look(21, 100)
    assert contradicted._how_to_look(20, 100) == "Look at them"
