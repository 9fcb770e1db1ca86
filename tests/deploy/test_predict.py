"""toque predict and toque export, as a person types them."""

import csv
import io
import json

import numpy as np
import pytest

from toque import deploy


def test_csv_and_json_agree_for_a_run_and_its_file(toque, run, exported, photos):
    tables = []
    for model in (run, exported["onnx"].file):
        code, stdout, _ = toque("predict", model, photos / "val", "--csv")
        assert code == 0
        rows = list(csv.DictReader(io.StringIO(stdout)))
        code, stdout, _ = toque("predict", model, photos / "val", "--json")
        answers = json.loads(stdout)
        assert len(rows) == len(answers) == 8
        for row, answer in zip(rows, answers, strict=True):
            assert list(row) == ["image", "label", "confidence", "left", "right", "error"]
            assert row["error"] == ""
            assert (row["image"], row["label"]) == (answer["image"], answer["label"])
            assert float(row["left"]) == answer["probabilities"]["left"]
        tables.append([answer["probabilities"]["left"] for answer in answers])
    np.testing.assert_allclose(*tables, atol=1e-5)


def test_an_image_on_standard_input(toque, run, photos):
    file = photos / "val" / "left" / "0.jpg"
    code, stdout, _ = toque("predict", run, "-", file, "--json", stdin=file.read_bytes())
    assert code == 0
    first, second = json.loads(stdout)
    assert first["image"] == "-"
    assert first["probabilities"] == pytest.approx(second["probabilities"], abs=1e-6)
    code, _, stderr = toque("predict", run, "-")
    assert code == 2 and "an image on standard input, or paths, one a line; got nothing" in stderr
    code, stdout, stderr = toque("predict", run, "-", "--csv", stdin=b"no picture")
    assert code == 1 and stdout.startswith("image,error\nno picture,") and "an image file" in stderr


def test_top_says_how_many_classes(toque, run, photos):
    file = photos / "val" / "left" / "0.jpg"
    assert toque("predict", run, file, "--top", 1)[1].count("%") == 1
    assert toque("predict", run, file, "--top", 2)[1].count("%") == 2
    code, _, stderr = toque("predict", run, file, "--json", "--csv")
    assert code == 2 and "without --csv" in stderr


def test_export_says_what_it_found(toque, run, tmp_path):
    file = tmp_path / "m.onnx"
    code, stdout, stderr = toque("export", run, "--to", "onnx", "-o", file)
    assert code == 0, stderr
    assert "8 validation images and" in stdout and "0 predictions changed" in stdout
    assert f"toque predict {file} IMAGE" in stdout and file.is_file()
    code, _, stderr = toque("export", tmp_path / "nowhere")
    assert code == 2 and "must be a run folder" in stderr
    code, stdout, _ = toque("export", "--help")
    assert code == 0 and "Example: toque export" in stdout


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"\[H, W, 3\]"),
        (np.zeros((4, 4), np.uint8), r"\[H, W, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[H, W, 3\]"),
        (b"no picture", "image"),
    ],
)
def test_what_is_no_image_is_refused(run, image, words):
    with pytest.raises((ValueError, TypeError), match=words):
        deploy.load(run)([image])


def test_no_images_no_answers(run):
    found = deploy.load(run)([])
    assert len(found) == 0 and found.probabilities.shape == (0, 2) and list(found) == []


@pytest.mark.parametrize("kind", ["run", "onnx"])
def test_both_ways_is_the_mean_over_the_mirror_image(run, exported, photos, tmp_path, kind):
    from PIL import Image, ImageOps

    model = run if kind == "run" else exported["onnx"].file
    file, mirror = photos / "val" / "left" / "1.png", tmp_path / "mirror.png"
    ImageOps.mirror(Image.open(file)).save(mirror)
    one, other = (deploy.predict(model, [name])[0].probabilities for name in (file, mirror))
    (both,) = deploy.predict(model, [file], mirrored=True)
    assert one["left"] != pytest.approx(other["left"], abs=1e-3)
    assert both.probabilities["left"] == pytest.approx((one["left"] + other["left"]) / 2, abs=1e-6)


def test_explain_writes_a_picture_for_each_image(toque, run, exported, photos, tmp_path):
    folder = tmp_path / "looked"
    code, _, stderr = toque("predict", run, photos / "val", "--explain", folder, "--tta")
    assert code == 0, stderr
    assert len(list(folder.glob("*.png"))) == 8
    assert sorted(file.name[:8] for file in folder.iterdir())[0] == "00000-0-"
    code, _, stderr = toque("predict", exported["onnx"].file, photos / "val", "--explain", folder)
    assert code == 2 and "cannot be looked into" in stderr
