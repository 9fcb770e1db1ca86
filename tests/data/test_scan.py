"""The look at every file: what the quick one finds, and what only the thorough one does."""

import numpy as np
import pytest
from PIL import Image

from tests.data import pictures
from toque.data.scan import BadFile, say_bad, scan

PHOTO = (pictures.PHOTOS / "rocket.jpg").read_bytes()
# More than a quick look reads at once, with the size behind a long comment.
LONG = PHOTO[:20] + b"\xff\xfe\xff\xff" + b"x" * 65533 + PHOTO[20:] + b"\0" * 300_000
HOLE = PHOTO[: len(PHOTO) // 2] + PHOTO[len(PHOTO) // 2 + 5000 :]
PNG = pictures.png()
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (32, 24))]}
GRAY = np.zeros((8, 8), dtype=np.uint8)

FILES = {
    # content: (reason of the quick look, of the thorough one, gray, animated)
    "photo.jpg": (PHOTO, None, None, False, False),
    "long.jpg": (LONG, None, None, False, False),
    "appended.jpg": (PHOTO + b"more", None, None, False, False),
    "gray.jpg": (pictures.saved(GRAY, "JPEG"), None, None, True, False),
    "cmyk.jpg": (pictures.saved(Image.new("CMYK", (8, 8)), "JPEG"), None, None, False, False),
    "gray.png": (pictures.saved(GRAY, "PNG"), None, None, True, False),
    "colour.png": (PNG, None, None, False, False),
    "one.gif": (pictures.saved(pictures.colours(), "GIF"), None, None, False, False),
    "two.gif": (pictures.saved(pictures.colours(), "GIF", **FRAMES), None, None, False, True),
    "two.png": (pictures.saved(pictures.colours(), "PNG", **FRAMES), None, None, False, True),
    "two.jpg": (pictures.saved(pictures.colours(), "MPO", **FRAMES), None, None, False, False),
    "empty.jpg": (b"", "empty", "empty", None, None),
    "cut.jpg": (PHOTO[:-1000], "damaged or cut off", "damaged or cut off", None, None),
    "head.jpg": (PHOTO[:100], "cannot be decoded", "cannot be decoded", None, None),
    "cut.png": (PNG[:-30], "cannot be decoded", "cannot be decoded", None, None),
    "text.jpg": (b"no image", "not an image", "not an image", None, None),
    "hole.jpg": (HOLE, None, "damaged or cut off", None, None),
}


@pytest.mark.parametrize("thorough", [False, True])
def test_what_is_found(tmp_path, thorough):
    pictures.tree(tmp_path, {name: row[0] for name, row in FILES.items()})
    for name, facts in zip(FILES, scan(tmp_path, list(FILES), thorough=thorough), strict=True):
        content, *reasons, gray, animated = FILES[name]
        assert facts.size_bytes == len(content), name
        if reasons[thorough] is None:
            assert facts.reason is None, name
            if gray is not None:
                assert (facts.gray, facts.animated) == (gray, animated), name
        else:
            assert facts.reason is not None and facts.reason.startswith(reasons[thorough]), name


def test_facts_come_in_the_order_of_the_names(tmp_path):
    names = [f"{i}.png" for i in range(300)]
    pictures.tree(tmp_path, {name: PNG + b"\0" * i for i, name in enumerate(names)})
    for threads in (1, 8):
        facts = scan(tmp_path, names[::-1], threads=threads)
        assert [one.size_bytes - len(PNG) for one in facts] == list(range(299, -1, -1))
    assert scan(tmp_path, []) == []


def test_too_many_pixels(tmp_path):
    pictures.tree(tmp_path, {"a.jpg": PHOTO, "b.png": PNG})
    facts = scan(tmp_path, ["a.jpg", "b.png"], max_pixels=100)
    assert [one.reason.split(",")[0] for one in facts] == ["640 x 427 pixels", "32 x 24 pixels"]


def test_a_few_are_named_and_all_counted(tmp_path):
    bad = [BadFile(tmp_path / f"{i}.jpg", "odd") for i in range(5)]
    assert str(say_bad(bad[:1], 9)) == (
        f"data: every file must be a whole image; got 1 of 9 that cannot be used: {tmp_path}/0.jpg "
        "(odd). Mend or remove them, or leave them out with --set on_bad=skip."
    )
    assert "2.jpg (odd); and 2 more." in str(say_bad(bad, 9))
