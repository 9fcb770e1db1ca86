"""Filters against torchvision's float path, and the keyed noise."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from toque import augment
from toque.augment import noise
from toque.random import Key

pytestmark = pytest.mark.usefixtures("kernel")


def pictures(batch=5, channels=3, height=33, width=47):
    rng = np.random.default_rng(0)
    dim = rng.integers(30, 200, (batch, channels, height, width), dtype=np.uint8)
    return torch.from_numpy(dim)


def unit(images):
    return F.to_dtype(images, torch.float32, scale=True)


def apply(transform, images):
    return augment.Compose([transform])(images, key=Key(0, 0, range(len(images))))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (augment.RandomAdjustSharpness(2.0, 1.0), lambda x: F.adjust_sharpness(x, 2.0)),
        (augment.RandomAdjustSharpness(0.3, 1.0), lambda x: F.adjust_sharpness(x, 0.3)),
        (augment.RandomAutocontrast(1.0), F.autocontrast),
        (augment.RandomEqualize(1.0), F.equalize),
        (augment.GaussianBlur(5, 1.3), lambda x: F.gaussian_blur(x, [5, 5], [1.3, 1.3])),
        (augment.GaussianBlur((3, 9), 0.7), lambda x: F.gaussian_blur(x, [3, 9], [0.7, 0.7])),
    ],
)
def test_as_torchvision(ours, theirs, channels):
    images = pictures(channels=channels)
    images[0, 0] = 77  # a flat channel
    assert (apply(ours, images) - theirs(unit(images))).abs().max() < 0.05 / 255


def test_each_image_has_its_own_draw():
    images = pictures(1).expand(40, -1, -1, -1)
    results = apply(augment.RandomEqualize(0.5), images)
    changed = (results != unit(images)).flatten(1).any(1)
    assert 8 < int(changed.sum()) < 32
    sigmas = apply(augment.GaussianBlur(7), images).flatten(1).std(1)
    assert len(sigmas.unique()) > 30


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 3)])
def test_small_images(size):
    images = pictures(2, 3, *size)
    for transform in (
        augment.RandomAdjustSharpness(2.0, 1.0), augment.RandomEqualize(1.0),
        augment.RandomAutocontrast(1.0), augment.GaussianBlur(9), augment.GaussianNoise(),
    ):  # fmt: skip
        result = apply(transform, images)
        assert result.shape == images.shape and result.isfinite().all()


def test_filters_between_other_passes():
    images = pictures()
    steps = [
        augment.RandomResizedCrop(24),
        augment.GaussianBlur(3, 1.0),
        augment.ColorJitter(0.4),
        augment.Normalize((0.5,), (0.5,)),
    ]
    pipeline = augment.Compose(steps)
    assert [line.split(": ")[1] for line in pipeline.plan().splitlines()] == [
        "RandomResizedCrop (one anti-aliased resample)", "GaussianBlur", "ColorJitter → Normalize",
    ]  # fmt: skip
    key = Key(0, 0, range(5))
    step = augment.Compose(steps[:1])(images, key=key)
    step = F.gaussian_blur(step, [3, 3], [1.0, 1.0])
    expected = augment.Compose(steps[2:])(step, key=key)
    assert (pipeline(images, key=key) - expected).abs().max() < 1e-5


def test_noise_is_normal_and_belongs_to_the_image():
    images = torch.full((3, 3, 64, 64), 128, dtype=torch.uint8)
    pipeline = augment.Compose([augment.GaussianNoise(0.1, 0.05, clip=False)])
    result = pipeline(images, key=Key(0, 0, [5, 6, 7])) - 128 / 255
    n = result.numel()
    assert abs(float(result.mean()) - 0.1) < 4 * 0.05 / np.sqrt(n)
    assert abs(float(result.std()) / 0.05 - 1) < 4 / np.sqrt(2 * n)
    alone = pipeline(images[:1], key=Key(0, 0, [6])) - 128 / 255
    assert torch.equal(alone[0], result[1])
    correlation = np.corrcoef(result.reshape(3, -1).numpy())
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.05
    rows = result[0, 0] - result[0, 0].mean()
    assert abs(float((rows[:, 1:] * rows[:, :-1]).mean())) < 5 * 0.05**2 / 64


def test_noise_passes_a_test_of_its_distribution():
    numbers = noise.normal(torch.tensor([3, 4]), 100_000, torch.device("cpu"))
    for row in numbers:
        fourth = float((row**4).mean())
        assert abs(float(row.mean())) < 4 / np.sqrt(1e5) and abs(fourth - 3) < 4 * np.sqrt(96 / 1e5)


def test_every_bit_of_a_seed_counts():
    seeds = torch.tensor([0, *(1 << bit for bit in range(48))])
    numbers = noise.normal(seeds, 8, torch.device("cpu"))
    assert len({row.numpy().tobytes() for row in numbers}) == 49


def test_erasing_with_noise():
    images = torch.full((6, 3, 40, 40), 128, dtype=torch.uint8)
    steps = [augment.Normalize((0.5,), (0.5,)), augment.RandomErasing(1.0, value="random")]
    pipeline = augment.Compose(steps)
    key = Key(0, 0, range(6))
    result = pipeline(images, key=key)
    untouched = (128 / 255 - 0.5) / 0.5
    erased = (result - untouched).abs() > 1e-6
    for picture, hole in zip(result, erased, strict=True):
        assert 0.01 < float(hole.float().mean()) < 0.4
        values = picture[hole]
        assert abs(float(values.mean())) < 0.3 and 0.7 < float(values.std()) < 1.3
    assert torch.equal(pipeline(images[2:3], key=key[2:3])[0], result[2])


def test_a_function_of_your_own():
    images = pictures()
    result = apply(augment.Lambda(lambda x: x.sqrt()), images)
    assert (result - unit(images).sqrt()).abs().max() < 1e-6
    with pytest.raises(ValueError, match="Keep the shape"):
        apply(augment.Lambda(lambda x: x[:, :, :3]), images)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: augment.GaussianBlur(4), "odd"),
        (lambda: augment.GaussianBlur(3, sigma=0), "above 0"),
        (lambda: augment.GaussianNoise(sigma=-1), ">= 0"),
        (lambda: augment.RandomAdjustSharpness(-1), ">= 0"),
        (lambda: augment.Lambda(3), "callable"),
        (
            lambda: augment.Compose([augment.GaussianBlur(3)])(
                [pictures()[0], pictures(1, 3, 9, 9)[0]], key=Key(0, 0, [0, 1])
            ),
            "before the filter",
        ),
    ],
)
def test_each_mistake_has_its_sentence(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()
