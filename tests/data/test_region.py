"""Decoding the part of a JPEG that a crop shows: the same pixels, whatever lies beside them."""

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data import pictures
from toque import augment, data
from toque.data import Encoded, FolderSource, blocks, region, train_batches
from toque.random import Key

needs_library = pytest.mark.skipif(
    not region.available(), reason="toque was built without the headers of libjpeg-turbo"
)
GUARD = 64


def noisy(height, width, seed=0):
    """A photo with noise in it, so that no two blocks are alike."""
    with Image.open(pictures.PHOTOS / "china.jpg") as image:
        part = np.asarray(image.resize((width, height)), np.int64)
    noise = np.random.default_rng(seed).integers(-20, 21, part.shape)
    return np.clip(part + noise, 0, 255).astype(np.uint8)


def whole(content, factor, colour):
    height, width, *_ = simplejpeg.decode_jpeg_header(content)
    smaller = {"min_height": -(-height // factor), "min_width": -(-width // factor)}
    return simplejpeg.decode_jpeg(content, colour, **smaller if factor > 1 else {})


@needs_library
@given(
    st.integers(16, 90), st.integers(16, 90), st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([0, 1, 2, "gray"]), st.sampled_from([1, 3]), st.booleans(),
    st.tuples(*[st.floats(0, 1)] * 4),
)  # fmt: skip
def test_the_pixels_of_a_part_are_those_of_the_whole(
    height, width, factor, sampling, channels, progressive, corners
):
    picture = Image.fromarray(noisy(height, width))
    if sampling == "gray":
        picture, sampling = picture.convert("L"), 0
    content = pictures.saved(
        picture, "JPEG", quality=92, subsampling=sampling, progressive=progressive
    )
    expected = whole(content, factor, "GRAY" if channels == 1 else "RGB")
    rows, columns = expected.shape[:2]
    top, bottom = sorted(int(part * (rows - 1)) for part in corners[:2])
    left, right = sorted(int(part * (columns - 1)) for part in corners[2:])
    memory = np.full(expected.size + 2 * GUARD, 171, np.uint8)
    pixels = memory[GUARD:-GUARD].reshape(expected.shape)
    assert region.decode_region(content, factor, (top, left, bottom + 1, right + 1), pixels)
    part = slice(top, bottom + 1), slice(left, right + 1)
    assert np.array_equal(pixels[part], expected[part])
    assert (memory[:GUARD] == 171).all() and (memory[-GUARD:] == 171).all()
    assert (pixels[bottom + 1 :] == 171).all()  # nothing below is decoded


SIZES = ((150, 200), (130, 204), (64, 300), (310, 90), (131, 203), (120, 160), (98, 97), (200, 150))
FIRST = {
    "crop": augment.RandomResizedCrop(48),
    "bicubic crop": augment.RandomResizedCrop(48, interpolation="bicubic"),
    "whole pixels": augment.RandomCrop(48),
    "padding": augment.RandomCrop(48, padding=9, fill=30),
    "mirrored": augment.RandomCrop(48, padding=9, padding_mode="reflect"),
    "centre": augment.Compose([augment.Resize(56), augment.CenterCrop(48)]).transforms,
    "rotation": (augment.RandomResizedCrop(48), augment.RandomRotation(30)),
}


def poisoned(monkeypatch, value):
    """Memory to decode into is full of `value` first, so that pixels not decoded would show."""
    take = blocks.Scratch.take

    def filled(self, num_bytes):
        piece = take(self, num_bytes)
        piece[:] = value
        return piece

    monkeypatch.setattr(blocks.Scratch, "take", filled)


@needs_library
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("scaled", [True, False])
def test_training_pixels_do_not_depend_on_it(first, scaled, tmp_path, monkeypatch):
    for number, size in enumerate(SIZES):
        exif = Image.Exif()
        exif[0x0112] = number + 1
        saved = pictures.saved(noisy(*size, seed=number), "JPEG", quality=90, exif=exif)
        (tmp_path / f"{number}.jpg").write_bytes(saved)
    transforms = FIRST[first] if isinstance(FIRST[first], tuple | list) else [FIRST[first]]
    pipeline = augment.Compose(
        [*transforms, augment.RandomHorizontalFlip(), augment.ColorJitter(0.4, 0.4, 0.4, 0.1)]
    )
    source = FolderSource(tmp_path, [f"{n}.jpg" for n in range(8)], [0] * 8, ["a"])

    def batches():
        found = train_batches(
            source, pipeline, seed=3, batch_size=6, start_images=0, stop_images=48, threads=2,
            scaled_decoding=scaled,
        )  # fmt: skip
        return torch.cat([batch.images for batch in found])

    with monkeypatch.context() as without:
        without.setattr(region, "_library", lambda: None)
        expected = batches()
    for value in (0, 255):
        with monkeypatch.context() as dirty:
            poisoned(dirty, value)
            assert torch.equal(batches(), expected)


@needs_library
def test_a_part_is_decoded_where_a_crop_leaves_much_out(monkeypatch):
    content = pictures.saved(noisy(150, 200), "JPEG")
    asked = []
    decode = region.decode_region
    monkeypatch.setattr(region, "decode_region", lambda *args: asked.append(args) or decode(*args))
    encoded = Encoded(content, channels=3)
    encoded.decode(2.0, None, (10.5, 20.2, 101.1, 151.0))
    assert [one[1:3] for one in asked] == [(2, (5, 10, 51, 76))]
    encoded.decode(1.0, None, (0, 0, 149, 199))
    assert len(asked) == 1
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: the file's left column is the upper row
    turned = Encoded(pictures.saved(noisy(150, 200), "JPEG", exif=exif), channels=3)
    assert turned.size == (200, 150)
    turned.decode(1.0, None, (20, 10, 100, 70))
    assert asked[1][1:3] == (1, (80, 20, 140, 100))


@needs_library
def test_damage_inside_the_part_is_named_and_damage_below_it_not_met():
    content = pictures.saved(noisy(256, 320), "JPEG")
    gap = Encoded(content[: len(content) // 2] + content[-2:], channels=3, name="gap.jpg")
    expected = Encoded(content, channels=3).decode()
    upper = gap.decode(1.0, None, (0, 0, 90, 320))
    assert torch.equal(upper[:, :90], expected[:, :90])
    with pytest.raises(data.UnreadableImage, match=r"gap\.jpg \(damaged or cut off"):
        gap.decode(1.0, None, (100, 0, 220, 320))


def test_a_file_that_is_cut_off_is_named_whatever_the_crop_shows():
    content = pictures.saved(noisy(256, 320), "JPEG")
    cut = Encoded(content[: len(content) // 2], channels=3, name="cut.jpg")
    with pytest.raises(data.UnreadableImage, match=r"cut\.jpg \(damaged or cut off: Premature end"):
        cut.decode(1.0, None, (0, 0, 90, 320))


def test_the_box_of_a_crop_is_what_it_shows():
    pipeline = augment.Compose([augment.RandomResizedCrop(24), augment.RandomHorizontalFlip()])
    parameters = pipeline.draw(Key(0, 0, np.arange(50)))
    sizes = [(200, 300)] * 50
    boxes = pipeline.decoding_box(parameters, sizes)
    shown = pipeline.to_source([torch.tensor([[0.0, 0, 24, 24]])] * 50, parameters, sizes)
    left, top, right, bottom = torch.cat(shown).numpy().T
    margin = 2 * np.maximum((right - left) / 24, 1)[:, None]
    exact = np.stack([top, left, bottom, right], axis=1)
    assert (boxes[:, :2] <= exact[:, :2] + 1e-3).all() and (
        boxes[:, 2:] >= exact[:, 2:] - 1e-3
    ).all()
    assert (boxes[:, [1]] >= exact[:, [1]] - margin - 1e-3).all()
    whole_image = augment.Compose([augment.RandomRotation(5), augment.RandomResizedCrop(24)])
    rotated = whole_image.decoding_box(whole_image.draw(Key(0, 0, [0])), [(200, 300)])
    assert rotated.tolist() == [[0, 0, 200, 300]]


@needs_library
@pytest.mark.parametrize("seed", range(60))
def test_broken_files_end_in_an_answer(seed):
    """Random bytes inside a file: the library answers yes or no and writes inside the image."""
    random = np.random.default_rng(seed)
    content = bytearray(
        pictures.saved(noisy(70, 90), "JPEG", progressive=bool(seed % 2), subsampling=seed % 3)
    )
    for place in random.integers(20, len(content), 12):
        content[place] = random.integers(256)
    memory = np.full(70 * 90 * 3 + 2 * GUARD, 171, np.uint8)
    pixels = memory[GUARD:-GUARD].reshape(70, 90, 3)
    for box in ((0, 0, 70, 90), (20, 30, 44, 61)):
        region.decode_region(bytes(content), 1, box, pixels)
        assert (memory[:GUARD] == 171).all() and (memory[-GUARD:] == 171).all()
    assert not region.decode_region(bytes(content[:300]), 1, (0, 0, 70, 90), pixels)
    assert not region.decode_region(b"\xff\xd8\xff", 1, (0, 0, 70, 90), pixels)
    other = pictures.saved(noisy(64, 96), "JPEG")
    assert not region.decode_region(other, 1, (0, 0, 8, 8), pixels)  # not the size it is said
