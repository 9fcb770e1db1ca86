"""Data as people have it: each mess is either read rightly or named in one sentence."""

import numpy as np
import pytest
from PIL import Image

from tests.data.pictures import png_by_hand, saved
from tests.data.pictures import tree as put
from toque import checks, data
from toque.data import Columns

NUM = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (NUM, 9, 8, 3), dtype=np.uint8)
NAMES = [f"p/{n}.png" for n in range(NUM)]
LABELS = ["cat", "dog"] * (NUM // 2)


@pytest.fixture
def root(tmp_path):
    return put(tmp_path, {name: saved(PIXELS[n], "PNG") for n, name in enumerate(NAMES)})


def table(root, rows, *, head="path,label", end="\n", encoding="utf-8", name="t.csv"):
    text = "".join(line + end for line in [head, *(",".join(map(str, row)) for row in rows)])
    (root / name).write_bytes(text.encode(encoding))
    return root / name


ROWS = list(zip(NAMES, LABELS, strict=True))


def opened(path, **settings):
    return data.open(path, seed=0, **settings)


def contents(splits):
    """name -> (pixels, class) of every image."""
    return {
        part.name(n): (part.read(n).permute(1, 2, 0).numpy(), part.classes[part.labels[n]])
        for part in (splits.train, splits.val)
        for n in range(len(part))
    }


def assert_all_there(splits, names=NAMES):
    found = contents(splits)
    assert sorted(found) == sorted(names)
    for n, name in enumerate(names):
        assert np.array_equal(found[name][0], PIXELS[n]) and found[name][1] == LABELS[n]


# --- tables ---


def with_spaces(rows):
    return [(f" {path} ", f"  {label}") for path, label in rows]


def with_an_index(rows):
    return [(n, *row) for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "how"),
    [
        (ROWS, {"encoding": "utf-8-sig"}),
        (ROWS, {"end": "\r\n"}),
        (ROWS, {"end": "\r\n", "encoding": "utf-8-sig", "name": "T.CSV"}),
        (ROWS, {"end": "\r\n\r\n"}),
        (with_spaces(ROWS), {"head": "Path , LABEL"}),
        (with_an_index(ROWS), {"head": ",path,label"}),
        ([(*row, "") for row in ROWS], {"head": "path,label,"}),
    ],
    ids=["BOM", "Windows", "Excel", "empty lines", "spaces", "index", "trailing comma"],
)
def test_tables_that_read_as_they_were_meant(root, rows, how):
    assert_all_there(opened(table(root, rows, **how)))


