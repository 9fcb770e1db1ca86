"""toque pack and toque check as a user meets them: words, files, exit codes."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.data import pictures
from tests.data.test_check import jpeg, photo
from toque import checks
from toque.cli import app


@pytest.fixture
def photos(tmp_path):
    files = {f"{part}/{name}/{n}.jpg": jpeg(photo(n + 6 * (name == "dog") + 12 * (part == "val")))
             for part, count in (("train", 4), ("val", 2)) for name in ("cat", "dog")
             for n in range(count)}  # fmt: skip
    return pictures.tree(tmp_path / "photos", files)


def toque(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_pack_and_check_the_cache(photos, tmp_path):
    cache = tmp_path / "cache"
    code, words = toque("pack", photos, cache, "--size", 100)
    assert code == 0 and words.startswith("12 images, ") and f"toque train {cache}" in words
    assert toque("pack", photos, cache, "--size", 100)[1].startswith("12 images (12 were there), ")
    assert toque("pack", cache, "--check") == (0, "every file is as it was written\n")
    shard = next(cache.glob("*/*.bin"))
    content = bytearray(shard.read_bytes())
    content[5] ^= 4
    shard.write_bytes(bytes(content))
    code, words = toque("pack", cache, "--check")
    assert code == 1 and f"damaged: {shard.relative_to(cache)}" in words
    with pytest.raises(checks.UserMistake, match=r"CACHE must be given"):
        toque("pack", photos)


def test_check_ends_with_zero_or_one(photos, tmp_path):
    code, words = toque("check", photos)
    assert code == 0 and "no problems found" in words and "train    8 images, 2 classes" in words
    (photos / "val" / "cat" / "again.jpg").write_bytes(jpeg(photo(1), 60))
    (photos / "train" / "dog" / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    page = tmp_path / "check.html"
    code, words = toque("check", photos, "-o", page)
    assert code == 1 and "2 kinds of problems" in words
    assert "train: cat/1.jpg [cat], val: cat/again.jpg [cat]  (nearly the same)" in words
    assert "cat/again.jpg" in page.read_text()
    code, words = toque("check", photos, "--json")
    assert code == 1
    assert {one["kind"] for one in json.loads(words)["findings"]} == {"unreadable", "leakage"}
    assert toque("check", photos, "--quiet") == (1, "")
    with pytest.raises(checks.MissingFile, match="does not exist"):
        toque("check", tmp_path / "nothing")


def test_check_with_a_run_names_the_labels_it_contradicts(photos, tmp_path, monkeypatch):
    from toque.train import Run, fit, restore
    from toque.train.run_folder.folder import RESULT
    from toque.train.tasks import ClassEvaluation, Classification

    run = Run(data=str(photos), out=str(tmp_path / "run"), epochs=1, batch_size=4, image_size=16,
              model="resnet10_small", threads=1)  # fmt: skip
    fit(run, show="quiet")

    def answers(trained, source):
        """All right, but the second image of the validation part."""
        labels = np.array(source.labels[:])
        said = np.where((np.arange(len(labels)) == 1) & (len(labels) == 4), 1 - labels, labels)
        sure = np.where(np.eye(2)[said] > 0, 0.95, 0.05).astype(np.float32)
        metrics = {"accuracy": float((said == labels).mean())}
        return ClassEvaluation(
            0.5, metrics, Classification.metrics, np.arange(len(labels)), labels, sure
        )

    (tmp_path / "run" / RESULT).unlink()  # so that the model is asked
    monkeypatch.setattr(restore, "answers", answers)
    code, words = toque("check", photos, "--run", tmp_path / "run", "-o", tmp_path / "page.html")
    assert code == 0 and f"Validation images of {tmp_path / 'run'} whose label" in words
    assert "it names: 1 of 4." in words and "Training images" not in words
    assert "cat/1.jpg [cat (5.0 %)]  (dog (95.0 %))" in words
    assert "dog (95.0 %)" in (tmp_path / "page.html").read_text()
