"""The markers of a JPEG file, against what Pillow reads."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data import pictures
from toque.data import jpeg


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_size_and_components(mode, progressive, height, width):
    data = pictures.saved(Image.new(mode, (width, height)), "JPEG", progressive=progressive)
    header = jpeg.read_header(data)
    assert header == jpeg.JpegHeader(height, width, {"L": 1, "RGB": 3, "CMYK": 4}[mode], 1)


def test_long_segments_before_the_size():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = pictures.jpeg(exif=exif, icc_profile=b"p" * 200_000, comment=b"c" * 1000)
    assert jpeg.read_header(data) == jpeg.JpegHeader(24, 32, 3, 6)
    assert jpeg.read_header(data[:1000]) is None


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert jpeg.read_header(pictures.jpeg(exif=exif)).orientation == 1


@given(st.binary(max_size=200))
def test_anything_else_has_no_header_or_any(garbage):
    jpeg.read_header(b"\xff\xd8" + garbage)  # and does not raise


@given(st.data())
def test_a_changed_byte_does_not_raise(data):
    whole = bytearray(pictures.jpeg())
    whole[data.draw(st.integers(2, len(whole) - 1))] = data.draw(st.integers(0, 255))
    jpeg.read_header(bytes(whole))


def test_the_end_mark():
    whole = pictures.jpeg()
    assert jpeg.ends_well(whole) and jpeg.ends_well(whole + b"\0" * 50)
    assert not jpeg.ends_well(whole[:-1]) and not jpeg.ends_well(whole + b"x")


def test_photos():
    for name in ("china.jpg", "rocket.jpg"):
        data = (pictures.PHOTOS / name).read_bytes()
        header = jpeg.read_header(data)
        assert (header.width, header.height) == Image.open(io.BytesIO(data)).size
        assert np.asarray(Image.open(io.BytesIO(data))).ndim == header.components
