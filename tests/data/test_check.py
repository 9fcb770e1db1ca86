"""toque check: every planted fault is found, and nothing is found in clean data."""

import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.data import pictures
from toque import data
from toque.data import ArraySource, Splits, check
from toque.data.checking import near


def photo(number, size=(150, 110)):
    """A part of a shipped photo that no other number shows."""
    name = ("china.jpg", "rocket.jpg", "chelsea.png")[number % 3]
    with Image.open(pictures.PHOTOS / name) as image:
        whole = image.convert("RGB")
    step = number // 3
    left, top = 95 * (step % 3), 90 * (step // 3)
    return whole.crop((left, top, left + 180, top + 120)).resize(size, Image.Resampling.LANCZOS)


def jpeg(image, quality=92, **options):
    return pictures.saved(image, "JPEG", quality=quality, **options)


@pytest.fixture
def clean(tmp_path):
    """Ten different pictures in train and four in val, of two classes."""
    files = {}
    for number in range(14):
        part = "val" if number >= 10 else "train"
        files[f"{part}/{'a' if number % 2 else 'b'}/{number}.jpg"] = jpeg(photo(number))
    return pictures.tree(tmp_path / "photos", files)


def look(root, **options):
    return check(root, show="quiet", **options)


def of_kind(findings, kind):
    found = [finding for finding in findings.findings if finding.kind == kind]
    assert len(found) == 1, [(one.kind, one.says) for one in findings.findings]
    return found[0]


def names(finding):
    return [[item.name for item in group] for group in finding.groups]


def test_nothing_is_found_in_clean_data(clean):
    findings = look(clean)
    assert findings.findings == () and findings.clean
    train, val = findings.parts
    assert (train.name, train.num_images, train.classes) == ("train", 10, {"a": 5, "b": 5})
    assert (val.num_images, val.width, val.height) == (4, (150, 150, 150), (110, 110, 110))


def test_unreadable_files_are_named_with_their_reason(clean):
    content = jpeg(photo(20))
    files = {"cut.jpg": content[: len(content) // 2], "empty.jpg": b"", "text.jpg": b"hello"}
    pictures.tree(clean / "train" / "a", files)
    finding = of_kind(look(clean), "unreadable")
    assert finding.problem and finding.says.startswith("3 files cannot be used")
    assert names(finding) == [["a/cut.jpg"], ["a/empty.jpg"], ["a/text.jpg"]]
    for reason, words in zip(finding.remarks, ("cut off", "0 bytes", "not an image"), strict=True):
        assert words in reason


COPIES = {
    "bytes": lambda image: jpeg(image),
    "other quality": lambda image: jpeg(image, 55),
    "half the size": lambda image: jpeg(image.resize((75, 55), Image.Resampling.LANCZOS)),
    "twice the size": lambda image: jpeg(image.resize((300, 220), Image.Resampling.BICUBIC)),
    "brighter": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.12)),
    "gray": lambda image: jpeg(image.convert("L")),
    "another format": lambda image: pictures.saved(image, "PNG"),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("number", [1, 4, 8])
def test_copies_across_the_parts_are_leakage(clean, how, number):
    label = "a" if number % 2 else "b"
    pictures.tree(clean, {f"val/{label}/copy.jpg": COPIES[how](photo(number))})
    finding = of_kind(look(clean), "leakage")
    assert (
        finding.problem and "1 image of the validation part is also in the training" in finding.says
    )
    assert names(finding) == [[f"{label}/{number}.jpg", f"{label}/copy.jpg"]]
    assert finding.remarks == ("the same pixels" if how == "bytes" else "nearly the same",)


def test_leakage_under_another_label_says_so(clean):
    pictures.tree(clean, {"val/b/copy.jpg": jpeg(photo(1))})
    assert "1 times under another label" in of_kind(look(clean), "leakage").says


def test_two_labels_for_one_picture(clean):
    pictures.tree(clean, {"train/b/copy.jpg": jpeg(photo(1), 60)})
    finding = of_kind(look(clean), "contradictory")
    assert finding.problem and names(finding) == [["a/1.jpg", "b/copy.jpg"]]


def test_exact_copies_are_a_problem_and_near_ones_are_not(clean):
    pictures.tree(
        clean, {"train/a/same.jpg": jpeg(photo(1)), "train/b/less.jpg": jpeg(photo(2), 50)}
    )
    findings = look(clean)
    exact, alike = of_kind(findings, "exact duplicates"), of_kind(findings, "near duplicates")
    assert names(exact) == [["a/1.jpg", "a/same.jpg"]] and exact.problem
    assert names(alike) == [["b/2.jpg", "b/less.jpg"]] and not alike.problem


def test_the_same_pixels_in_another_file_are_an_exact_copy(clean):
    pixels = np.asarray(photo(30))
    lossless = {"one.png": pictures.saved(pixels, "PNG"), "two.bmp": pictures.saved(pixels, "BMP")}
    pictures.tree(clean / "train" / "a", lossless)
    assert names(of_kind(look(clean), "exact duplicates")) == [["a/one.png", "a/two.bmp"]]


def test_a_drawn_split_is_checked_as_it_would_be_drawn(tmp_path):
    files = {f"{'a' if n % 2 else 'b'}/{n}.jpg": jpeg(photo(n)) for n in range(14)}
    root = pictures.tree(tmp_path / "photos", files)
    splits = data.open(root, seed=5)
    name = splits.val.name(0)
    pictures.tree(
        root, {f"{name[0]}/copy{n}.jpg": jpeg(photo(int(name[2:-4])), 70) for n in range(9)}
    )
    parts = {item.part for item in of_kind(look(root, seed=5), "leakage").groups[0]}
    assert parts == {"train", "val"}


def test_odd_files_are_worth_knowing(clean):
    image = photo(40)
    exif = image.getexif()
    exif[0x0112] = 6
    see_through = image.convert("RGBA")
    see_through.putalpha(100)
    deep = (255 - np.asarray(photo(41).convert("L"))).astype(np.uint16) * np.uint16(257)
    camera = (deep >> 4).clip(0, 4095).astype(np.uint16)  # 12 of the 16 bits
    frames = [photo(42), photo(43)]
    files = {
        "turned.jpg": jpeg(image, exif=exif), "ink.jpg": jpeg(photo(44).convert("CMYK")),
        "glass.png": pictures.saved(see_through, "PNG"), "deep.png": pictures.saved(deep, "PNG"),
        "camera.png": pictures.saved(camera, "PNG"),
        "film.gif": pictures.saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "banner.jpg": jpeg(photo(45, (400, 60))),
    }  # fmt: skip
    pictures.tree(clean / "train" / "a", files)
    findings = look(clean)
    assert findings.clean
    said = {finding.says.split(". ")[0]: names(finding) for finding in findings.findings}
    assert said["1 file turned by EXIF orientation"] == [["a/turned.jpg"]]
    assert said["1 file CMYK"] == [["a/ink.jpg"]]
    assert said["1 file with transparency"] == [["a/glass.png"]]
    assert said["1 file 16 bits a pixel"] == [["a/deep.png"]]
    dark = "1 file 16 bits a pixel, of which values below 8,192 alone are used"
    assert said[dark] == [["a/camera.png"]]
    assert next(one.says for one in findings.findings if "8,192" in one.says).endswith(
        "toque keeps the upper 8, in which they are nearly black: save them as 8 bits, scaled to "
        "the values in use."
    )
    assert said["1 file animated"] == [["a/film.gif"]]
    assert said["2 files gray among coloured ones"] == [["a/camera.png"], ["a/deep.png"]]
    assert names(of_kind(findings, "sizes")) == [["a/banner.jpg"]]


def test_uneven_classes(clean):
    more = {f"train/a/more{n}.png": pictures.png(np.random.default_rng(n).integers(
        0, 256, (30, 30, 3), dtype=np.uint8)) for n in range(60)}  # fmt: skip
    pictures.tree(clean, more)
    assert "a has 65 training images and b 5" in of_kind(look(clean), "imbalance").says


def test_channel_statistics_are_those_of_the_training_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 33, 3), dtype=np.uint8)
    pixels[..., 0] //= 2
    train = ArraySource(pixels, np.arange(20) % 2, ["a", "b"])
    val = ArraySource(255 - pixels[:5], np.arange(5) % 2, ["a", "b"])
    findings = look(Splits(train, val, ("a", "b"), (), 3))
    np.testing.assert_allclose(findings.mean, pixels.mean((0, 1, 2)) / 255, atol=1e-4)
    np.testing.assert_allclose(findings.std, pixels.std((0, 1, 2)) / 255, atol=1e-4)
    assert findings.clean