def test_backslashes_are_slashes_unless_a_file_is_called_so(root):
    rows = [(path.replace("/", "\\"), label) for path, label in ROWS]
    assert_all_there(opened(table(root, rows)))
    odd = saved(PIXELS[3] // 2, "PNG")
    put(root, {"p\\3.png": odd})
    found = contents(opened(table(root, rows)))
    assert np.array_equal(found["p\\3.png"][0], PIXELS[3] // 2) and "p/3.png" not in found


def test_paths_from_the_table_and_whole_paths(root):
    inner = [("../" + path, label) for path, label in ROWS]
    (root / "tables").mkdir()
    splits = opened(table(root / "tables", inner))
    assert_all_there(splits, ["../" + name for name in NAMES])
    whole = [(str(root / path), label) for path, label in ROWS]
    assert_all_there(opened(table(root / "tables", whole)), [str(root / n) for n in NAMES])


def test_rows_that_come_again_are_counted_and_said(root):
    splits = opened(table(root, ROWS + ROWS[:3]))
    assert len(splits.train) + len(splits.val) == NUM + 3
    assert splits.notes == (
        "Rows that name a file again, and count again: 3 (p/0.png, p/1.png, p/2.png).",
    )
    names = [{part.name(n) for n in range(len(part))} for part in (splits.train, splits.val)]
    assert not names[0] & names[1]  # the same file is drawn to the same side
    rare = [*ROWS[:10], *[("p/10.png", "cow")] * 2, *[("p/11.png", "cow")] * 2]
    for seed in range(9):  # neither side is left without a cow, and no file is on both
        splits = data.open(table(root, rare), seed=seed)
        cows = [
            {part.name(n) for n in np.flatnonzero(part.labels == 1)}
            for part in (splits.train, splits.val)
        ]
        assert sorted(map(len, cows)) == [1, 1] and not cows[0] & cows[1]
    twice = [*ROWS[:11], *[("p/11.png", "cow")] * 2]
    assert all(1 not in data.open(table(root, twice), seed=n).val.labels for n in range(9))
    contrary = opened(table(root, [*ROWS, ("p/0.png", "dog")]))
    assert contrary.notes[1] == "Files with another label in another row: 1 (p/0.png)."
    given = [(*row, "train") for row in ROWS] + [
        ("p/4.png", "cat", "val"),
        ("p/5.png", "dog", "val"),
    ]
    leaked = opened(table(root, given, head="path,label,split"))
    assert leaked.notes[1:] == (
        "Files both in train and in val, which makes val too good: 2 (p/4.png, p/5.png).",
    )
    assert opened(table(root, ROWS)).notes == ()
    # A class of val alone cannot be learnt: it is said, as a class folder of val alone is refused.
    untaught = opened(
        table(root, [*given[:-2], ("p/4.png", "emu", "val")], head="path,label,split")
    )
    assert untaught.notes[-1] == "Classes that no training image has: 1 (emu)."


def test_a_class_for_every_image_is_refused(root):
    rows = [(f"p/{n}.png", "old" if n == 4 else f"{n}.5") for n in range(8)]
    with pytest.raises(ValueError, match=r"classes of several images each.*set task=regression"):
        opened(table(root, rows))


@pytest.mark.parametrize(
    ("rows", "how", "words"),
    [
        (ROWS, {"encoding": "utf-16"}, r"t.csv must be UTF-8 text; got another encoding"),
        ([("https://x.org/1.png", "cat"), *ROWS], {}, r"every path must be of a file beside the table.*; got https://x.org/1.png in row 1"),
        ([("p/0\0.png", "cat"), *ROWS], {}, r"every path must be a file; got a zero byte in row 1"),
        ([("", "cat"), *ROWS], {}, r"every path must be a file; got nothing in row 1"),
        ([(*row, "x") for row in ROWS], {"head": "path,label,label"}, r"the columns must be of different names; got label twice"),
        ([], {}, r"a table with rows; got none"),
        ([("p", "cat"), *ROWS], {}, r"1 of 13 that cannot be used: .*/p \(a folder\)"),
        ([("p/99.png", "cat"), *ROWS], {}, r"1 of 13 .*99.png \(cannot be read: No such file"),
        ([("C:\\p\\0.png", "cat"), *ROWS], {}, r"1 of 13 .*C:/p/0.png \(cannot be read: No such file"),
        ([(path, "nan" if n == 3 else n / 2) for n, path in enumerate(NAMES)], {}, r"every label must be a finite number, as the others are; got 'nan' at 4"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(root, rows, how, words):
    with pytest.raises(checks.UserMistake, match=words):
        opened(table(root, rows, **how))


def test_one_class_is_refused_before_anything_is_written(root, toque):
    path = table(root, [(path, "cat") for path in NAMES])
    code, _, words = toque("train", path, "--out", root / "run")
    assert code == 2 and "the number of classes must be at least 2; got only cat" in words
    assert not (root / "run").exists() and len(opened(path, columns=Columns()).train) > 0


# --- folders ---


def folders(root, **more):
    files = {f"{kind}/{n}.{('JPG', 'PnG', 'jpeg')[n % 3]}": PIXELS[n + 6 * (kind == "dog")]
             for kind in ("cat", "dog") for n in range(6)}  # fmt: skip
    return put(root / "photos", {
        name: saved(pixels, "PNG" if name.endswith("PnG") else "JPEG")
        for name, pixels in files.items()
    } | more)  # fmt: skip


def test_endings_of_any_case_and_links_are_read(root):
    photos = folders(root)
    (photos / "cat/link.png").symlink_to(root / "p/3.png")
    (photos / "dog/more").symlink_to(root / "p")
    found = contents(opened(photos))
    assert len(found) == 12 + 1 + NUM
    assert np.array_equal(found["cat/link.png"][0], PIXELS[3])
    assert found["dog/more/7.png"][1] == "dog" and np.array_equal(
        found["dog/more/7.png"][0], PIXELS[7]
    )


def test_links_that_lead_nowhere_or_back(root):
    photos = folders(root)
    (photos / "cat/gone.png").symlink_to("/nowhere/x.png")
    with pytest.raises(ValueError, match=r"1 of 13 .*gone.png \(cannot be read: No such file"):
        opened(photos)
    skipped = opened(photos, on_bad="skip")
    assert len(contents(skipped)) == 12 and [bad.path.name for bad in skipped.bad] == ["gone.png"]
    (photos / "cat/gone.png").unlink()
    (photos / "cat/self.png").symlink_to("self.png")
    with pytest.raises(ValueError, match=r"self.png \(cannot be read: Too many levels of symbolic"):
        opened(photos)
    (photos / "cat/self.png").unlink()
    (photos / "cat/back").symlink_to(photos)
    with pytest.raises(
        ValueError, match=r"without loops; got .*cat/back, a link to a folder above"
    ):
        opened(photos)


def test_class_folders_without_images(root):
    photos = folders(root)
    (photos / "cow").mkdir()
    with pytest.raises(
        ValueError, match=r"every class folder must be filled; got no images in .*cow"
    ):
        opened(photos)
    put(photos, {"cow/.DS_Store": b"x", "cow/Thumbs.db": b"x"})
    with pytest.raises(ValueError, match=r"must be filled; got no images in .*cow"):
        opened(photos)
    put(photos, {"cow/readme.txt": b"cows will follow"})
    other = r"no images in .*cow but other files: 3 \(1 .DS_Store, 1 .txt, 1 Thumbs.db\)"
    with pytest.raises(ValueError, match=other):
        opened(photos)
    put(photos, {"cow/1.jpg": b"cows will follow"})
    with pytest.raises(ValueError, match=r"cow/1.jpg \(not an image of a known kind\)"):
        opened(photos)
    with pytest.raises(ValueError, match=r"left with an image; got only bad files in .*cow"):
        opened(photos, on_bad="skip")


@pytest.mark.parametrize(("here", "there"), [("val", "train"), ("train", "val")])
def test_a_class_of_one_part_alone(tmp_path, here, there):
    files = {f"{part}/{kind}/{n}.png": saved(PIXELS[n], "PNG")
             for part in ("train", "val") for kind in ("cat", "dog") for n in range(2)}  # fmt: skip
    put(tmp_path, files | {f"{here}/cow/1.png": saved(PIXELS[5], "PNG")})
    words = rf"{here} must be those in .*{there}; got also cow\. .*Add .*{there}/cow, or remove .*{here}/cow"
    with pytest.raises(ValueError, match=words):
        opened(tmp_path)
    (tmp_path / there / "cow").mkdir()
    with pytest.raises(ValueError, match=rf"must be filled; got no images in .*{there}/cow"):
        opened(tmp_path)


# --- huge images ---


def claiming(height, width):
    """A PNG of few bytes whose header claims a size."""
    return png_by_hand(np.zeros((1, 1), np.uint16), 0, 16, height=height, width=width)


@pytest.mark.parametrize("size", [(60_000, 60_000), (14_000, 12_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_unread_in_folders_and_tables(root, size):
    photos = folders(root, **{"cat/bomb.png": claiming(*size)})
    words = r"1 of 13 .*bomb.png \(.* pixels.*: a mistake or a bomb\)"
    with pytest.raises(ValueError, match=words):
        opened(photos)
    assert len(contents(opened(photos, on_bad="skip"))) == 12
    put(root, {"p/bomb.png": claiming(*size)})
    with pytest.raises(ValueError, match=words):
        opened(table(root, [*ROWS, ("p/bomb.png", "cat")]))


def test_a_jpeg_that_claims_a_size(root):
    content = bytearray(saved(Image.fromarray(PIXELS[0]), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = (65_000).to_bytes(2) + (65_000).to_bytes(2)
    photos = folders(root, **{"cat/bomb.jpg": bytes(content)})
    with pytest.raises(ValueError, match=r"bomb.jpg \(65000 x 65000 pixels, above max_pixels"):
        opened(photos)
    assert len(content) < 2000
