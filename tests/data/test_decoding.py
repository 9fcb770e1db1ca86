"""Decoding: every kind of image as Pillow sees it, and every damage as an error."""

import io
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.data import pictures
from toque import checks
from toque.data import UnreadableImage, decode

UPRIGHT = pictures.colours()


def as_rows(image):
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["china.jpg", "rocket.jpg", "chelsea.png"])
def test_photos_are_decoded_as_by_pillow(name):
    path = pictures.PHOTOS / name
    image = decode(path)
    reference = np.asarray(Image.open(path).convert("RGB"))
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(as_rows(image), reference)


def test_what_a_file_is_its_content_says(tmp_path):
    (tmp_path / "a.jpg").write_bytes(pictures.png())
    (tmp_path / "b.txt").write_bytes(pictures.jpeg())
    np.testing.assert_array_equal(as_rows(decode(tmp_path / "a.jpg")), UPRIGHT)
    assert decode(str(tmp_path / "b.txt")).shape == (3, 24, 32)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_other_formats(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(
        as_rows(decode(pictures.saved(UPRIGHT, kind, **options))), UPRIGHT
    )


GRAY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_gray_stays_one_channel_unless_asked(kind):
    data = pictures.saved(GRAY, kind, **({"quality": 100} if kind == "JPEG" else {}))
    gray = decode(data)
    assert gray.shape == (1, 16, 16)
    np.testing.assert_allclose(gray[0].numpy().astype(int), GRAY, atol=2)
    np.testing.assert_array_equal(decode(data, channels=3), gray.expand(3, -1, -1))


@pytest.mark.parametrize("data", [pictures.jpeg(), pictures.png()])
def test_colour_as_gray_is_its_luma(data):
    luma = UPRIGHT @ np.array([0.299, 0.587, 0.114])
    gray = decode(data, channels=1)
    assert gray.shape == (1, 24, 32)
    flat = (slice(4, 8), slice(4, 12))  # away from the edges of the quarters
    np.testing.assert_allclose(gray[0].numpy()[flat], luma[flat], atol=2)


def test_palette():
    palette = Image.fromarray(UPRIGHT).quantize(4)
    np.testing.assert_array_equal(
        as_rows(decode(pictures.saved(palette, "PNG"))), palette.convert("RGB")
    )


def test_one_bit():
    image = Image.fromarray(GRAY > 127)
    assert image.mode == "1"
    np.testing.assert_array_equal(
        decode(pictures.saved(image, "PNG"))[0].numpy(), (GRAY > 127) * 255
    )


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_is_read_the_right_way_round(adobe):
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    if adobe:
        data = pictures.saved(red, "JPEG", quality=95)  # Pillow writes Adobe's inverted values
        assert b"Adobe" in data
    else:
        data = pictures.saved(red, "TIFF")
    pixels = as_rows(decode(data))
    assert pixels.shape == (16, 16, 3)
    assert (pixels[..., 0] > 245).all() and (pixels[..., 1:] < 10).all()


WIDE = (np.arange(256, dtype=np.uint32).reshape(16, 16) * 257).astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_gray_is_scaled_not_clipped(kind):
    data = pictures.saved(Image.fromarray(WIDE), kind)
    np.testing.assert_array_equal(decode(data)[0].numpy(), GRAY)
    assert decode(data, channels=3).shape == (3, 16, 16)


def test_16_bit_big_endian_tiff():
    image = Image.frombytes("I;16B", (16, 16), WIDE.astype(">u2").tobytes())
    np.testing.assert_array_equal(decode(pictures.saved(image, "TIFF"))[0].numpy(), GRAY)


def test_16_bit_colour():
    pixels = np.stack([WIDE, WIDE.T, WIDE[::-1]], axis=-1)
    data = pictures.png_by_hand(pixels.reshape(16, 48), 2, width=16)
    np.testing.assert_array_equal(as_rows(decode(data)), pixels // 257)


def test_float_pixels_are_refused():
    with pytest.raises(UnreadableImage, match="no known range"):
        decode(pictures.saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    alpha = np.array([[0, 51, 255]], dtype=np.uint8)
    colour = np.full((1, 3), 100, dtype=np.uint8)
    image = Image.fromarray(np.dstack([*[colour] * (len(mode) - 1), alpha]), mode=None)
    pixels = as_rows(decode(pictures.saved(image, "PNG")))
    assert pixels.shape == (1, 3, len(mode) - 1)
    assert pixels[0, :, 0].tolist() == [255, 224, 100]  # 255 - alpha / 255 * 155


def test_transparent_entry_of_a_palette_is_white():
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    pixels = as_rows(decode(pictures.saved(image, "PNG", transparency=1)))
    assert pixels[0].tolist() == [[10, 20, 30], [255, 255, 255]]


# How a camera held in each way stores the upright scene (Exif 2.32, Orientation).
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](UPRIGHT))
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    pixels = as_rows(decode(pictures.saved(stored, kind, exif=exif, **options)))
    assert pixels.shape == UPRIGHT.shape
    np.testing.assert_allclose(pixels.astype(int), UPRIGHT, atol=12 if kind == "JPEG" else 0)


@given(orientation=st.integers(0, 9), order=st.sampled_from("<>"), before=st.integers(0, 5))
def test_orientation_is_found_where_pillow_finds_it(orientation, order, before):
    entries = [(0x010E + i, 3, 1, 7) for i in range(before) if 0x010E + i != 0x0112]
    entries.append((0x0112, 3, 1, orientation))
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    for entry in entries:
        block += struct.pack(order + "HHIHH", *entry, 0)
    data = pictures.jpeg(exif=b"Exif\0\0" + block + b"\0\0\0\0")
    reference = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(as_rows(decode(data)), reference)


@given(st.binary(max_size=120))
def test_a_damaged_exif_block_does_not_stop_the_image(block):
    assert decode(pictures.jpeg(exif=b"Exif\0\0" + block)).shape[0] == 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animated_file_gives_its_first_frame(kind):
    second = Image.fromarray(255 - UPRIGHT)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = pictures.saved(UPRIGHT, kind, save_all=True, append_images=[second], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    np.testing.assert_array_equal(as_rows(decode(data)), UPRIGHT)


PHOTO = (pictures.PHOTOS / "rocket.jpg").read_bytes()
PROGRESSIVE = pictures.saved(Image.open(io.BytesIO(PHOTO)), "JPEG", progressive=True)


@pytest.mark.parametrize("whole", [PHOTO, PROGRESSIVE])
@given(kept=st.floats(0, 1))
def test_a_cut_off_jpeg_is_never_filled_up(whole, kept):
    with pytest.raises(UnreadableImage, match=r"cat\.jpg"):
        decode(whole[: int(kept * (len(whole) - 1))], name="cat.jpg")


@pytest.mark.parametrize("whole", [PHOTO, PROGRESSIVE])
def test_a_jpeg_with_a_missing_middle_or_end_is_an_error(whole):
    half = len(whole) // 2
    for damaged in (whole[:half] + b"\xff\xd9", whole[:-1], whole[:-2]):
        with pytest.raises(UnreadableImage, match="damaged or cut off"):
            decode(damaged)


LOSSLESS = {kind: pictures.saved(UPRIGHT, kind) for kind in ("PNG", "GIF", "BMP", "TIFF", "PPM")}


@pytest.mark.parametrize("kind", LOSSLESS)
@given(kept=st.floats(0, 1))
def test_another_cut_off_file_is_an_error_unless_no_pixel_is_lost(kind, kept):
    whole = LOSSLESS[kind]
    cut_off = whole[: int(kept * (len(whole) - 1))]
    try:
        image = decode(cut_off)
    except UnreadableImage:
        return
    assert len(cut_off) > len(whole) - 24  # a checksum and the end mark of a PNG
    np.testing.assert_array_equal(as_rows(image), UPRIGHT)


def test_bytes_after_the_end_do_no_harm():
    expected = decode(PHOTO)
    for tail in (b"\0" * 100, b"appended by some program"):
        assert torch.equal(decode(PHOTO + tail), expected)


def test_a_harmless_warning_of_libjpeg_is_passed_over():
    version = PHOTO.index(b"JFIF\0") + 5
    odd = PHOTO[:version] + b"\0" + PHOTO[version + 1 :]
    import simplejpeg

    with pytest.raises(ValueError, match="JFIF revision"):
        simplejpeg.decode_jpeg(odd, strict=True)
    assert torch.equal(decode(odd), decode(PHOTO))


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0"]),
)
def test_garbage_is_an_error_that_names_the_file(garbage, start):
    with pytest.raises(
        UnreadableImage, match=r"^data: every file must be a whole image; got x.jpg \("
    ):
        decode(start + garbage, name="x.jpg")


WHOLE = {
    kind: pictures.saved(UPRIGHT, kind)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged metadata
@pytest.mark.parametrize("kind", WHOLE)
@given(places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes_give_an_image_or_the_error(kind, places):
    data = bytearray(WHOLE[kind])
    for place, value in places:
        data[int(place * len(data))] = value
    try:
        image = decode(bytes(data), max_pixels=10**6)
    except UnreadableImage:
        return
    assert image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] in (1, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_by_their_header():
    pixels = np.zeros((4, 4), dtype=np.uint16)
    with pytest.raises(UnreadableImage, match=r"Image size \(1600000000 pixels\) exceeds limit"):
        decode(pictures.png_by_hand(pixels, 0, height=40_000, width=40_000), max_pixels=10**10)
    bomb = pictures.png_by_hand(pixels, 0, height=40_000, width=3_000)
    with pytest.raises(UnreadableImage, match=r"3000 x 40000 pixels, above max_pixels = 100000000"):
        decode(bomb)
    size = PHOTO.index(b"\xff\xc0") + 5
    with pytest.raises(UnreadableImage, match="65535 x 65535"):
        decode(PHOTO[:size] + b"\xff\xff\xff\xff" + PHOTO[size + 4 :])
    with pytest.raises(UnreadableImage, match="max_pixels = 100"):
        decode(PHOTO, max_pixels=100)


def test_empty_and_missing_files(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(UnreadableImage, match=r"empty.jpg \(empty, 0 bytes\)"):
        decode(tmp_path / "empty.jpg")
    with pytest.raises(FileNotFoundError, match=r"nothing at .*gone.jpg. Put the file back"):
        decode(tmp_path / "gone.jpg")
    with pytest.raises(UnreadableImage, match="cannot be read"):
        decode(tmp_path)
    assert issubclass(UnreadableImage, checks.UserMistake)
