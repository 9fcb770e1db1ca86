"""Folders as people have them, asked about: what cannot be used is named, the rest is answered."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import pytest

from toque import checks, deploy


@pytest.fixture
def untidy(photos, tmp_path):
    """Six images of which two cannot be used, a folder within, and a stray."""
    root = tmp_path / "new"
    for n in range(4):
        file = root / f"sub/{n}.png" if n == 3 else root / f"{n}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / "val" / "left" / f"{n % 4}.{'png' if n % 2 else 'jpg'}", file)
    (root / "0a.jpg").write_bytes(b"")
    (root / "zz.png").write_bytes((root / "0.jpg").read_bytes()[:-30])
    (root / "labels.csv").write_text("x")
    return root


@pytest.mark.parametrize("kind", ["run", "onnx", "pt2"])
def test_the_others_are_answered(kind, run, exported, untidy, toque):
    model = run if kind == "run" else exported[kind].file
    code, stdout, stderr = toque("predict", model, untidy, "--csv")
    rows = list(csv.DictReader(io.StringIO(stdout)))
    assert code == 1
    said = {str(untidy / name): reason for name, reason in (
        ("0a.jpg", "empty, 0 bytes"), ("zz.png", "damaged or cut off: Premature end of JPEG file"),
    )}  # fmt: skip
    assert {row["image"]: row["error"] for row in rows if row["error"]} == said
    answered = {row["image"]: float(row["left"]) for row in rows if not row["error"]}
    good = [untidy / name for name in ("0.jpg", "1.jpg", "2.jpg", "sub/3.png")]
    alone = deploy.load(model)(good)
    assert list(answered) == [str(file) for file in good]
    assert list(answered.values()) == pytest.approx(alone.probabilities[:, 0].tolist(), abs=1e-6)
    assert all(f"predict: {image}: {reason}\n" in stderr for image, reason in said.items())
    assert "names: 1 (.csv)" in stderr and "2 of 6 images could not be answered" in stderr


def test_json_and_the_table_name_them_too(run, untidy, toque, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    code, stdout, _ = toque("predict", run, untidy, "--json")
    answers = json.loads(stdout)
    assert code == 1 and len(answers) == 6
    assert answers[1] == {"image": str(untidy / "0a.jpg"), "error": "empty, 0 bytes"}
    assert sum("label" in one for one in answers) == 4
    code, stdout, _ = toque("predict", run, untidy)
    assert code == 1 and "2.jpg" in stdout and "0a.jpg" not in stdout
    code, stdout, stderr = toque("predict", run, untidy / "0a.jpg")
    assert (code, stdout) == (1, "") and "0a.jpg: empty, 0 bytes" in stderr


def test_what_is_typed_wrong_is_refused_before_anything_is_asked(run, untidy, toque):
    code, stdout, stderr = toque("predict", run, untidy / "1.jpg", untidy / "l.jpg")
    assert (code, stdout) == (2, "") and "l.jpg must be an image file" in stderr
    (untidy / "only").mkdir()
    (untidy / "only" / "notes.txt").write_text("x")
    code, _, stderr = toque("predict", run, untidy / "only")
    assert code == 2 and "there are none but other files: 1 (.txt)" in stderr


def test_from_python_the_first_one_still_raises(run, untidy):
    with pytest.raises(checks.UserMistake, match=r"0a\.jpg"):
        deploy.predict(run, [untidy])


def test_evaluate_on_a_test_part(run, photos, tmp_path, toque):
    root = shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(root / "val", root / "test")
    (root / "test/left/notes.txt").write_text("x")
    (root / "test/5.jpg").write_bytes(b"")
    code, stdout, stderr = toque("evaluate", run, root / "test", "--json")
    whole = json.loads(toque("evaluate", run, root, "--json")[1])
    assert code == 0 and json.loads(stdout)["accuracy"] == whole["accuracy"]
    assert "note: Files passed over, hidden or no images by their names: 1 (.txt)." in stderr
    assert "note: Images beside the class folders" in stderr
    (root / "flat").mkdir()
    shutil.copy(root / "val/left/0.jpg", root / "flat")
    code, _, stderr = toque("evaluate", run, root / "flat")
    assert code == 2 and "toque predict answers for these" in stderr


def test_a_name_that_is_no_text_is_printed_as_its_bytes(run, photos, tmp_path):
    name = os.fsencode(tmp_path) + b"/b\xffd.jpg"
    try:
        shutil.copy(photos / "val/left/0.jpg", os.fsdecode(name))
    except OSError:
        pytest.skip("this file system takes text alone")
    code = "import sys; from toque import cli; sys.argv[0] = 'toque'; cli.main()"
    for words in (["predict", run, tmp_path, "--csv"], ["predict", run, tmp_path]):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], capture_output=True, check=False,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "300"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert name in done.stdout
