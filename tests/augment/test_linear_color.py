"""color="linear": one matrix for each image, near to the exact chain, the same in every kernel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toque import augment
from toque.random import Key

PHOTOS = sorted((Path(__file__).parents[1] / "images").glob("*.??g"))
CROP = augment.RandomResizedCrop(64)


@pytest.fixture(scope="module")
def photos():
    arrays = [np.array(Image.open(photo).convert("RGB").resize((160, 120))) for photo in PHOTOS]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    return torch.cat([images] * 4)


def both(photos, steps, **options):
    key = Key(0, 0, range(len(photos)))
    exact = augment.Compose([CROP, *steps], **options)(photos, key=key)
    linear = augment.Compose([CROP, *steps], color="linear", **options)(photos, key=key)
    return exact, linear


@pytest.mark.parametrize(
    ("steps", "mean"),
    [
        ([augment.ColorJitter(0.4, 0.4, 0.4, 0.1)], 1.7),
        ([augment.ColorJitter(0.4, 0.4, 0.4)], 1.0),
        ([augment.ColorJitter(hue=0.1)], 1.6),
        ([augment.RandomGrayscale(0.5), augment.RandomInvert(0.5)], 0.001),
    ],
)
def test_it_is_as_near_to_exact_as_the_guide_says(kernel, photos, steps, mean):
    exact, linear = both(photos, steps)
    assert (linear - exact).abs().mean() * 255 < mean
    assert linear.amin() >= 0 and linear.amax() <= 1


def test_a_hue_is_nearer_than_no_hue_and_than_a_rotation_about_gray(kernel, photos):
    # A rotation of the hue in a fixed plane is hardly better than nothing: the fit is there for it.
    exact, linear = both(photos, [augment.ColorJitter(hue=(0.1, 0.1))])
    plain = augment.Compose([CROP])(photos, key=Key(0, 0, range(len(photos))))
    cosine, sine = np.cos(0.2 * np.pi), np.sin(0.2 * np.pi)
    third, side = (1 - cosine) / 3, sine / np.sqrt(3)
    a, b, c = cosine + third, third - side, third + side
    turn = torch.tensor([[a, b, c], [c, a, b], [b, c, a]], dtype=torch.float32)
    turned = torch.einsum("ij,bjhw->bihw", turn, plain).clamp(0, 1)
    error = [(result - exact).abs().mean() for result in (linear, plain, turned)]
    assert error[0] < error[1] / 3 and error[0] < error[2] / 2


def test_a_gray_picture_keeps_its_gray_under_a_hue(kernel):
    gray = torch.linspace(0, 1, 32 * 32).view(1, 1, 32, 32).expand(2, 3, 32, 32)
    pipeline = augment.Compose([augment.ColorJitter(hue=(0.3, 0.3))], color="linear")
    assert torch.allclose(pipeline(gray, key=Key(0, 0, range(2))), gray, atol=1e-5)


def test_gray_images_have_the_same_matrix(kernel):
    images = torch.rand(4, 1, 20, 30)
    exact, linear = both(images, [augment.ColorJitter(0.1, 0.1, 0.3, 0.1)])
    assert (linear - exact).abs().mean() < 0.01


def test_alone_as_in_the_batch(kernel, photos):
    key = Key(3, 1, range(len(photos)))
    steps = [CROP, augment.RandomRotation(20, "bilinear"), augment.ColorJitter(0.4, 0.4, 0.4, 0.1)]
    pipeline = augment.Compose(steps, color="linear")
    assert torch.equal(pipeline(photos, key=key)[5:6], pipeline(photos[5:6], key=key[5:6]))


def test_what_has_no_matrix_keeps_its_pass_exact(photos):
    steps = [augment.ColorJitter(0.4), augment.RandomSolarize(100, 1.0)]
    exact, linear = both(photos, steps)
    assert torch.equal(exact, linear)
    pipeline = augment.Compose([CROP, *steps], color="linear")
    assert "one matrix" not in pipeline.plan()
    assert "ColorJitter (one matrix)" in augment.Compose([*steps[:1]], color="linear").plan()


def test_color_must_be_known():
    with pytest.raises(ValueError, match="color must be exact or linear; got lineal"):
        augment.Compose([], color="lineal")
