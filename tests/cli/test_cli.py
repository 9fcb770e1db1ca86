"""The command line as a person meets it: every verb, every mistake, and what a signal does."""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.conftest import write_photos
from toque import checks, cli
from toque.cli import predicted
from toque.cli.waiting import waiting
from toque.train.metrics import temperature_of

VERBS = [
    "train",
    "evaluate",
    "predict",
    "export",
    "serve",
    "new",
    "check",
    "preview",
    "pack",
    "tune-lr",
    "plan",
    "report",
    "replay",
    "profile",
    "describe",
    "models",
    "verify",
    "graph",
]
FAST = ["--set", "batch_size=8", "--set", "epochs=2", "--set", "log.tensorboard=false"]
# Without flips, which would turn one kind of picture into the other.
TRAINED = [*FAST[:2], *FAST[4:], "--set", "epochs=10", "--set", "augment=none"]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    """Every test types its commands in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "photos"
    command = [sys.executable, "-m", "toque", "train", str(photos), "--out", str(out), *TRAINED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done


def test_train_says_how_it_went_and_what_to_type_next(trained):
    out, done = trained
    accuracy = re.search(
        r"accuracy ([\d.]+) % \([\d.]+ to [\d.]+\), loss [\d.]+ on 8 validation images", done.stdout
    )
    assert float(accuracy.group(1)) >= 75
    for words in (
        f"weights  {out}/weights.safetensors",
        f"report   {out}/report.html",
        f"toque predict {out} IMAGE",
    ):
        assert words in done.stdout
    assert "epoch 1" in done.stderr and "best" in done.stderr
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_the_same_command_again_trains_no_further_and_keeps_the_bits(trained, photos, toque):
    out, _ = trained
    before = hashlib.sha256((out / "weights.safetensors").read_bytes()).digest()
    code, stdout, stderr = toque("train", photos, "--out", out, *TRAINED)
    assert code == 0 and "accuracy" in stdout and "continues at image 240 of 240" in stderr
    assert hashlib.sha256((out / "weights.safetensors").read_bytes()).digest() == before


def test_evaluate_repeats_the_accuracy_of_the_training(trained, toque):
    out, done = trained
    said = re.search(r"accuracy [\d.]+ % \(.*\), loss [\d.]+", done.stdout).group(0)
    code, stdout, _ = toque("evaluate", out)
    assert code == 0 and said in stdout and "recall" in stdout
    code, stdout, _ = toque("evaluate", out, "--json")
    answer = json.loads(stdout)
    assert answer["images"] == 8 and np.sum(answer["confusion"]) == 8
    assert answer["accuracy"] == pytest.approx(np.trace(answer["confusion"]) / 8)
    scores = answer["scores"]
    assert scores["accuracy"]["value"] == pytest.approx(answer["accuracy"])
    assert scores["loss"]["value"] == pytest.approx(answer["loss"], rel=1e-4)
    assert temperature_of(out) == pytest.approx(scores["calibration"]["temperature"], rel=1e-4)


def test_evaluate_other_images_takes_all_of_a_flat_folder(trained, toque, tmp_path):
    write_photos(tmp_path / "other", {"right": 5})
    code, stdout, _ = toque("evaluate", trained[0], tmp_path / "other", "--json")
    assert code == 0
    answer = json.loads(stdout)
    assert answer["images"] == 5 and np.sum(answer["confusion"][0]) == 0
    write_photos(tmp_path / "wrong", {"rihgt": 5})
    code, _, stderr = toque("evaluate", trained[0], tmp_path / "wrong")
    assert code == 2 and "Did you mean right?" in stderr


def test_predict_as_json(trained, photos, toque):
    image = photos / "val" / "left" / "0.jpg"
    code, stdout, _ = toque("predict", trained[0], image, photos / "val" / "right", "--json")
    assert code == 0
    answers = json.loads(stdout)
    assert [answer["image"] for answer in answers] == [str(image)] + [
        str(photos / "val" / "right" / name) for name in ("0.jpg", "1.png", "2.jpg", "3.png")
    ]
    for answer in answers:
        assert set(answer) == {"image", "label", "confidence", "probabilities"}
        assert set(answer["probabilities"]) == {"left", "right"}
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert answer["confidence"] == max(answer["probabilities"].values())
        assert answer["probabilities"][answer["label"]] == answer["confidence"]
    right = sum(
        answer["label"] == ("left" if "left" in answer["image"] else "right") for answer in answers
    )
    assert right >= 4


def test_predict_as_a_table(trained, photos, toque):
    code, stdout, _ = toque("predict", trained[0], photos / "val" / "left" / "0.jpg")
    assert code == 0 and "label" in stdout and "%" in stdout


def test_new_writes_settings_that_train(toque, photos, tmp_path):
    code, stdout, _ = toque("new", "run.toml", "--data", photos)
    assert code == 0 and "toque train run.toml" in stdout
    code, _, stderr = toque("train", "run.toml", "--out", "runs/a", *FAST)
    assert code == 0, stderr
    code, _, stderr = toque("new", "run.toml")
    assert code == 2 and "must be a new one" in stderr
    code, _, stderr = toque("new", "nowhere/run.toml")
    assert code == 2 and "can be written" in stderr


def test_a_flat_folder_is_split_and_trained(toque, tmp_path):
    write_photos(tmp_path / "flat", {"left": 10, "right": 10})
    code, stdout, stderr = toque("train", "flat", *FAST, "--quiet")
    assert (code, stdout, stderr) == (0, "", "")
    assert (tmp_path / "runs" / "flat" / "weights.safetensors").is_file()


def test_a_model_beside_the_user(toque, photos, tmp_path):
    (tmp_path / "my_net.py").write_text(
        "from torch import nn\n"
        "def build(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 256, num_classes))\n"
    )
    code, _, stderr = toque("train", photos, "--set", "model=my_net:build", "--out", "r", *FAST)
    assert code == 0, stderr
    code, stdout, _ = toque("evaluate", "r")
    assert code == 0 and "accuracy" in stdout


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_fits_a_screen_and_shows_an_example(toque, verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, stdout, _ = toque(*([verb] if verb else []), "--help")
    assert code == 0
    assert len(stdout.splitlines()) <= 24 and max(map(len, stdout.splitlines())) <= 80
    assert ("Example: toque " if verb else "Try: toque ") in stdout
    if not verb:
        assert set(re.findall(r"[\w-]+", stdout)) >= set(VERBS)


def _one_class(root):
    write_photos(root, {"left": 4})


def _class_only_in_val(root):
    write_photos(root, {"left": 4, "right": 4}, part="train")
    write_photos(root, {"left": 4, "centre": 4}, part="val")


def _bad_file(content):
    def make(root):
        write_photos(root, {"left": 4, "right": 4})
        (root / "left" / "bad.jpg").write_bytes(content)

    return make


def _truncated(root):
    write_photos(root, {"left": 4, "right": 4}, size=64)
    file = root / "left" / "0.jpg"
    file.write_bytes(file.read_bytes()[:-200])


def _bomb(root):
    write_photos(root, {"left": 4, "right": 4})
    Image.new("1", (60_000, 60_000)).save(root / "left" / "bomb.png")


def _same_but_for_case(root):
    write_photos(root, {"left": 4, "right": 4})
    (root / "left" / "A.png").write_bytes((root / "left" / "1.png").read_bytes())
    (root / "left" / "a.png").write_bytes((root / "left" / "1.png").read_bytes())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: root.mkdir(), "an empty folder"),
        (lambda root: None, "does not exist"),
        (_one_class, "at least 2; got only left"),
        (_class_only_in_val, "centre"),
        (_bad_file(b""), "bad.jpg"),
        (_bad_file(b"this is no picture"), "bad.jpg"),
        (_truncated, "0.jpg"),
        (_bomb, "bomb.png"),
        (_same_but_for_case, "upper and lower case"),
    ],
    ids=[
        "empty",
        "absent",
        "one class",
        "class in val only",
        "zero bytes",
        "no image",
        "truncated",
        "bomb",
        "case",
    ],
)
def test_bad_data_is_one_sentence_and_writes_nothing(toque, tmp_path, make, words):
    make(tmp_path / "photos")
    code, stdout, stderr = toque("train", "photos", *FAST)
    assert code == 2 and stdout == ""
    assert words in stderr and stderr.startswith("toque: ") and stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--epochs", "3"], "--epochs is not an option; .* Write --set epochs=3"),
        (["--batch-size=4"], "Write --set batch_size=4"),
        (["--lr"], "Write --set optimizer.learning_rate=…"),
        (["--outt", "x"], "No such option: --outt"),
    ],
)
def test_a_setting_given_as_an_option_is_told_how_to_be_given(toque, words, meant):
    code, stdout, stderr = toque("train", "photos", *words)
    assert code == 2 and stdout == "" and re.search(meant, stderr), stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_a_person_sees_what_is_waited_for_and_a_script_does_not(terminal):
    shown = io.StringIO()
    with waiting("measuring", Console(file=shown, force_terminal=terminal)):
        pass
    assert ("measuring …" in shown.getvalue()) == terminal


def test_a_run_folder_can_be_continued_by_its_name(trained, toque):
    out, done = trained
    code, stdout, stderr = toque("train", out)
    assert code == 0 and "continues at image 240 of 240" in stderr
    said = re.search(r"accuracy [\d.]+ % \(.*\), loss [\d.]+", done.stdout).group(0)
    assert said in stdout


def test_train_without_data_says_what_it_trains_on_and_how_long(toque, photos, monkeypatch):
    def ended(run, show):
        raise checks.InvalidValue(f"{run.data}: ended here")

    monkeypatch.setattr("toque.train.fit", ended)
    said = "No data was named, so this trains on the pictures of clothing that come with toque"
    code, _, stderr = toque("train", "--set", "epochs=1")
    assert code == 2 and said in stderr and "fashion: ended here" in stderr
    for words in (["train", photos], ["train", "fashion"], ["train", "--set", "data=fashion"],
                  ["train", "--quiet"]):  # fmt: skip
        assert said not in toque(*words)[2]


def test_a_run_folder_is_never_taken_for_a_class(toque, tmp_path, monkeypatch):
    write_photos(tmp_path / "photos", {"left": 4, "right": 4})
    monkeypatch.chdir(tmp_path / "photos")
    code, stdout, stderr = toque("train", ".", *FAST)
    assert code == 2 and stdout == "" and "--out must be outside of the data" in stderr
    assert stderr.strip().endswith(f"Add --out {tmp_path / 'runs' / 'photos'}")
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["left", "right"]


def test_a_run_folder_beside_given_parts_is_none_of_them(toque, tmp_path, monkeypatch):
    for part in ("train", "val"):
        write_photos(tmp_path / "photos" / part, {"left": 4, "right": 4})
    monkeypatch.chdir(tmp_path / "photos")
    for _ in range(2):
        code, _, stderr = toque("train", ".", *FAST)
        assert code == 0, stderr


def test_bad_files_can_be_left_out_and_are_counted(toque, tmp_path):
    write_photos(tmp_path / "photos", {"left": 6, "right": 6})
    (tmp_path / "photos" / "left" / "bad.jpg").write_bytes(b"no picture")
    code, _, stderr = toque("train", "photos", *FAST, "--set", "on_bad=skip")
    assert code == 0 and "left out: 1 (" in stderr and "bad.jpg" in stderr
    assert "left_out_images = 1" in (tmp_path / "runs" / "photos" / "run.toml").read_text()
    assert "bad.jpg" in (tmp_path / "runs" / "photos" / "report.html").read_text()


def test_every_kind_of_image_trains(toque, tmp_path):
    write_photos(tmp_path / "photos", {"left": 6, "right": 6})
    folder = tmp_path / "photos" / "left"
    gray = Image.fromarray(np.full((20, 30), 77, np.uint8))
    gray.save(folder / "gray.png")
    gray.convert("P").save(folder / "palette.gif")
    gray.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.full((20, 30), 20_000, np.uint16)).save(folder / "deep.png")
    gray.save(folder / "moving.gif", save_all=True, append_images=[gray.rotate(90)])
    exif = Image.Exif()
    exif[0x0112] = 6
    gray.save(folder / "turned.jpg", exif=exif)
    code, _, stderr = toque("train", "photos", *FAST)
    assert code == 0, stderr
    assert "first frame is used: 1 (" in stderr and "moving.gif" in stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--set", "epoch=3"], "--set: epoch is not a setting. Did you mean epochs?"),
        (["--set", "epochs"], "--set: a setting must be KEY=VALUE; got epochs."),
        (
            ["--set", "optimizer.momentun=0.9"],
            "momentun is not a setting of SGD. Did you mean momentum?",
        ),
        (["--set", "model=resnet19"], "resnet18"),
        (["--set", "model=timm/resnet19"], "Did you mean"),
        (["--set", "loss.name=cross_entrop"], "Did you mean cross_entropy"),
        (["--set", "device=cuda:9"], "device must be one this machine has"),
        (["--out", "/proc/nowhere"], "a folder that can be written"),
        (["--config", "nothing.toml"], "Write one with: toque new nothing.toml"),
        (["--set", "optimizer.learning_rate=1e30"], "loss must be finite"),
    ],
)
def test_bad_settings_are_one_sentence_and_write_nothing(toque, photos, tmp_path, words, sentence):
    code, stdout, stderr = toque("train", photos, *FAST, *words)
    assert code == 2 and stdout == ""
    last = stderr.splitlines()[-1]
    assert last.startswith("toque: ") and sentence in last
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_a_run_folder_of_other_settings_is_refused(toque, photos, trained):
    code, _, stderr = toque("train", photos, "--out", trained[0], *FAST, "--set", "seed=5")
    assert code == 2 and "epochs: 10.0 there, 2.0 here; " in stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["evaluate", "nowhere"], "must be a run folder"),
        (["predict", "nowhere", "a.jpg"], "must be a run folder"),
        (["predict", "RUN", "nowhere.jpg"], "nowhere.jpg"),
        (["train", "nowhere.toml"], "toque new nowhere.toml"),
    ],
)
def test_what_is_not_there_is_one_sentence(toque, trained, words, sentence):
    code, _, stderr = toque(*[trained[0] if word == "RUN" else word for word in words])
    assert code == 2 and sentence in stderr and stderr.count("\n") == 1


def test_a_damaged_weights_file_is_named(trained, toque, photos, tmp_path):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    (run / "weights.safetensors").write_bytes((run / "weights.safetensors").read_bytes()[:1000])
    code, _, stderr = toque("predict", run, photos / "val" / "left" / "0.jpg")
    assert code == 2 and "weights.safetensors must be a whole safetensors file" in stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_ends_in_the_same_bits(photos, tmp_path, number, code):
    def command(out):
        return [
            sys.executable,
            "-m",
            "toque",
            "train",
            str(photos),
            "--out",
            str(out),
            *FAST,
            "--set",
            "epochs=20",
            "--set",
            "checkpoint.every_s=1000",
        ]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    with subprocess.Popen(command(tmp_path / "run"), stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 60
        while (
            not list((tmp_path / "run").glob("checkpoints/images-*"))
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        os.kill(child.pid, number)
        _, stderr = child.communicate(timeout=60)
    assert child.returncode == code and "the same command continues" in stderr
    subprocess.run(command(tmp_path / "run"), check=True, capture_output=True)
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == (
        tmp_path / "whole" / "weights.safetensors"
    ).read_bytes()


def test_help_does_not_wait_for_torch_and_the_package_not_for_the_zoo():
    code = (
        "import sys\nsys.argv = ['toque', '--help']\nfrom toque import cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "slow = {'torch', 'numpy', 'pydantic', 'PIL', 'rich', 'tensorboard'} & set(sys.modules)\n"
        "print(slow, file=sys.stderr)\nassert not slow\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    code = (
        "import sys, toque\nfor room in toque._ROOMS: getattr(toque, room)\ntoque.fit\n"
        "slow = {'torchvision', 'timm', 'torchmetrics', 'tensorboard', 'PIL', 'jinja2', 'rich', 'simplejpeg'} & set(sys.modules)\n"
        "print(slow, file=sys.stderr)\nassert not slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version(toque):
    code, stdout, _ = toque("--version")
    assert code == 0 and re.match(r"\d+(\.\d+)*", stdout)


def test_a_run_is_reported_again_and_beside_another(trained, toque, tmp_path):
    out, _ = trained
    (out / "report.html").unlink()
    code, stdout, _ = toque("report", out)
    text = (out / "report.html").read_text()
    assert code == 0 and str(out / "report.html") in stdout and "What the model saw" in text
    shutil.copytree(out, tmp_path / "other")
    code, stdout, _ = toque("report", out, "other", "-o", "c.html")
    assert code == 0 and "equally accurate on these 8 validation images" in stdout
    assert "Settings that differ" in (tmp_path / "c.html").read_text()
    code, _, stderr = toque("report", "nowhere")
    assert code == 2 and "must be a run folder" in stderr


def test_a_report_without_its_images_has_no_pictures(trained, toque, tmp_path):
    out = tmp_path / "moved"
    shutil.copytree(trained[0], out)
    settings = (out / "run.toml").read_text()
    (out / "run.toml").write_text(re.sub(r'(?m)^data = ".*?"', 'data = "gone"', settings, count=1))
    code, stdout, _ = toque("report", out)
    assert code == 0 and "without pictures" in stdout
    text = (out / "report.html").read_text()
    assert "What the model saw" not in text and "What is taken for what" in text


def test_a_rate_is_proposed_and_a_run_profiled(photos, trained, toque, tmp_path):
    code, stdout, _ = toque(
        "tune-lr", photos, "--set", "batch_size=8", "--steps", "20", "-o", "t.html"
    )
    assert (code == 0 and "Believe it" in stdout) or "no rate can be proposed" in stdout
    if "next" in stdout:  # what was asked for stays in what to type
        assert f"next  toque train {photos} --set batch_size=8 --set optimizer.learn" in stdout
    assert (tmp_path / "t.html").is_file() and not (tmp_path / "runs").exists()
    code, stdout, _ = toque("profile", trained[0], "--steps", "2", "--json", "-o", "trace.json")
    answer = json.loads(stdout)
    assert code == 0 and answer["batch_size"] == 8 and "bottleneck" in answer["sentence"]
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def ascii_output(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    return raw


def test_a_letter_that_the_locale_lacks_is_a_question_mark_and_no_traceback(monkeypatch):
    raw = ascii_output(monkeypatch)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(cli, "app", lambda: print("2 × 3 …", flush=True))
    cli.main()
    assert raw.getvalue() == b"2 ? 3 ?\n"


def test_json_stays_the_same_text_where_the_locale_lacks_letters(monkeypatch):
    raw = ascii_output(monkeypatch)
    tree = {"image": "élève.jpg", "label": "猫"}
    predicted.print_json([predicted.Said("élève.jpg", ["猫"], {}, tree)])
    sys.stdout.flush()
    assert json.loads(raw.getvalue()) == [tree]
