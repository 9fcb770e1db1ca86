"""Thresholds of several labels, chosen on half of the images and measured on the other half."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from toque.train.metrics.thresholds import THRESHOLD, f1, thresholds
from toque.train.tasks import LabelsEvaluation, Multilabel


def rare(n=400, seed=0):
    """A rare label whose probability is never a half, a common one, and one that no image has."""
    draw = np.random.default_rng(seed)
    targets = (draw.random((n, 3)) < [0.08, 0.5, 0.0]).astype(np.float32)
    shares = np.clip(
        np.where(targets > 0, [0.3, 0.8, 0.9], [0.1, 0.2, 0.05]) + draw.normal(0, 0.05, (n, 3)),
        0,
        1,
    )
    return shares.astype(np.float32), targets


def test_a_rare_label_gets_a_threshold_that_finds_it_and_others_keep_a_half():
    shares, targets = rare()
    found = thresholds(shares, targets)
    assert 0.12 < found.values[0] < 0.28
    assert f1(shares[:, 0] > THRESHOLD, targets[:, 0] > 0) == 0
    assert f1(found.said[:, 0], targets[:, 0] > 0) > 0.9
    assert found.values[1:].tolist() == [0.5, 0.5]
    assert (found.said[:, 1:] == (shares[:, 1:] > 0.5)).all()


def test_the_threshold_is_the_best_of_all():
    draw = np.random.default_rng(1)
    targets = (draw.random((120, 1)) < 0.15).astype(np.float32)
    shares = np.round(0.2 * targets + 0.2 * draw.random((120, 1)), 2).astype(np.float32)  # ties
    (value,) = thresholds(shares, targets).values
    tried = [f1(shares[:, 0] > one, targets[:, 0] > 0) for one in np.linspace(0, 1, 2001)]
    assert value != THRESHOLD
    assert f1(shares[:, 0] > value, targets[:, 0] > 0) == pytest.approx(max(tried))


def test_what_is_said_of_an_image_does_not_come_from_its_own_label():
    """With labels that mean nothing a threshold of their own would find some of them."""
    draw = np.random.default_rng(2)
    targets = np.zeros((60, 1), np.float32)
    targets[draw.permutation(60)[:6]] = 1
    shares = (0.4 * draw.random((60, 1))).astype(np.float32)
    found = thresholds(shares, targets)
    own = max(f1(shares[:, 0] > one, targets[:, 0] > 0) for one in np.unique(shares))
    assert f1(found.said[:, 0], targets[:, 0] > 0) < own


def test_a_label_of_one_image_keeps_a_half():
    targets = np.array([[1], [0], [0], [0]], np.float32)
    found = thresholds(np.array([[0.4], [0.1], [0.1], [0.1]], np.float32), targets)
    assert found.values.tolist() == [0.5] and not found.said.any()
    assert thresholds(np.empty((0, 2), np.float32), np.empty((0, 2), np.float32)).said.shape == (
        0,
        2,
    )


def test_the_table_says_what_the_thresholds_do_whatever_the_order_of_the_images():
    shares, targets = rare()
    found = LabelsEvaluation(0.5, {}, Multilabel.metrics, np.arange(400), targets, shares)
    order = np.random.default_rng(0).permutation(400)
    turned = dataclasses.replace(
        found, indices=found.indices[order], targets=targets[order], probabilities=shares[order]
    )
    assert turned.thresholds() == found.thresholds()
    assert turned.table("abc") == found.table("abc")
    assert (turned.chosen.said == found.chosen.said[order]).all()
    a, b, c = found.per_label()
    said, true = found.chosen.said[:, 0], targets[:, 0] > 0
    assert a.count == true.sum() and a.precision == pytest.approx(true[said].mean())
    assert a.recall == pytest.approx(said[true].mean())
    assert a.f1 == pytest.approx(2 / (1 / a.precision + 1 / a.recall))
    assert b.f1 > 0.99 and b.calibration_error == pytest.approx(0.2, abs=0.05)
    assert np.isnan([c.average_precision, c.recall]).all()
    assert found.table("abc").rows[2][0:4] == ("c", "0", "-", "0.5")
