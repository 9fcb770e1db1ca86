"""The exported preprocessing is validation's, on any size of image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toque import augment
from toque.deploy.preprocess import Preprocess
from toque.random import Key


def pixels(height, width, channels, batch=1, seed=0):
    numbers = Key(seed, 0, np.arange(batch)).uniform("pixels", height * width * channels)
    return (numbers * 256).to(torch.uint8).view(batch, height, width, channels)


def validated(pipeline, images):
    key = Key(0, 0, np.arange(len(images)))
    return pipeline(images.permute(0, 3, 1, 2), key=key)


@settings(max_examples=60)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 80),
    channels=st.sampled_from([1, 3]),
)
def test_it_gives_what_validation_gives(height, width, size, channels):
    pipeline = augment.preset("none", size, channels=channels)
    images = pixels(height, width, channels, batch=2)
    ours = Preprocess(pipeline, channels)(images)
    torch.testing.assert_close(ours, validated(pipeline, images), atol=2e-5, rtol=0)


@settings(max_examples=40)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    resize=st.one_of(st.integers(1, 40), st.tuples(st.integers(1, 40), st.integers(1, 40))),
    crop=st.one_of(st.none(), st.integers(1, 60)),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_any_resize_and_crop(height, width, resize, crop, interpolation):
    steps = [augment.Resize(resize, interpolation=interpolation)]
    if crop is not None:
        steps.append(augment.CenterCrop(crop))  # larger than the image too: black around it
    steps.append(augment.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    pipeline = augment.Compose(steps)
    images = pixels(height, width, 3)
    if pipeline.size is None:
        with pytest.raises(ValueError, match="one size"):
            Preprocess(pipeline, 3)
        return
    ours = Preprocess(pipeline, 3)(images)
    torch.testing.assert_close(ours, validated(pipeline, images), atol=5e-5, rtol=0)


def test_a_large_photo():
    pipeline = augment.preset("none", 224)
    images = pixels(1733, 2999, 3)
    ours = Preprocess(pipeline, 3)(images)
    torch.testing.assert_close(ours, validated(pipeline, images), atol=5e-5, rtol=0)


def test_it_agrees_with_torchvision():
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    images = pixels(97, 131, 3)
    resized = functional.resize(images.permute(0, 3, 1, 2).float() / 255, 73, antialias=True)
    cropped = functional.center_crop(resized, 64)
    ours = Preprocess(augment.Compose([augment.Resize(73), augment.CenterCrop(64)]), channels=3)(
        images
    )
    torch.testing.assert_close(ours, cropped, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([augment.RandomHorizontalFlip()], "got RandomHorizontalFlip"),
        ([augment.Normalize((0.5,), (0.5,)), augment.Resize((4, 4))], "got Resize"),
        ([augment.Resize(20, interpolation="nearest"), augment.CenterCrop(8)], "bilinear or"),
        ([augment.Resize(20, max_size=30), augment.CenterCrop(8)], "without max_size"),
        ([augment.Resize(20)], "one size"),
    ],
)
def test_a_pipeline_that_cannot_go_along_is_refused(steps, words):
    with pytest.raises(ValueError, match=words):
        Preprocess(augment.Compose(steps), channels=3)