def test_a_cache_is_checked_like_its_folder(clean, tmp_path):
    pictures.tree(clean, {"val/a/copy.jpg": jpeg(photo(1))})
    data.pack(clean, tmp_path / "cache", show="quiet")
    assert names(of_kind(look(tmp_path / "cache"), "leakage")) == [["a/1.jpg", "a/copy.jpg"]]


def test_everything_can_be_written_as_json(clean):
    pictures.tree(clean, {"train/b/copy.jpg": jpeg(photo(1))})
    content = json.loads(json.dumps(look(clean).as_dict()))
    assert content["clean"] is False and content["findings"][0]["kind"] == "contradictory"
    assert content["findings"][0]["groups"][0][1]["name"] == "b/copy.jpg"


# The search --------------------------------------------------------------------------------------


def test_the_search_finds_what_comparing_all_with_all_finds():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (300, 16), dtype=np.uint8)
    for copy in range(100, 300):  # copies of the first hundred with 0 .. 19 bits changed
        bits = np.unpackbits(hashes[copy - 100 * (copy // 100)])
        bits[rng.choice(128, copy % 20, replace=False)] ^= 1
        hashes[copy] = np.packbits(bits)
    thumbs = np.tile(rng.integers(0, 256, 324, dtype=np.uint8), (300, 1))
    thumbs[250:] = rng.integers(0, 256, (50, 324), dtype=np.uint8)  # alike in hash alone
    distance = (np.unpackbits(hashes, axis=1)[:, None] != np.unpackbits(hashes, axis=1)[None]).sum(
        2
    )
    centred = thumbs.astype(float) - thumbs.mean(1, keepdims=True)
    correlation = np.corrcoef(centred)
    close = (distance <= near.MOST_BITS) & (correlation >= near.LEAST_CORRELATION)
    expected = {(i, j) for i, j in np.argwhere(close).tolist() if i < j}
    found = near.near_pairs(hashes, thumbs, np.full(300, near.LEAST_CORRELATION))
    found = {tuple(pair) for pair in found.tolist()}
    assert found <= expected and len(expected) > 60
    assert near.groups(np.array(sorted(found)), 300) == near.groups(np.array(sorted(expected)), 300)


def test_groups_join_through_others():
    pairs = np.array([[5, 9], [1, 2], [2, 8], [8, 1], [9, 7]])
    assert near.groups(pairs, 10) == [[1, 2, 8], [5, 7, 9]]
    assert near.groups(np.empty((0, 2), int), 10) == []


def test_bits_are_counted():
    words = np.random.default_rng(0).integers(0, 2**63, (50, 2), dtype=np.uint64)
    expected = [bin(int(a)).count("1") + bin(int(b)).count("1") for a, b in words]
    assert near.count_bits(words).tolist() == expected


def test_pictures_of_one_colour_are_near_only_those_of_the_same():
    pixels = np.stack([np.full((40, 40, 3), level, np.uint8) for level in (30, 30, 31, 200, 90)])
    found = [near.signature(one) for one in pixels]
    pairs = near.near_pairs(
        np.stack([bits for bits, _ in found]),
        np.stack([thumb for _, thumb in found]),
        np.full(5, 0.985),
    )
    assert near.groups(pairs, 5) == [[0, 1, 2]]


# The page ----------------------------------------------------------------------------------------


def test_the_page_shows_each_finding_and_escapes_names(clean):
    from toque.train.report.check_page import render_check

    evil = "<script>alert(1)</script>.jpg".replace("/", "∕")
    pictures.tree(clean, {f"val/a/{evil}": jpeg(photo(1)), "train/a/bad.jpg": b"x"})
    findings = look(clean)
    page = render_check(findings)
    assert page == render_check(findings)
    assert "<script" not in page and "&lt;script&gt;" in page
    for finding in findings.findings:
        assert finding.says.split(" (")[0][:40] in page.replace("&#39;", "'")
    assert page.count("<img") == 2 and "data:image/webp;base64," in page
    assert "a/bad.jpg" in page and "http" not in page.replace("http-equiv", "")


def test_a_page_of_small_gray_pictures(tmp_path):
    from toque.train.report.check_page import write_check

    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 12), dtype=np.uint8)
    pixels[5] = pixels[0]
    source = ArraySource(pixels, np.arange(6) % 2, ["a", "b"])
    findings = look(Splits(source, ArraySource(255 - pixels[:2], [0, 1]), ("a", "b"), (), 1))
    write_check(tmp_path / "check.html", findings)
    assert (tmp_path / "check.html").read_text().count("image/png") == 2
    with pytest.raises(FileNotFoundError, match="Make the folder"):
        write_check(tmp_path / "none" / "check.html", findings)


def test_several_labels_of_an_image(tmp_path):
    """What the labels of a table say together: the ones of 12 images for training and 3 others."""
    rows = ["path,labels,split"]
    train = [
        "dog|pet", "pet", "dog|pet|day", "sky|blue", "dog|pet", "", "sky|blue|day",
        "sky|blue", "sky|blue|pet|once", "dog|pet|day", "sky|blue", "dog|pet",
    ]  # fmt: skip
    for number, labels in enumerate([*train, "pet|cat", "sky|blue", "day|dog|pet"]):
        pictures.tree(tmp_path, {f"{number:02}.jpg": jpeg(photo(number))})
        rows.append(f"{number:02}.jpg,{labels},{'train' if number < len(train) else 'val'}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    findings = look(tmp_path / "t.csv")
    assert {one.kind for one in findings.findings} == {"labels", "parts"}
    says = {one.says.partition(":")[0]: one for one in findings.findings}
    assert [one.says for one in findings.problems] == [says["In validation images alone"].says]
    assert "alone: cat. They cannot be learnt" in findings.problems[0].says
    assert "image: once. No score" in says["On no validation image"].says
    assert (
        "images: blue and sky (5 images). Nothing"
        in says["Always together on training images"].says
    )
    assert "dog always with pet (5 images). Fine" in says["Never alone on training images"].says
    (none,) = [one for one in findings.findings if "without any label" in one.says]
    assert names(none) == [["05.jpg"]] and none.groups[0][0].label == "none"
    counts = {"pet": 7, "blue": 5, "day": 3, "dog": 5, "once": 1, "sky": 5}
    assert findings.parts[0].classes == counts


def test_labels_that_are_everywhere_nowhere_or_far_rarer_than_others():
    draw = np.random.default_rng(0)
    labels = np.zeros((120, 4), np.float32)
    labels[:, 0], labels[0, 1], labels[:100, 2] = 1, 1, 1
    images = draw.integers(0, 256, (120, 3, 24, 24)).astype(np.uint8)
    names_of = ["all", "one", "most", "none"]
    train = ArraySource(images[:110], labels[:110], names_of)
    val = ArraySource(images[110:], labels[110:], names_of)
    findings = look(Splits(train, val, train.classes, (), 3))
    says = [one.says for one in findings.findings if one.kind in ("labels", "imbalance")]
    assert any(one.startswith("On every training image: all. A label") for one in says)
    assert any(one.startswith("On no image at all: none. Leave") for one in says)
    assert any("all is on 110 training images and one on 1. Consider" in one for one in says)
