"""The report: one whole, safe file, whatever the names of files and classes."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toque.models.signal import Signal, Watched
from toque.train import report
from toque.train.metrics import Interval, Scores, score
from toque.train.metrics.calibration import Bin, Calibration
from toque.train.metrics.calibration import reliability as bins_of
from toque.train.metrics.shown import Table
from toque.train.report import Picture, ReportData, over_time, reliability
from toque.train.tasks import Multilabel

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'><b>&amp;{{ 7 * 7 }}"
VOID = {"meta", "link", "img", "br", "path", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables:
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def rows(epochs: int = 4) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for n in range(1, epochs * 5 + 1):
        made.append({
            "images_seen": n * 200, "epoch": n / 5, "split": "train", "loss": 2 / n, "memory_bytes": n * 2**28,
            "accuracy": 1 - 1 / (n + 1), "images_per_s": 900.0, "learning_rate": 0.1 / n, "time_s": n,
        })  # fmt: skip
        if n % 5 == 0:
            made.append({
                "images_seen": n * 200, "epoch": n / 5, "split": "val", "loss": 2.5 / n, "accuracy": 0.8,
                "data_s": 3.0, "host_s": 1.0, "device_s": 5.0, "checkpoint_s": 0.5, "validation_s": 0.5,
            })  # fmt: skip
    return made


def scores(classes: int) -> Scores:
    generator = np.random.RandomState(0)
    probabilities = generator.dirichlet(np.ones(classes), 60).astype(np.float32)
    return score(np.arange(60), generator.randint(0, classes, 60), probabilities, seed=0)


def whole(classes: int = 3, **changes: Any) -> ReportData:
    generator = np.random.RandomState(0)
    pixels = generator.randint(0, 256, (40, 60, 3)).astype(np.uint8)
    matrix = generator.randint(0, 9, (classes, classes)) + 20 * np.eye(classes, dtype=int)
    contents: dict[str, Any] = {
        "title": "a run",
        "settings": {"epochs": 4, "optimizer": {"name": "SGD", "lr": 0.1}, "ema": None},
        "changed": {"optimizer.lr"},
        "metrics": rows(),
        "classes": tuple(f"class {k}" for k in range(classes)),
        "confusion": matrix,
        "mistakes": [Picture(pixels, "m/1.jpg", "class 0", "class 1", 0.987)],
        "correct": [Picture(pixels[..., 0], "c/1.jpg", "class 1", "class 1", 0.5)],
        "augmented": [Picture(pixels, "a/1.jpg", caption="class 0, flipped")] * 3,
        "environment": {"torch": "2.14.1", "git": {"commit": "abc123", "dirty": False}},
        "outcome": {
            "accuracy": np.trace(matrix) / matrix.sum(), "loss": 0.5, "best_epoch": 3.0,
            "seconds": 161.0, "images_seen": 4000, "weights": "weights.safetensors", "sha256": "ab" * 32,
        },
        "notes": ["2 files were left out"],
        "scores": scores(classes),
        "advice": "30 % of the time was waiting for images: raise threads to 4.",
        "signal": Signal(
            tuple(Watched(f"layer.{n}", "Conv2d", 0.0, 10.0**-n, 0.25, 0.5, 0.0, 1e-3) for n in range(4)),
            ("activations vanish by -3.0 decades from first to last layer",), (),
        ),
        "suspects": [Picture(pixels, "s/1.jpg", "class 0", "class 1", 0.7)],
        "doubtful": [report.Doubtful("s/1.jpg", "class 0 (2.0 %)", "class 1 (71.0 %)")] * 3,
        "doubted": "whose label the model contradicts",
    }  # fmt: skip
    return ReportData(**(contents | changes))


def test_the_page_says_what_the_run_did() -> None:
    page = Page(report.render(whole()))
    for said in (
        "a run", "2 min 41 s", "2 files were left out", "weights.safetensors", "ab" * 32, "git.commit",
        "abc123", "98.7\N{NO-BREAK SPACE}%", "class 0, flipped",
    ):  # fmt: skip
        assert said in page.text, said
    charts = [svg["aria-label"] for svg in page.all("svg") if "aria-label" in svg]
    assert [label.split(" over ")[0] for label in charts] == [
        "Loss", "Accuracy", "Learning rate", "Images a second", "Most memory so far, GiB",
        "Sure, and right", "Size, layer by layer",
    ]  # fmt: skip
    assert "Validation: from 0.5 to 0.125" in charts[0]


def test_the_matrix_is_the_given_one() -> None:
    data = whole(classes=3)
    assert data.confusion is not None
    table = next(t for t in Page(report.render(data)).tables if t[0][1:] == list(data.classes))
    assert [[int(cell) for cell in row[1:]] for row in table[1:]] == data.confusion.tolist()
    assert [row[0] for row in table[1:]] == list(data.classes)


def test_settings_that_differ_are_marked_and_no_others() -> None:
    text = report.render(whole())
    assert re.findall(r"<code>([\w.]+)</code></th><td><code>[^<]*</code> <mark>", text) == [
        "optimizer.lr"
    ]
    assert "All settings are the defaults" in report.render(whole(changed=set()))


def test_numbers_stand_in_a_table_beside_the_charts() -> None:
    table = next(t for t in Page(report.render(whole())).tables if t[0][0] == "Epoch")
    assert len(table) == 1 + 4
    assert table[-1] == ["4.00", "4,000", "0.1000", "0.1250", "95.24%", "80.00%", "0.005", "900"]


def test_names_of_files_and_classes_cannot_act() -> None:
    pixels = np.zeros((4, 4), np.uint8)
    picture = Picture(pixels, EVIL, EVIL, EVIL + "2", 0.9, EVIL)
    classes = (EVIL, EVIL + "2")
    data = ReportData(
        title=EVIL, settings={EVIL: {EVIL: EVIL}}, changed={f"{EVIL}.{EVIL}"}, classes=classes,
        metrics=[{"images_seen": 1, "split": "train", "loss": EVIL, "epoch": EVIL}, *rows()],
        confusion=np.array([[1, 2], [3, 4]]), mistakes=[picture], correct=[picture], augmented=[picture],
        environment={EVIL: [EVIL]}, outcome={"weights": EVIL, "sha256": EVIL, EVIL: EVIL}, notes=[EVIL], next_steps=[EVIL],
    )  # fmt: skip
    for shown in (
        data,
        ReportData(title="many", classes=[EVIL] * 40, confusion=np.ones((40, 40), int)),
    ):
        page = Page(report.render(shown))
        names = {tag for tag, _ in page.tags}
        assert not names & {"script", "iframe", "object", "embed", "form", "base"}
        assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
        assert all(image["src"].startswith("data:image/") for image in page.all("img"))
        assert "{{ 7 * 7 }}" in page.text and "49<" not in page.text  # shown as it is, not run


def test_nothing_is_asked_from_outside() -> None:
    page = Page(report.render(whole()))
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "poster", "xlink:href"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#")), (tag, attributes)
        assert "url(" not in attributes.get("style", "")
    policy = next(meta for meta in page.all("meta") if "http-equiv" in meta)
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_screen_readers_find_their_way() -> None:
    page = Page(report.render(whole()))
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(image.get("alt") for image in page.all("img"))
    alts = [image["alt"] for image in page.all("img")]
    assert "m/1.jpg, predicted class 1 at 98.7\N{NO-BREAK SPACE}%, true class 0" in alts
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in head for head in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a in page.all("a")}
    targets |= {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    assert targets <= set(ids)


@pytest.mark.parametrize("classes", [1, 2, 30, 31, 1000])
def test_any_number_of_classes_makes_a_page_of_sensible_size(classes: int) -> None:
    text = report.render(whole(classes=classes))
    page = Page(text)
    assert len(text) < 1_500_000
    assert ("Confusion matrix of" in "".join(i["alt"] for i in page.all("img"))) == (classes > 30)


def test_a_run_of_any_length_makes_a_page_of_sensible_size() -> None:
    photo = (
        np.random.RandomState(0)
        .randint(0, 256, (8, 8, 3))
        .astype(np.uint8)
        .repeat(60, 0)
        .repeat(60, 1)
    )
    many = [Picture(photo, f"{n}.jpg", "class 0", "class 1", 0.9) for n in range(500)]
    text = report.render(whole(metrics=rows(2000), mistakes=many, correct=many, augmented=many))
    assert len(text) < 1_500_000
    assert text.count("48 of 500 shown.") == 3
    table = next(t for t in Page(text).tables if t[0][0] == "Epoch")
    assert len(table) <= 201 and table[-1][0] == "2000.00"


@pytest.mark.parametrize(
    "data",
    [
        ReportData(title="nothing"),
        ReportData(title="no images", classes=("a", "b"), confusion=np.zeros((2, 2), int)),
        ReportData(title="no classes", confusion=np.zeros((0, 0), int)),
        ReportData(
            title="one row", metrics=[{"images_seen": 0, "epoch": 0.0, "split": "val", "loss": 1.0}]
        ),
        ReportData(
            title="lost", metrics=[{"images_seen": 5, "epoch": 1, "split": "train", "loss": np.nan}]
        ),
        ReportData(
            title="gaps", metrics=[{"images_seen": None, "split": "train", "loss": None}, {}]
        ),
        ReportData(
            title="vast",
            metrics=[
                {"images_seen": n, "split": "train", "loss": (-1) ** n * 1e308} for n in (1, 2)
            ],
        ),
        ReportData(
            title="odd",
            outcome={"accuracy": None, "loss": float("inf"), "seconds": 0, "images_seen": 5},
        ),
    ],
    ids=lambda data: data.title,
)
def test_what_is_missing_is_left_out(data: ReportData) -> None:
    page = Page(report.render(data))
    assert data.title in page.text
    assert "None" not in page.text and "nan" not in page.text


def test_an_accuracy_that_is_not_the_matrix_one_gets_no_interval() -> None:
    assert "at 95 % confidence" in report.render(whole())
    assert "at 95 % confidence" not in report.render(whole(outcome={"accuracy": 0.1}))


def test_the_same_data_gives_the_same_page() -> None:
    assert report.render(whole()) == report.render(whole())


def test_write_leaves_one_file(tmp_path: Path) -> None:
    report.write(tmp_path / "report.html", whole())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text("utf-8") == report.render(whole())
    report.write(tmp_path / "report.html", whole(title="later"))
    assert "later" in (tmp_path / "report.html").read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    report.write(tmp_path / "report.html", whole())
    before = (tmp_path / "report.html").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
    with pytest.raises(OSError, match="No space"):
        report.write(tmp_path / "report.html", whole(title="later"))
    assert (tmp_path / "report.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_new_report_is_on_the_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        did.append("sync")
        fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        did.append("rename")
        assert self.parent == target.parent
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    report.write(tmp_path / "report.html", whole())
    assert did == ["sync", "rename", "sync"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"report: path must be in a folder that exists; got .*none"
    ):
        report.write(tmp_path / "none" / "report.html", whole())


def test_mistakes_in_the_contents_are_named() -> None:
    with pytest.raises(ValueError, match=r"confusion must be of shape \[2, 2\].*; got \[3, 3\]"):
        ReportData(title="t", classes=("a", "b"), confusion=np.zeros((3, 3), int))
    with pytest.raises(TypeError, match="confusion must be integers; got float64"):
        ReportData(title="t", classes=("a",), confusion=np.zeros((1, 1)))
    with pytest.raises(ValueError, match="confusion must be >= 0; got -1"):
        ReportData(title="t", classes=("a",), confusion=np.array([[-1]]))
    with pytest.raises(TypeError, match="image must be uint8; got float64"):
        Picture(np.zeros((2, 2)), "x")
    with pytest.raises(ValueError, match=r"image must be of shape .*; got \[3, 4, 4\]"):
        Picture(np.zeros((3, 4, 4), np.uint8), "x")
    with pytest.raises(ValueError, match=r"image must be of shape .*; got \[0, 4\]"):
        Picture(np.zeros((0, 4), np.uint8), "x")


def test_importing_the_report_imports_neither_jinja_nor_pillow() -> None:
    code = "import sys, toque.train.report; print([m for m in ('jinja2', 'PIL.Image') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_says_where_the_time_went() -> None:
    page = Page(report.render(whole()))
    for said in ("30.0\N{NO-BREAK SPACE}% waiting for images", "50.0\N{NO-BREAK SPACE}% computing"):
        assert said in page.text
    assert "raise threads to 4." in page.text
    parts = [
        float(part["style"].split(":")[1])
        for part in page.all("i")
        if "flex-grow" in part.get("style", "")
    ]
    assert len(parts) == 5 and sum(parts) == pytest.approx(1000)


def test_memory_and_speed_are_drawn_over_time_also_of_a_run_that_was_continued() -> None:
    times = [10.0, 20.0, 5.0, 15.0]
    assert over_time.elapsed([{"time_s": t} for t in times]).tolist() == [10, 20, 25, 35]
    made = [{"split": "train", "time_s": 3600.0 * n, "images_per_s": 10.0} for n in range(4)]
    charts = over_time.charts(made)
    assert [chart.title for chart in charts] == ["Images a second"]
    assert charts[0].across == "hours" and charts[0].x_ticks[-1].label.startswith("3")


def test_scores_stand_beside_how_sure_they_are() -> None:
    found = scores(7)
    page = Page(report.render(whole(7)))
    table = next(t for t in page.tables if t[0][0] == "Score")
    cells = {row[0]: row[1:] for row in table}
    low, high = 100 * found.accuracy.low, 100 * found.accuracy.high
    assert cells["Accuracy"][1] == f"{low:.1f} to {high:.1f} %" and "Top 5" in cells
    assert found.calibration.sentence() in page.text
    assert "Top 5" not in Page(report.render(whole(3))).text


def test_the_reliability_diagram_has_a_bar_for_each_bin() -> None:
    found = Calibration((Bin(0.0, 0.5, 3, 0.3, 0.25), Bin(0.5, 1.0, 1, 0.9, 1.0)), 0.1, 1.2, 0.1)
    chart = reliability.chart(found.bins)
    assert [bar.path for bar in chart.dots] == [
        "M8.0 1000.0V750.0H492.0V1000.0z", "M508.0 1000.0V0.0H992.0V1000.0z",
    ]  # fmt: skip
    assert "3 images between 0 and 50 % sure" in chart.summary


def test_labels_to_check_are_listed() -> None:
    data = whole()
    page = Page(report.render(data))
    assert "Validation images whose label the model contradicts: 3." in page.text
    table = next(t for t in page.tables if t[0] == ["Image", "Label", "Answer"])
    assert table[1] == ["s/1.jpg", "class 0 (2.0 %)", "class 1 (71.0 %)"]
    learnt = report.Learnt("whose mask is odd", 40, 2, data.doubtful[:2], data.suspects)
    page = Page(report.render(whole(learnt=learnt)))
    assert "Training images whose mask is odd: 2 of 40." in page.text
    assert [t[0] for t in page.tables].count(["Image", "Label", "Answer"]) == 2


def test_the_signal_is_drawn_in_powers_of_ten() -> None:
    page = Page(report.render(whole()))
    assert "Bad: activations vanish by -3.0 decades" in page.text and "1e-3" in page.text
    label = next(
        svg["aria-label"] for svg in page.all("svg") if svg.get("aria-label", "").startswith("Size")
    )
    assert "Outputs: from 1 to 0.001" in label and "layers" in label


def test_parts_that_are_missing_leave_no_trace() -> None:
    text = report.render(ReportData(title="t"))
    for part in ("time", "scores", "suspects", "signal"):
        assert f'id="{part}"' not in text


def test_several_labels_are_shown_by_what_decides() -> None:
    targets, shares = np.array([0, 0, 1, 1]) > 0, np.array([0.1, 0.1, 0.1, 0.9])
    rows = [
        {"split": "train", "epoch": 1.0, "images_seen": 8, "loss": 0.5},
        {
            "split": "val",
            "epoch": 1.0,
            "images_seen": 8,
            "loss": 0.4,
            "mean_average_precision": 0.25,
        },
    ]
    said = [
        ("x.png", "a: missing", "there (99.0 %)"),
        ("x.png", "b: superfluous", "not there (98.0 %)"),
    ]
    data = ReportData(
        title="labels", metrics=rows, measured=Multilabel.metrics, classes=["a", "b"],
        outcome={"mean_average_precision": 0.25}, reliability=bins_of(shares, targets),
        intervals={"mean_average_precision": Interval(0.25, 0.2, 0.3)},
        table=Table(("label", "threshold"), [("a", "0.2"), ("b", "0.5")], "What it means."),
        doubtful=[report.Doubtful(*one) for one in said], doubted="so doubted",
        doubted_kinds=" (labels: 1 missing, 1 superfluous)", cannot_tell="This it cannot tell.",
    )  # fmt: skip
    page = Page(report.render(data))
    assert "Validation images so doubted: 1 (labels: 1 missing, 1 superfluous)." in page.text
    assert "This it cannot tell." in page.text and "What it means." in page.text
    # Three of 0.1 of which one is there, and one of 0.9 that is: 3/4 * 0.2333 + 1/4 * 0.1.
    assert re.search(r"lie 20\.0\s% apart", page.text) and "Probable, and there" in page.text
    assert "MAP" not in page.text and "mAP" in page.text
    (numbers,) = [one for one in page.tables if "Epoch" in one[0]]
    assert numbers[0][4] == "Validation mAP" and numbers[1][4] == "25.00 %"
    assert ["x.png", "b: superfluous", "not there (98.0 %)"] in page.tables[-1]
    nothing = dataclasses.replace(data, doubtful=[], doubted_kinds="")
    assert "Validation images so doubted: 0. This it cannot" in Page(report.render(nothing)).text
