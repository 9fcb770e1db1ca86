"""The error sentence and its suggestions."""

import pytest

from toque import checks


def test_sentence_follows_the_template():
    error = checks.invalid("UNet", "image height", "a multiple of 16", 250, "Pad to 256.")
    assert str(error) == "UNet: image height must be a multiple of 16; got 250. Pad to 256."
    assert isinstance(error, ValueError) and isinstance(error, checks.UserMistake)


def test_missing_file_prints_its_sentence():
    error = checks.MissingFile("fit: data must be a folder; got nowhere. Give a folder.")
    assert str(error).startswith("fit: data") and isinstance(error, FileNotFoundError)


def test_nearest_suggests_or_lists():
    assert checks.nearest("momentun", ["momentum", "nesterov"]) == "Did you mean momentum?"
    assert checks.nearest("zzz", ["a", "b"]) == "Known: a, b."
    assert "and 3 more" in checks.nearest("zzz", [f"name{i}" for i in range(15)])


def test_the_first_names_say_how_many_more_there_are():
    assert checks.first([]) == "" and checks.first(iter("ab")) == "a, b"
    assert checks.first("abc") == "a, b, c" and checks.first("abcd") == "a, b, c and 1 more"
    assert checks.first("abc", 1) == "a and 2 more"


def test_the_first_line_of_an_error():
    assert checks.first_line(ValueError("\n  torn at byte 7 \nand more")) == "torn at byte 7 "
    assert checks.first_line(KeyError()) == "KeyError"
    assert checks.first_line(OSError("x" * 500), 10) == "x" * 10


def test_a_file_is_written_only_in_a_folder_that_exists(tmp_path):
    checks.require_folder_of("report", "--out", tmp_path / "page.html")
    with pytest.raises(checks.MissingFile, match="--out must be in a folder that exists"):
        checks.require_folder_of("report", "--out", tmp_path / "nowhere" / "page.html")
