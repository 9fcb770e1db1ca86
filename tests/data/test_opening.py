"""Opening a data set: what is found, how it is split, and one sentence for each bad input."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data import pictures
from toque import checks, data

JPEG, PNG = pictures.jpeg(), pictures.png()
GRAY = pictures.saved(np.zeros((8, 8), dtype=np.uint8), "PNG")


def mistake(words, *arguments, **settings):
    """The message of the mistake that opening makes."""
    with pytest.raises(checks.UserMistake, match=words) as caught:
        data.open(*arguments, seed=0, **settings)
    return str(caught.value)


# What is found -----------------------------------------------------------------------------------


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val", "VALID", "dev", "Eval"])
def test_a_folder_with_given_parts(tmp_path, val):
    pictures.folder(tmp_path / "train", {"cat": 3, "dog": 2})
    pictures.folder(tmp_path / val, {"cat": 1, "dog": 2})
    splits = data.open(tmp_path, seed=0)
    assert splits.classes == splits.train.classes == splits.val.classes == ("cat", "dog")
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert splits.val.labels.tolist() == [0, 1, 1]
    assert splits.train.name(3) == "dog/0.jpg"
    assert splits.channels == 3 and splits.bad == () and splits.notes == ()
    np.testing.assert_array_equal(splits.train.read(4), data.decode(JPEG))


def test_a_folder_of_classes_is_split_within_each_class(tmp_path):
    splits = data.open(pictures.folder(tmp_path, {"cat": 150, "dog": 50}), seed=0)
    names = [[part.name(i) for i in range(len(part))] for part in (splits.train, splits.val)]
    assert sorted(names[0] + names[1]) == sorted(
        [f"cat/{i}.jpg" for i in range(150)] + [f"dog/{i}.jpg" for i in range(50)]
    )
    share = np.bincount(splits.val.labels) / [150, 50]
    assert (np.abs(share - 0.2) < 4 * np.sqrt(0.16 / np.array([150, 50]))).all()
    again = data.open(tmp_path, seed=0)
    assert again.train.fingerprint() == splits.train.fingerprint()
    assert data.open(tmp_path, seed=1).train.fingerprint() != splits.train.fingerprint()


def test_train_alone_is_split(tmp_path):
    pictures.folder(tmp_path / "train", {"cat": 5, "dog": 5})
    splits = data.open(str(tmp_path), seed=0)
    assert splits.classes == ("cat", "dog") and len(splits.train) + len(splits.val) == 10


def test_parts_by_their_longer_names(tmp_path):
    pictures.folder(tmp_path / "training", {"cat": 3, "dog": 2})
    assert data.open(tmp_path, seed=0).classes == ("cat", "dog")
    pictures.folder(tmp_path / "validation", {"cat": 1, "dog": 2})
    splits = data.open(tmp_path, seed=0)
    assert splits.classes == ("cat", "dog") and len(splits.val) == 3 and not splits.drawn


@pytest.mark.parametrize("parts", [["val"], ["Test", "eval"], ["testing"]])
def test_parts_are_not_taken_for_classes(tmp_path, parts):
    for part in parts:
        pictures.folder(tmp_path / part, {"cat": 3, "dog": 2})
    words = f"with train/ and val/, .* got only {' and '.join(parts)}. Rename"
    mistake(words, tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    splits = data.open(pictures.folder(tmp_path, {"train": 4, "bus": 4}), seed=0)
    assert splits.classes == ("bus", "train")


def test_images_are_one_channel_only_if_all_are(tmp_path):
    pictures.folder(tmp_path, {"cat": 2, "dog": 2}, GRAY)
    assert data.open(tmp_path, seed=0).channels == 1
    assert data.open(tmp_path, seed=0).train.read(0).shape[0] == 1
    assert data.open(tmp_path, seed=0, channels=3).train.read(0).shape[0] == 3
    (tmp_path / "dog" / "colour.png").write_bytes(PNG)
    splits = data.open(tmp_path, seed=0)
    assert splits.channels == 3
    assert {splits.train.read(i).shape[0] for i in range(len(splits.train))} == {3}
    assert data.open(tmp_path, seed=0, channels=1).train.read(0).shape[0] == 1


def test_files_of_systems_are_passed_over_and_folders_searched_to_the_bottom(tmp_path):
    pictures.folder(tmp_path, {"cat": 2, "dog": 2})
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._0.jpg"):
        (tmp_path / "cat" / name).write_bytes(b"not an image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    pictures.tree(tmp_path / "dog" / "deep", {"er/1.jpg": JPEG, ".hidden/2.jpg": JPEG})
    (tmp_path / "README.md").write_text("beside the classes")
    splits = data.open(tmp_path, seed=0)
    names = {part.name(i) for part in (splits.train, splits.val) for i in range(len(part))}
    assert names == {"cat/0.jpg", "cat/1.jpg", "dog/0.jpg", "dog/1.jpg", "dog/deep/er/1.jpg"}


def test_links_to_folders_are_followed(tmp_path):
    pictures.folder(tmp_path / "store", {"cats": 2, "dogs": 2})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat").symlink_to(tmp_path / "store" / "cats")
    (tmp_path / "photos" / "dog").symlink_to(tmp_path / "store" / "dogs")
    splits = data.open(tmp_path / "photos", seed=0)
    assert splits.classes == ("cat", "dog") and len(splits.train) + len(splits.val) == 4


def test_the_home_folder_may_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    pictures.folder(tmp_path / "photos", {"cat": 2, "dog": 2})
    assert data.open("~/photos", seed=0).classes == ("cat", "dog")


def test_animated_files_are_told_once(tmp_path):
    second = Image.new("RGB", (32, 24))
    gif = pictures.saved(pictures.colours(), "GIF", save_all=True, append_images=[second])
    pictures.folder(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "cat" / "a.gif").write_bytes(gif)
    splits = data.open(tmp_path, seed=0)
    assert splits.notes == ("Animated files, of which the first frame is used: 1 (cat/a.gif).",)


def test_bundled_fashion():
    splits = data.open("fashion", seed=0)
    assert (len(splits.train), len(splits.val), splits.channels) == (10_000, 2_000, 1)
    assert np.bincount(splits.train.labels).tolist() == [1000] * 10
    assert splits.classes[0] == "T-shirt/top" and splits.classes[9] == "Ankle boot"
    # Sums that the known files have: the labels and pixels are those of the official set.
    assert splits.train.read(0).shape == (1, 28, 28)
    assert not torch.equal(splits.train.read(0), splits.val.read(0))
    assert data.open("fashion", seed=0, channels=3).val.read(5).shape == (3, 28, 28)


# Bad input ---------------------------------------------------------------------------------------


def test_a_path_that_does_not_exist(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert mistake("does not exist", "phots") == (
        "data: the data must be a folder of images or one of fashion, nuclei; got phots, which does not "
        "exist. Did you mean photos?"
    )
    mistake(r"Did you mean fashion\?", "fasion")
    mistake("Did you mean .*photos", tmp_path / "photo" / "deeper")
    with pytest.raises(FileNotFoundError):
        data.open("phots", seed=0)


def test_a_file_instead_of_a_folder(tmp_path):
    pictures.folder(tmp_path, {"cat": 1})
    said = mistake("got the file", tmp_path / "cat" / "0.jpg")
    assert said.endswith(f"Give the folder that holds the class folders, perhaps {tmp_path}.")


def test_an_empty_folder(tmp_path):
    mistake("got an empty folder. Sort the images into folders", tmp_path)


def test_a_folder_without_class_folders(tmp_path):
    pictures.tree(tmp_path, {"1.jpg": JPEG})
    mistake(r"one folder of images for each class; got no folders in it\. Sort", tmp_path)


def test_one_class(tmp_path):
    pictures.folder(tmp_path, {"cat": 3})
    mistake(r"at least 2; got only cat in .*Add a folder", tmp_path)


def test_a_class_without_images(tmp_path):
    pictures.folder(tmp_path, {"cat": 3, "dog": 2})
    (tmp_path / "cow").mkdir()
    (tmp_path / "cow" / ".DS_Store").touch()
    mistake(
        r"every class folder must be filled; got no images in .*cow but other files: "
        r"1 \(.DS_Store\)\. Add",
        tmp_path,
    )


@pytest.mark.parametrize(("more", "less"), [("train", "val"), ("val", "train")])
def test_a_class_in_one_part_only(tmp_path, more, less):
    pictures.folder(tmp_path / more, {"cat": 2, "daisies": 2, "dog": 2})
    pictures.folder(tmp_path / less, {"cat": 2, "dog": 2})
    said = mistake("also daisies", tmp_path)
    assert f"the classes in {tmp_path / more} must be those in {tmp_path / less}" in said
    assert said.endswith(
        f"Add {tmp_path / less / 'daisies'}, or remove {tmp_path / more / 'daisies'}."
    )


def test_a_class_spelt_in_two_ways(tmp_path):
    pictures.folder(tmp_path / "train", {"cat": 2, "daisy": 2})
    pictures.folder(tmp_path / "val", {"cat": 2, "daisies": 2})
    mistake(r"also daisies\. Did you mean daisy\?", tmp_path)


def test_classes_that_differ_in_case(tmp_path):
    pictures.folder(tmp_path, {"cat": 2, "Cat": 2})
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system ignores case")
    mistake("upper and lower case; got Cat and cat in", tmp_path)


def test_files_that_differ_in_case(tmp_path):
    pictures.folder(tmp_path, {"cat": 2, "dog": 2})
    pictures.tree(tmp_path / "cat", {"a.jpg": JPEG, "A.JPG": JPEG})
    if len(list((tmp_path / "cat").iterdir())) == 3:
        pytest.skip("this file system ignores case")
    mistake(r"1 that are not, first cat/A.JPG and cat/a.jpg in .*Rename", tmp_path)
    splits = data.open(tmp_path, seed=0, on_bad="skip")
    assert len(splits.train) + len(splits.val) == 6
    assert splits.notes == ("File names that differ only in case: 1 (cat/A.JPG and cat/a.jpg).",)


def test_a_link_that_loops(tmp_path):
    pictures.folder(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    mistake(r"without loops; got .*again, a link to a folder above it\. Remove the link", tmp_path)
    (tmp_path / "cat" / "again").unlink()
    (tmp_path / "cat" / "self.jpg").symlink_to(tmp_path / "cat" / "self.jpg")
    mistake(r"1 of 5 .*self.jpg \(cannot be read: Too many levels", tmp_path)


def test_a_link_to_nothing(tmp_path):
    pictures.folder(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "cat" / "x.jpg").symlink_to(tmp_path / "nothing.jpg")
    mistake(r"x.jpg \(cannot be read: No such file", tmp_path)


def test_a_pipe_is_no_image(tmp_path):
    pictures.folder(tmp_path, {"cat": 2, "dog": 2})
    os.mkfifo(tmp_path / "cat" / "pipe")
    mistake(r"pipe \(not a file but a pipe, socket or device\)", tmp_path)


def test_names_that_are_no_text(tmp_path):
    pictures.folder(tmp_path, {"cat": 3, "dog": 3})
    try:
        (tmp_path / "cat" / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(JPEG)
    except OSError:
        pytest.skip("this file system takes text only")
    splits = data.open(tmp_path, seed=0)
    assert len(splits.train) + len(splits.val) == 7
    assert len(splits.train.fingerprint()) == 64


def test_a_file_and_a_folder_without_permission(tmp_path, monkeypatch):
    # Simulated, for the tests may run as root, which may read everything.
    pictures.folder(tmp_path, {"cat": 2, "dog": 2})
    real_open, real_scandir = Path.open, os.scandir

    def forbidden(real, name):
        def call(path, *arguments, **options):
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", forbidden(real_open, "1.jpg"))
        mistake(r"2 of 4 .*1.jpg \(cannot be read: Permission denied\)", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", forbidden(real_scandir, "dog"))
        mistake(r"must be readable; got .*dog \(Permission denied\)\. Give yourself", tmp_path)


BAD = {
    "cat/empty.jpg": b"",
    "cat/cut.jpg": JPEG[:-20],
    "dog/no_end.jpg": JPEG[:-2],
    "dog/notes.png": b"these are dogs",
}


def bad_folder(root):
    return pictures.tree(pictures.folder(root, {"cat": 4, "dog": 4}), BAD)


def test_bad_files_are_named_and_counted(tmp_path):
    said = mistake("4 of 12 that cannot be used", bad_folder(tmp_path))
    assert said == (
        "data: every file must be a whole image; got 4 of 12 that cannot be used: "
        f"{tmp_path}/cat/cut.jpg (damaged or cut off: Premature end of JPEG file); "
        f"{tmp_path}/cat/empty.jpg (empty, 0 bytes); "
        f"{tmp_path}/dog/no_end.jpg (damaged or cut off: Premature end of JPEG file); and 1 more. "
        "Mend or remove them, or leave them out with --set on_bad=skip."
    )


def test_bad_files_are_left_out_and_listed(tmp_path):
    splits = data.open(bad_folder(tmp_path), seed=0, on_bad="skip")
    assert {
        str(bad.path.relative_to(tmp_path)): bad.reason.split(":")[0] for bad in splits.bad
    } == {
        "cat/cut.jpg": "damaged or cut off",
        "cat/empty.jpg": "empty, 0 bytes",
        "dog/no_end.jpg": "damaged or cut off",
        "dog/notes.png": "not an image of a known kind",
    }
    assert len(splits.train) + len(splits.val) == 8
    assert splits.notes[0].startswith("Files that cannot be used, left out: 4 (")


def test_leaving_out_bad_files_does_not_move_the_others(tmp_path):
    pictures.folder(tmp_path, {"cat": 20, "dog": 20})
    before = data.open(tmp_path, seed=0, on_bad="skip")
    bad_folder(tmp_path)
    after = data.open(tmp_path, seed=0, on_bad="skip")
    assert after.train.fingerprint() == before.train.fingerprint()


def test_damage_inside_is_found_by_skip_and_by_reading(tmp_path):
    photo = (pictures.PHOTOS / "rocket.jpg").read_bytes()
    half = len(photo) // 2
    pictures.folder(tmp_path, {"cat": 4, "dog": 4})
    (tmp_path / "cat" / "hole.jpg").write_bytes(photo[:half] + photo[half + 5000 :])
    splits = data.open(tmp_path, seed=0, on_bad="skip")
    assert [bad.path.name for bad in splits.bad] == ["hole.jpg"]
    assert len(splits.train) + len(splits.val) == 8

    splits = data.open(tmp_path, seed=0)  # the quick look cannot know
    with pytest.raises(data.UnreadableImage, match=r"hole\.jpg \(damaged or cut off"):
        for part in (splits.train, splits.val):
            for i in range(len(part)):
                part.read(i)


def test_a_class_of_bad_files_only(tmp_path):
    pictures.folder(tmp_path, {"cat": 2, "dog": 2})
    pictures.folder(tmp_path, {"cow": 3}, b"moo")
    mistake(r"only bad files in .*cow\. Mend", tmp_path, on_bad="skip")


def test_a_bomb_is_a_bad_file(tmp_path):
    pictures.folder(tmp_path, {"cat": 2, "dog": 2})
    big = pictures.png_by_hand(np.zeros((4, 4), dtype=np.uint16), 0, height=2000, width=3000)
    (tmp_path / "dog" / "big.png").write_bytes(big)
    mistake(r"big.png \(3000 x 2000 pixels, above max_pixels", tmp_path, max_pixels=10**6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"val_fraction": 0}, "above 0 and below 1; got 0"),
        ({"val_fraction": 1.0}, "above 0 and below 1"),
        ({"on_bad": "skp"}, "Did you mean skip"),
        ({"max_pixels": 0}, "max_pixels must be >= 1"),
        ({"channels": 4}, "channels must be 1 or 3; got 4"),
    ],
)
def test_settings_out_of_range(settings, words):
    mistake(words, "fashion", **settings)
