"""Pictures inside the page."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from toque.train.report import denormalise, images


def decode(uri: str) -> Image.Image:
    head, body = uri.split(",", 1)
    assert head in ("data:image/png;base64", "data:image/webp;base64")
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_denormalise_undoes_a_normalisation_exactly() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    batch = (levels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    for given in (batch, batch.to(memory_format=torch.channels_last), batch.double()):
        pictures = denormalise(given, mean, std)
        assert pictures.dtype == np.uint8
        np.testing.assert_array_equal(pictures, levels.permute(0, 2, 3, 1).numpy())


def test_denormalise_keeps_the_order_of_channels() -> None:
    batch = torch.stack([torch.full((2, 2), value) for value in (0.0, 0.5, 1.0)])[None]
    assert denormalise(batch, 0.0, 1.0)[0, 0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("channels", "shape"), [(1, (2, 4, 5)), (2, (2, 4, 5)), (3, (2, 4, 5, 3)), (6, (2, 4, 5, 3))]
)
def test_denormalise_shows_any_number_of_channels(channels: int, shape: tuple[int, ...]) -> None:
    assert denormalise(torch.zeros(2, channels, 4, 5), 0.5, 0.5).shape == shape


def test_denormalise_clamps_and_shows_what_is_not_finite_as_black() -> None:
    batch = torch.tensor([-9.0, 9.0, float("nan"), float("inf")]).reshape(1, 1, 2, 2)
    assert denormalise(batch, 0.5, 0.25).ravel().tolist() == [0, 255, 0, 0]


def test_denormalise_leaves_the_batch_alone_and_takes_none() -> None:
    batch = torch.rand(1, 1, 2, 2, requires_grad=True)
    before = batch.detach().clone()
    denormalise(batch, 0.2, 0.2)
    assert torch.equal(batch.detach(), before)
    assert denormalise(torch.zeros(0, 3, 4, 4), 0.0, 1.0).shape == (0, 4, 4, 3)


def test_denormalise_names_the_mistake() -> None:
    with pytest.raises(
        ValueError, match=r"images must be of shape \[B, C, H, W\]; got \[3, 4, 4\]"
    ):
        denormalise(torch.zeros(3, 4, 4), 0.0, 1.0)
    with pytest.raises(TypeError, match=r"images must be float; got torch.uint8"):
        denormalise(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 0.0, 1.0)
    with pytest.raises(
        ValueError, match=r"std must be one number or 3, one per channel; got 2 numbers"
    ):
        denormalise(torch.zeros(1, 3, 4, 4), 0.0, (1.0, 1.0))


def test_tiny_pictures_lose_nothing() -> None:
    image = (np.arange(28 * 28) % 256).astype(np.uint8).reshape(28, 28)
    np.testing.assert_array_equal(np.asarray(decode(images.data_uri(image))), image)
    assert images.is_tiny(image)


def test_large_pictures_become_small_and_keep_their_shape() -> None:
    ramp = np.linspace(0, 255, 3000, dtype=np.uint8)
    photo = np.dstack([np.tile(ramp, (1500, 1))] * 3)
    uri = images.data_uri(photo)
    assert decode(uri).size == (224, 112)
    assert len(uri) < 10_000
    assert not images.is_tiny(photo)


def test_extreme_shapes_are_pictures() -> None:
    assert decode(images.data_uri(np.zeros((1, 5000), np.uint8))).size == (224, 1)
    assert decode(images.data_uri(np.zeros((1, 1, 3), np.uint8))).size == (1, 1)


def test_a_heat_map_shows_small_shares() -> None:
    picture = decode(images.heat_uri(np.array([[0.0, 0.01], [0.25, 1.0]])))
    assert np.asarray(picture)[..., 3].tolist() == [[0, 26], [128, 255]]
