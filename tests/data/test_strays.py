"""Files beside and among the images, and parts of the data that a run does not use: all is said."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.data import pictures
from toque import checks, data
from toque.data import given, strays

JPEG, PNG = pictures.jpeg(), pictures.png()


def opened(root, **settings):
    return data.open(root, seed=0, **settings)


def names(splits):
    return sorted(part.name(i) for part in (splits.train, splits.val) for i in range(len(part)))


@pytest.fixture
def photos(tmp_path):
    return pictures.folder(tmp_path / "photos", {"cat": 4, "dog": 4})


def test_what_is_no_image_by_its_name_is_passed_over_and_counted(photos):
    clean = opened(photos)
    sidecars = {f"{kind}/{n}.json": b"{}" for kind in ("cat", "dog") for n in range(4)}
    pictures.tree(
        photos,
        {
            **sidecars, "cat/list.CSV": b"x", "cat/deep/notes.txt": b"x", "dog/more.zip": b"PK",
            "dog/raw.cr2": b"II*\0 which a TIFF begins with, too", "cat/Thumbs.db": b"x",
            "cat/.DS_Store": b"x", "cat/._0.jpg": b"x", "dog/._1.jpg": b"x",
            "dog/.cache/old.jpg": JPEG, "README": b"beside the classes", "dog/README": b"words",
        },
    )  # fmt: skip
    splits = opened(photos)
    assert names(splits) == names(clean) and splits.bad == ()
    assert splits.train.fingerprint() == clean.train.fingerprint()
    assert splits.notes == (
        "Files passed over, hidden or no images by their names: 18 "
        "(8 .json, 2 ._*, 1 .DS_Store, 1 .cache, 1 .cr2, 1 .csv, 4 others).",
    )
    assert opened(photos, on_bad="skip").notes == splits.notes


def test_an_ending_that_is_no_word_leaves_it_to_the_first_bytes(tmp_path):
    files = {"0001": JPEG, "a.jpg_large": JPEG, "b.jpg.2": PNG, "Dr. Who": PNG, "c": b"GIF89a",
             "d": b"BM\x10\0\0\0\0\0\0\0", "e": b"RIFF\0\0\0\0WEBP", "f": b"II*\0"}  # fmt: skip
    others = {
        "LICENSE": b"BMW may be named here",
        "g.01": b"RIFF\0\0\0\0WAVE",
        "h": b"",
        "i~": b"x",
    }
    pictures.tree(tmp_path, {**files, **others, "j.jpeg.crdownload": JPEG, "k.JPEG": b"no matter"})
    found, passed = data.images_below(tmp_path)
    assert set(found) == {*files, "k.JPEG"}
    assert set(passed) == {*others, "j.jpeg.crdownload"}


def test_an_image_by_its_ending_that_is_none_stays_the_business_of_the_run(photos):
    pictures.tree(photos, {"cat/empty.heic": b"", "dog/9.jxl": b"\xff\x0a"})
    with pytest.raises(data.UnreadableImage, match=r"2 of 10 that cannot be used: .*empty.heic"):
        opened(photos)
    assert [one.path.name for one in opened(photos, on_bad="skip").bad] == ["empty.heic", "9.jxl"]


def test_images_beside_the_class_folders_are_said(photos):
    pictures.tree(photos, {"lost.jpg": JPEG, "also.PNG": PNG})
    assert opened(photos).notes == (
        "Images beside the class folders, which belong to no class, passed over: "
        "2 (1 .jpg, 1 .png). Move them into a folder of their class.",
    )


def test_many_kinds_are_said_in_a_line():
    assert strays.counted([f"a/{n}.x{n}" for n in range(9)] + ["a/9.x3"]) == (
        "10 (2 .x3, 1 .x0, 1 .x1, 1 .x2, 1 .x4, 1 .x5, 3 others)"
    )


def test_check_lists_them(photos, toque, tmp_path):
    pictures.tree(photos, {"cat/0.json": b"{}", "cat/1.json": b"{}", "lost.jpg": JPEG})
    found = data.check(photos, show="quiet")
    listed = [one for one in found.findings if one.kind == "passed over"]
    assert [[str(item) for group in one.groups for item in group] for one in listed] == [
        ["train: cat/0.json", "train: cat/1.json"], ["train: lost.jpg"],
    ]  # fmt: skip
    assert all(not one.problem for one in listed)
    _, stdout, _ = toque("check", photos, "--out", tmp_path / "check.html")
    assert "train: cat/0.json [cat]" in stdout and "names: 2 (.json)" in stdout
    assert "cat/1.json" in (tmp_path / "check.html").read_text()
    _, stdout, _ = toque("check", photos, "--json")
    assert json.loads(stdout)["findings"][-1]["groups"][0][0]["name"] == "lost.jpg"


def test_masks_with_files_between_them(tmp_path):
    gray = np.zeros((24, 32), np.uint8)
    gray[:, 9:] = 1
    pictures.tree(
        tmp_path,
        {f"images/{n}.jpg": JPEG for n in range(6)}
        | {f"masks/{n}.png": pictures.png(gray) for n in range(6)}
        | {"images/0.json": b"{}", "masks/notes.txt": b"x", "README.md": b"x"},
    )
    splits = opened(tmp_path)
    assert len(splits.train) + len(splits.val) == 6
    assert splits.notes == ("Files passed over, hidden or no images by their names: 2 "
                            "(1 .json, 1 .txt).",)  # fmt: skip


def test_a_stray_beside_a_packed_folder_does_not_age_it(photos, tmp_path):
    data.pack(photos, tmp_path / "packed", show="quiet")
    pictures.tree(photos, {"cat/notes.txt": b"x"})
    assert len(opened(tmp_path / "packed").train) > 0
    pictures.tree(photos, {"cat/new.jpg": JPEG})
    with pytest.raises(checks.UserMistake, match=r"new\.jpg"):
        opened(tmp_path / "packed")


# Parts -------------------------------------------------------------------------------------------


def parts(root, *kinds, classes=("cat", "dog")):
    for kind in kinds:
        pictures.folder(root / kind, dict.fromkeys(classes, 2))
    return root


def test_a_test_part_stays_out_and_its_command_is_said(tmp_path):
    root = parts(tmp_path / "my photos", "train", "val", "test")
    splits = opened(root)
    assert len(splits.train) == len(splits.val) == 4
    assert splits.notes == (
        "test/ stays out of the run. Measure the finished run on it: "
        f"toque evaluate RUN '{root}/test'",
    )
    found = [one.says for one in data.check(root, show="quiet").findings if one.kind == "parts"]
    assert found == list(splits.notes)


def test_images_to_test_on_without_classes_are_for_predict(tmp_path):
    parts(tmp_path, "train")
    pictures.tree(tmp_path, {"test/1.jpg": JPEG})
    splits = opened(tmp_path)
    assert splits.drawn and names(splits)[0] == "cat/0.jpg"
    assert splits.notes == (
        f"test/ stays out of the run. Ask the finished run on it: toque predict RUN {tmp_path}/test",
    )


def test_a_test_part_validates_where_there_is_no_other(tmp_path):
    splits = opened(parts(tmp_path, "Training", "TEST"))
    assert not splits.drawn and len(splits.val) == 4
    assert splits.notes == (given.tested("TEST/"),)


def test_other_folders_beside_the_parts_are_said(tmp_path):
    parts(tmp_path, "train", "dev", "eval2", "unlabelled")
    splits = opened(tmp_path)
    assert len(splits.val) == 4
    assert splits.notes == ("Folders beside train/ and dev/, passed over: 2 (eval2, unlabelled).",)
    parts(tmp_path / "more", "train", "extra")
    assert opened(tmp_path / "more").classes == ("cat", "dog")


def test_two_spellings_of_a_part_are_refused(tmp_path):
    parts(tmp_path, "train", "val", "validation")
    with pytest.raises(ValueError, match=r"must be there once; got val and validation\. Join"):
        opened(tmp_path)


def test_a_class_may_have_the_name_of_a_part(tmp_path):
    pictures.folder(tmp_path, {"train": 2, "bus": 2, "extra": 2})
    assert opened(tmp_path).classes == ("bus", "extra", "train")


def test_rows_of_a_table_to_test_on_stay_out(photos):
    rows = [f"cat/{n}.jpg,cat,{part}" for n, part in enumerate(("train", "train", "val", "test"))]
    rows += [f"dog/{n}.jpg,dog,{part}" for n, part in enumerate(("train", "train", "dev", "test"))]
    (photos / "t.csv").write_text("\n".join(["path,label,split", *rows]))
    splits = opened(photos / "t.csv")
    assert names(splits) == [f"{kind}/{n}.jpg" for kind in ("cat", "dog") for n in range(3)]
    assert [splits.val.name(n) for n in range(2)] == ["cat/2.jpg", "dog/2.jpg"]
    assert splits.notes == ("Images of the part test, which stay out of the run: 2.",)
    (photos / "t.csv").write_text(
        "\n".join(["path,label,split", *rows]).replace("val", "train").replace("dev", "train")
    )
    splits = opened(photos / "t.csv")
    assert len(splits.val) == 2 and splits.notes == (given.tested("The part test"),)


def test_a_folder_around_the_data_is_named(tmp_path):
    pictures.folder(tmp_path / "archive", {"cat": 2, "dog": 2})
    with pytest.raises(ValueError, match=r"Name .*archive, if its folders cat, dog are the class"):
        opened(tmp_path)


def test_a_table_of_one_part_is_split_by_a_draw(photos):
    for part in ("train", "test"):
        rows = [f"{kind}/{n}.jpg,{kind},{part}" for kind in ("cat", "dog") for n in range(4)]
        (photos / "t.csv").write_text("\n".join(["path,label,split", *rows]))
        splits = opened(photos / "t.csv")
        assert splits.drawn and len(splits.train) + len(splits.val) == 8 and splits.notes == ()


def test_what_cannot_be_validated_on_is_said_at_once(tmp_path):
    pictures.folder(tmp_path, {"cat": 1, "dog": 1})
    with pytest.raises(ValueError, match=r"of two images or more, .*; got one of each in"):
        opened(tmp_path)


def test_a_table_beside_images_without_classes_is_named(tmp_path):
    pictures.tree(tmp_path, {"1.jpg": JPEG, "labels.csv": b"path,label"})
    with pytest.raises(ValueError, match=r"or name the table .*: .*/labels.csv"):
        opened(tmp_path)


@pytest.mark.parametrize("word", ["NaN", "null", "<NA>"])
def test_a_label_that_says_there_is_none_is_no_class(photos, word):
    rows = [f"{kind}/{n}.jpg,{kind}" for kind in ("cat", "dog") for n in range(4)]
    (photos / "t.csv").write_text("\n".join(["path,label", *rows[:-1], f"dog/3.jpg,{word}"]))
    with pytest.raises(ValueError, match=r"label must be filled; got .* that there is none, at 8"):
        opened(photos / "t.csv")
    (photos / "t.csv").write_text("\n".join(["path,label", *rows[:-1], "dog/3.jpg,none"]))
    assert opened(photos / "t.csv").classes == ("cat", "dog", "none")


# Files that are no images, but look so -----------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIC: save it as JPEG or PNG"),
        (b"\xff\x0a" + bytes(99), "JPEG XL: save it as"),
        (b"\n<!DOCTYPE html><html>404</html>", "HTML, SVG or other text"),
    ],
)
def test_what_a_file_may_be_instead_is_said(photos, content, words):
    pictures.tree(photos, {"cat/9.jpg": content})
    with pytest.raises(
        data.UnreadableImage, match=f"9.jpg .not an image of a known kind, but {words}"
    ):
        opened(photos)


@pytest.mark.parametrize("values", [np.float32([[0.5]]), np.int32([[9000]])])
def test_values_without_a_range_are_found_before_the_run(photos, values):
    Image.fromarray(values).save(photos / "cat/9.tif")
    with pytest.raises(
        data.UnreadableImage, match=r"1 of 9 .*9\.tif \(pixels of kind '[FI]' have no"
    ):
        opened(photos)


# Datasets ----------------------------------------------------------------------------------------


class Mixed:
    classes = ("a", "b")

    def __init__(self, odd, count=8):
        self.odd = odd
        self.targets = [n % 2 for n in range(count)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, n):
        return self.odd if n == 5 else np.full((4, 5, 3), n, np.uint8), self.targets[n]


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (np.zeros((4, 5), np.uint8), r"uint8 of 3 channels; got torch.uint8 of 1 channel at 5"),
        (np.zeros((4, 5, 4), np.uint8), r"got torch.uint8 of 4 channels at 5"),
        (np.zeros((3, 4, 5), np.uint8), r"got torch.uint8 of 5 channels at 5"),
        (np.zeros((4, 5, 3), np.float32), r"got torch.float32 of 3 channels at 5"),
    ],
)
def test_an_image_of_a_dataset_that_is_unlike_the_first_is_named(odd, words):
    splits = data.own(Mixed(odd), None, seed=0)
    with pytest.raises(ValueError, match=words):
        for part in (splits.train, splits.val):
            for n in range(len(part)):
                part.read(n)


def test_a_validation_dataset_of_other_channels_is_refused():
    gray = [(np.zeros((4, 5), np.uint8), n % 2) for n in range(4)]
    colour = [(np.zeros((4, 5, 3), np.uint8), n % 2) for n in range(4)]
    with pytest.raises(ValueError, match=r"images of val must be of 3 channels.*; got 1"):
        data.own(colour, gray, seed=0)
