"""What the markers of a JPEG file say, read without decoding it.

Source: ITU-T T.81, annex B (markers); Exif 2.32, section 4.6.4 (Orientation, tag 0x0112)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

START = b"\xff\xd8\xff"
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_APPLICATION_1 = 0xE1
# SOF0 .. SOF15 hold the size; DHT, JPG and DAC share their range.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class JpegHeader:
    """Size, number of components (1 gray, 3 colour, 4 CMYK) and EXIF orientation (1 .. 8)."""

    height: int
    width: int
    components: int
    orientation: int


def read_header(data: bytes) -> JpegHeader | None:
    """The header, or None where the markers before the first scan do not give one."""
    orientation, position = 1, 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:  # a fill byte, or a marker standing alone
            position += 1 if marker == 0xFF else 2
            continue
        if marker == _START_OF_SCAN:
            return None
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = data[position + 4 : position + 2 + length]
        if marker in _START_OF_FRAME:
            if len(body) < 6:
                return None
            height, width, components = struct.unpack_from(">HHB", body, 1)
            return JpegHeader(height, width, components, orientation)
        if marker == _APPLICATION_1 and body.startswith(b"Exif\0\0"):
            orientation = _orientation(body[6:])
        position += 2 + length
    return None


def _orientation(tiff: bytes) -> int:
    """Orientation out of an Exif block; 1, as it is, where the block is damaged or silent."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (offset,) = struct.unpack_from(order + "I", tiff, 4)
    if offset + 2 > len(tiff):
        return 1
    (num_entries,) = struct.unpack_from(order + "H", tiff, offset)
    for entry in range(num_entries):
        place = offset + 2 + 12 * entry
        if place + 12 > len(tiff):
            break
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, place)
        if tag == _ORIENTATION and kind == 3 and 1 <= value <= 8:
            return int(value)
    return 1


def ends_well(tail: bytes) -> bool:
    """Whether the last bytes of the file are the end marker, perhaps followed by zero padding.

    False is not yet damage: some writers append other bytes. Only decoding can tell.
    """
    return tail.rstrip(b"\0").endswith(_END_OF_IMAGE)
