"""The error sentence and its suggestions."""

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
