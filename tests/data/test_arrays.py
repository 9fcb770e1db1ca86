"""Images in memory: which layout is which, labels and their names, the fingerprint."""

import numpy as np
import pytest
import torch

from toque.data import ArraySource

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 5), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "given",
    [
        PIXELS,
        torch.from_numpy(PIXELS),
        PIXELS.transpose(0, 2, 3, 1),
        PIXELS.transpose(0, 2, 3, 1).copy(),
    ],
)
def test_every_layout_gives_the_same_images(given):
    source = ArraySource(given, LABELS)
    assert len(source) == 6
    for i in range(6):
        np.testing.assert_array_equal(source.read(i), PIXELS[i])
    many = source.read_many(np.array([4, 0, 4]))
    np.testing.assert_array_equal(many, PIXELS[[4, 0, 4]])


def test_gray_images_get_a_channel():
    source = ArraySource(PIXELS[:, 0], LABELS)
    np.testing.assert_array_equal(source.read(2), PIXELS[2, :1])


def test_the_array_is_not_copied():
    pixels = PIXELS.copy()
    source = ArraySource(pixels, LABELS)
    pixels[0] = 7
    assert (source.read(0) == 7).all()


def test_labels_and_names():
    source = ArraySource(PIXELS, torch.tensor(LABELS), names=list("abcdef"))
    assert source.classes == ("0", "1", "2")
    assert source.labels.dtype == np.int64 and source.labels.tolist() == LABELS
    assert source.item(1)[1] == 1 and source.name(5) == "f"
    assert ArraySource(PIXELS, LABELS).name(5) == "5"
    assert ArraySource(PIXELS, LABELS, ["a", "b", "c", "d"]).classes == ("a", "b", "c", "d")


def test_the_fingerprint_is_of_the_content():
    def fingerprint(pixels=PIXELS, labels=LABELS, classes=None):
        return ArraySource(pixels, labels, classes).fingerprint()

    changed = PIXELS.copy()
    changed[5, 2, 3, 4] ^= 1
    # The layout in memory is no part of the content, the shape is.
    assert fingerprint() == fingerprint(PIXELS.transpose(0, 2, 3, 1).copy())
    others = [
        fingerprint(changed),
        fingerprint(labels=[0, 1, 2, 0, 2, 1]),
        fingerprint(classes=["a", "b", "c"]),
        fingerprint(PIXELS.reshape(6, 3, 5, 4)),
    ]
    assert len({fingerprint(), *others}) == 5


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ((PIXELS.astype(np.float32), LABELS), TypeError, "images must be uint8; got torch.float32"),
        ((PIXELS[:, :, 0, 0], LABELS), ValueError, r"got \[6, 3\]"),
        ((np.zeros((6, 4, 4, 4), np.uint8), LABELS), ValueError, "1 or 3 channels"),
        ((PIXELS, [0, 1]), ValueError, "labels must be 6, one for each image; got 2"),
        ((PIXELS, [[0]] * 6), ValueError, r"labels must be of shape \[N\]"),
        ((PIXELS, list("abcdef")), TypeError, "labels must be integers or numbers; got <U1"),
        (
            (PIXELS, [[0.5, np.nan]] * 6),
            ValueError,
            r"labels must be finite; got \[0.5, nan\] at 0",
        ),
        (
            (PIXELS, [0, 1, 2, 0, 1, -1]),
            ValueError,
            "labels must be class numbers from 0; got -1 at 5",
        ),
        ((PIXELS, LABELS, ["a", "b"]), ValueError, r"labels must be in 0 .. 1; got 2"),
        ((PIXELS, LABELS, None, ["a"]), ValueError, "names must be 6, one for each image; got 1"),
    ],
)
def test_mistakes(arguments, kind, words):
    with pytest.raises(kind, match=words):
        ArraySource(*arguments)
