"""MixUp and CutMix: what is mixed, by how much, and the distribution of the draw."""

import math

import numpy as np
import pytest
import torch

from toque import augment
from toque.augment.mix import beta
from toque.random import Key


def batch(number=6):
    images = torch.rand(number, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(number) % 4, Key(0, 0, range(number))


def test_mixup_blends_images_and_labels_alike():
    images, labels, key = batch()
    mixup = augment.MixUp(4, alpha=1.0)
    mixed, targets = mixup(images, labels, key=key)
    share = mixup.draw(key)
    for n in range(6):
        partner = (n + 1) % 6
        kept = float(share[n])
        assert torch.allclose(mixed[n], images[n] * kept + images[partner] * (1 - kept), atol=1e-6)
        expected = torch.zeros(4)
        expected[labels[n]] += kept
        expected[labels[partner]] += 1 - kept
        assert torch.allclose(targets[n], expected, atol=1e-6)
    assert len(share.unique()) == 6


def test_cutmix_gives_labels_in_proportion_to_pixels():
    key = Key(0, 0, range(6))
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 20, 30)
    mixed, targets = augment.CutMix(6)(images, torch.arange(6), key=key)
    for n in range(6):
        partner = (n + 1) % 6
        assert set(mixed[n].unique().tolist()) <= {float(n), float(partner)}
        kept = float((mixed[n] == n).float().mean())
        assert math.isclose(float(targets[n, n]), kept, abs_tol=1e-6)
        assert math.isclose(float(targets[n, partner]), 1 - kept, abs_tol=1e-6)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 4.0])
def test_the_draw_is_a_beta_distribution(alpha):
    """Moments of Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1))."""
    numbers = Key(0, 0, np.arange(40_000)).uniform("mix")[:, 0].numpy()
    shares = beta(numbers, alpha)
    assert shares.min() >= 0 and shares.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 4 * math.sqrt(variance / 40_000)
    assert abs(shares.var() / variance - 1) < 0.02
    fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))
    assert abs(((shares - 0.5) ** 4).mean() / fourth - 1) < 0.04


def test_soft_labels_are_mixed_again():
    images, labels, key = batch()
    _, once = augment.MixUp(4)(images, labels, key=key)
    _, twice = augment.CutMix(4)(images, once, key=key)
    assert torch.allclose(twice.sum(1), torch.ones(6))


def test_no_images():
    mixed, targets = augment.MixUp(3)(
        torch.empty(0, 3, 4, 4), torch.empty(0, dtype=torch.long), key=Key(0, 0, [])
    )
    assert mixed.shape == (0, 3, 4, 4) and targets.shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: augment.MixUp(3, alpha=0), "alpha must be above 0"),
        (lambda: augment.CutMix(0), "num_classes"),
        (lambda: augment.MixUp(4)(batch()[0], batch()[1][:2], key=batch()[2]), "for 6 images"),
        (lambda: augment.MixUp(4)(batch()[0].byte(), batch()[1], key=batch()[2]), "after Compose"),
        (lambda: augment.MixUp(9)(batch()[0], batch()[1].float(), key=batch()[2]), "class numbers"),
    ],
)
def test_each_mistake_has_its_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
