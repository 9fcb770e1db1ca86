"""Scaled decoding: near the full decoding, and the same pixels however the work is cut up."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data import pictures
from toque import augment, data
from toque.data import Encoded, FolderSource, decoding, evaluation_batches, jpeg, train_batches
from toque.data.encoded import reduction
from toque.random import Key


def photo(height, width, **options):
    """A shipped photo at a size, as JPEG bytes."""
    with Image.open(pictures.PHOTOS / "china.jpg") as image:
        resized = image.resize((width, height), Image.Resampling.LANCZOS)
    return pictures.saved(resized, "JPEG", quality=92, **options)


def oriented(content, orientation):
    with Image.open(io.BytesIO(content)) as image:
        exif = image.getexif()
        exif[0x0112] = orientation
        return pictures.saved(image, "JPEG", quality=92, exif=exif)


def area(pixels, factor):
    """The mean of factor x factor squares, the last row and column continued: [H, W, C]."""
    height, width = pixels.shape[:2]
    more = (0, -height % factor), (0, -width % factor), (0, 0)
    padded = np.pad(pixels.astype(np.float64), more, mode="edge")
    rows, columns = padded.shape[0] // factor, padded.shape[1] // factor
    return padded.reshape(rows, factor, columns, factor, -1).mean((1, 3))


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(128, 192), (131, 203)])
def test_reduced_pixels_are_means_of_the_full_ones(factor, orientation, size):
    content = oriented(photo(*size), orientation)
    full = decoding.decode(content).permute(1, 2, 0).numpy()
    encoded = Encoded(content)
    assert encoded.size == full.shape[:2]
    reduced = encoded.decode(factor + 0.9).permute(1, 2, 0).numpy()
    if size == (131, 203) and orientation not in (1, 5):
        assert reduced.shape == full.shape  # the far end of a mirrored axis is no whole pixel
        return
    expected = area(full, factor)
    assert reduced.shape == expected.shape
    assert np.abs(reduced - expected).mean() < 2.5  # a shift by half a pixel gives 5 and more


@pytest.mark.parametrize("scale", [1.0, 1.99, 2.0, 3.9, 4.0, 7.99, 8.0, 100.0])
def test_never_smaller_than_the_scale_allows(scale):
    header = jpeg.JpegHeader(640, 480, 3, 1)
    factor = reduction(header, scale)
    assert factor <= scale < 2 * factor or factor == 8
    assert reduction(jpeg.JpegHeader(15, 9, 3, 1), scale) == 1


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_gray_and_other_kinds(channels):
    gray = pictures.saved(Image.open(io.BytesIO(photo(64, 96))).convert("L"), "JPEG")
    assert Encoded(gray, channels=channels).decode(2).shape == (channels or 1, 32, 48)
    cmyk = pictures.saved(Image.open(io.BytesIO(photo(64, 96))).convert("CMYK"), "JPEG")
    for content in (cmyk, pictures.png(), pictures.saved(np.full((9, 8), 400, np.uint16), "PNG")):
        whole = decoding.decode(content, channels=channels)
        encoded = Encoded(content, channels=channels)
        assert encoded.size == whole.shape[1:]
        assert torch.equal(encoded.decode(8.0), whole)


def test_a_cut_file_is_an_error_at_any_scale():
    content = photo(256, 320)
    encoded = Encoded(content[: len(content) // 2], name="cut.jpg")
    with pytest.raises(data.UnreadableImage, match=r"cut\.jpg \(damaged or cut off"):
        encoded.decode(4.0)


@pytest.fixture
def photos(tmp_path):
    """Files of many sizes, of which a crop to 32 pixels lets some be reduced and others not."""
    sizes = [(40, 50), (301, 211), (128, 520), (64, 64), (333, 500), (90, 70), (36, 400)]
    names, labels = [], []
    for number in range(14):
        content = photo(*sizes[number % 7])
        if number == 3:
            content = pictures.png()
        if number == 5:
            content = oriented(photo(256, 128), 6)
        names.append(f"{number}.jpg")
        labels.append(number % 2)
        (tmp_path / names[-1]).write_bytes(content)
    return FolderSource(tmp_path, names, labels, ["a", "b"])


PIPELINES = {
    "crop": [augment.RandomResizedCrop(32), augment.RandomHorizontalFlip()],
    "colour": [augment.RandomResizedCrop(32), augment.ColorJitter(0.4, 0.4, 0.4, 0.1)],
    "whole": [augment.Resize((32, 32)), augment.RandomCrop(32, padding=4)],
    "nearest": [augment.RandomResizedCrop(32, interpolation="nearest")],
    "rotated": [augment.RandomResizedCrop(32), augment.RandomRotation(20)],
    "warped": [augment.RandomAffine(10, scale=(0.2, 0.4)), augment.CenterCrop(32)],
    "perspective": [augment.RandomResizedCrop(32), augment.RandomPerspective(p=1.0)],
    "blurred": [augment.Resize((32, 32)), augment.GaussianBlur(3)],
    "shifted": [augment.RandomCrop(32, padding=4, padding_mode="reflect", pad_if_needed=True)],
}


@pytest.mark.parametrize("name", PIPELINES)
def test_pixels_do_not_depend_on_how_the_work_is_cut(photos, name):
    pipeline = augment.Compose(PIPELINES[name])

    def pixels(batch_size, threads, workers=0):
        batches = train_batches(
            photos, pipeline, seed=3, batch_size=batch_size, start_images=0, stop_images=28,
            threads=threads, workers=workers,
        )  # fmt: skip
        return torch.cat([batch.images for batch in batches])[:28]

    one_by_one = pixels(1, 0)
    for batch_size, threads, workers in [(4, 2, 0), (28, 3, 0), (7, 1, 2)]:
        assert torch.equal(pixels(batch_size, threads, workers), one_by_one)


@pytest.mark.parametrize("name", ["crop", "whole", "rotated"])
def test_near_the_full_decoding(photos, name):
    pipeline = augment.Compose(PIPELINES[name], dtype=torch.float32)

    def pixels(scaled):
        batches = train_batches(
            photos, pipeline, seed=1, batch_size=14, start_images=0, stop_images=14, threads=1,
            scaled_decoding=scaled,
        )  # fmt: skip
        return next(iter(batches)).images

    full, scaled = pixels(False), pixels(True)
    assert not torch.equal(full, scaled)
    assert 255 * (full - scaled).abs().mean() < 2.0
    # The means agree closer; a rotated picture's soft edge to the black around it is wider by half.
    means = (full.mean((2, 3)) - scaled.mean((2, 3))).abs().max()
    assert 255 * means < (2.0 if name == "rotated" else 1.0)


def test_evaluation_decodes_at_full_size(photos):
    pipeline = augment.Compose([augment.Resize((32, 32))])
    batch = next(iter(evaluation_batches(photos, pipeline, batch_size=14, threads=1)))
    for index in range(14):
        image = photos.read(index)[None]
        assert torch.equal(batch.images[index], pipeline(image, key=Key(0, 0, [index]))[0])


def test_files_are_reduced_and_not_decoded_whole(photos, monkeypatch):
    decoded = []
    decode = decoding.decode_jpeg

    def watched(content, header, *rest, factor=1, **options):
        decoded.append(factor)
        return decode(content, header, *rest, factor=factor, **options)

    monkeypatch.setattr(decoding, "decode_jpeg", watched)
    pipeline = augment.Compose([augment.Resize((32, 32))])
    list(train_batches(photos, pipeline, seed=0, batch_size=14, start_images=0, stop_images=14,
                       threads=0))  # fmt: skip
    assert {1, 2, 4} <= set(decoded)


def test_memory_that_is_full_is_no_harm(photos, monkeypatch):
    from toque.data import blocks, scratch

    pipeline = augment.Compose(PIPELINES["crop"])

    def pixels():
        batches = train_batches(
            photos, pipeline, seed=0, batch_size=14, start_images=0, stop_images=14, threads=0
        )
        return next(iter(batches)).images.clone()

    expected = pixels()
    monkeypatch.setattr(blocks, "DECODED_BYTES", 20_000)
    assert torch.equal(pixels(), expected)
    monkeypatch.setattr(scratch, "_BYTES", 5_000)
    monkeypatch.setattr(blocks, "_scratch", scratch.Scratch())
    assert torch.equal(pixels(), expected)
