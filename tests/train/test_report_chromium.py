"""The report in a real browser: no complaint, no request, nothing wider than a phone."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.test_compare import run as compared
from toque.models.signal import Signal, Watched
from toque.train import report
from toque.train.metrics import score
from toque.train.report import comparison, scatter

PATH_OF_BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


pytestmark = pytest.mark.skipif(
    PATH_OF_BROWSER is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)"
)


class Browser:
    """One page of a headless Chromium, spoken to over a pipe: no port, no driver, no package."""

    def __init__(self, profile: Path) -> None:
        # The browser reads commands from descriptor 3 and answers on 4.
        their_input, self._output = os.pipe()
        self._input, their_output = os.pipe()
        command = [
            "sh",
            "-c",
            f'exec "$@" 3</dev/fd/{their_input} 4>/dev/fd/{their_output}',
            "sh",
            str(PATH_OF_BROWSER),
        ]
        self._process = subprocess.Popen(
            [*command, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(their_input, their_output),
            stderr=subprocess.DEVNULL,
        )
        os.close(their_input)
        os.close(their_output)
        self._count, self._buffer, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        page = next(
            target
            for target in self.send("Target.getTargets")["targetInfos"]
            if target["type"] == "page"
        )
        attached = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._session = ""
            self.send("Browser.close")
            self._process.wait(5)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._input)
            os.close(self._output)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the DevTools protocol and wait for its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._output, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, file: Path, *, width: int, height: int, scheme: str, scale: float = 1) -> None:
        """Show a file at a width, in the "light" or "dark" scheme, and wait until it is drawn."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=width < 600,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.events.clear()  # those of the page before
        self.send("Page.navigate", url=file.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, to: Path, whole: bool = True) -> None:
        """Write what is shown, or the whole page, as a PNG."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        to.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """What the page wrote to the console, and every address it asked for outside itself."""
        said = []
        for event in self.events:
            method, parameters = event.get("method"), event.get("params", {})
            if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                said.append(json.dumps(parameters))
            elif method == "Network.requestWillBeSent":
                address = parameters["request"]["url"]
                if not address.startswith(("data:", "file:", "about:")):
                    said.append(address)
        return said

    def _read(self, limit_s: float = 30.0) -> dict[str, Any]:
        end = time.monotonic() + limit_s
        while b"\0" not in self._buffer:
            if not select.select([self._input], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser did not answer")
            part = os.read(self._input, 1 << 20)
            if not part:
                raise TimeoutError("the browser has gone")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(message))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with all parts, long words and many classes: what is likeliest to be too wide."""
    generator = np.random.RandomState(0)
    word = "a_name_of_a_length_that_nobody_would_break_" * 2
    classes = [f"{word}{k}" for k in range(24)]
    pixels = generator.randint(0, 256, (90, 200, 3)).astype(np.uint8)
    pictures = [report.Picture(pixels, f"{word}.jpg", classes[0], classes[1], 0.9)] * 5
    metrics = [
        {"images_seen": n * 100, "epoch": n / 10, "split": split, "loss": 2 / n, "accuracy": 1 - 1 / n,
         "images_per_s": 100.0, "learning_rate": 0.1, "time_s": 90.0 * n, "memory_bytes": n * 2**25,
         "data_s": 20.0, "host_s": 1.0, "device_s": 60.0, "checkpoint_s": 2.0, "validation_s": 7.0}
        for n in range(1, 101)
        for split in (("train", "val") if n % 10 == 0 else ("train",))
    ]  # fmt: skip
    probabilities = generator.dirichlet(np.ones(24), 400).astype(np.float32)
    layers = [
        Watched(f"{word}.{n}", "Conv2d", 0.0, 1.1**n, 0.1, 0.5, 0.0, 0.9**n) for n in range(30)
    ]
    true, many = generator.uniform(-50, 1950, (200, 1)), generator.uniform(0, 1, (5000, 1))
    data = report.ReportData(
        scores=score(np.arange(400), generator.randint(0, 24, 400), probabilities, seed=0),
        signal=Signal(tuple(layers), (), (word,)), suspects=pictures, advice=word,
        doubtful=[report.Doubtful(f"{word}.jpg", classes[0], classes[1])] * 5, doubted=word,
        answered=[
            *scatter.charts([word], true, true + generator.normal(0, 9, true.shape)),
            *scatter.charts(["many"], many, many**2 + generator.normal(0, 0.1, many.shape)),
        ],
        title=word, settings={word: word, "epochs": 10}, changed={word}, metrics=metrics, classes=classes,
        confusion=generator.randint(0, 5, (24, 24)) + 30 * np.eye(24, dtype=int), mistakes=pictures,
        correct=pictures, augmented=pictures, environment={word: word}, notes=[word * 3],
        outcome={"accuracy": 0.5, "best_epoch": 5, "weights": "weights.safetensors", "sha256": "ab" * 32},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write(path, data)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_report_is_whole(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.open(page, width=width, height=800, scheme=scheme)
    # All that is folded away has to fit as well.
    browser.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    broken = "[...document.images].filter(image => !image.naturalWidth).length"
    assert browser.evaluate(broken) == 0
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 29)"}[scheme]
    kept = os.environ.get("TOQUE_SCREENSHOTS")  # CI keeps them for a person to look at
    folder = Path(kept) if kept else page.parent
    browser.screenshot(folder / f"report-{width}-{scheme}.png")
    assert browser.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_comparison_is_whole(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    word = "a_name_of_a_length_that_nobody_would_break_" * 2
    runs = [compared(f"{word}{n}", 0.5 + n / 30, settings={word: n}) for n in range(10)]
    comparison.write(tmp_path / "compare.html", runs)
    browser.open(tmp_path / "compare.html", width=width, height=800, scheme=scheme)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    # Ten runs, ten strokes: colour and dashes together tell them apart.
    strokes = """new Set([...document.querySelectorAll('.plot:first-of-type path:not(.grid):not(.dot)')]
        .map(path => { const style = getComputedStyle(path); return style.stroke + style.strokeDasharray }))
        .size"""
    assert browser.evaluate(strokes) == 10
    kept = os.environ.get("TOQUE_SCREENSHOTS")
    browser.screenshot((Path(kept) if kept else tmp_path) / f"compare-{width}-{scheme}.png")
    assert browser.complaints() == []


def test_axis_labels_do_not_run_into_each_other(browser: Browser, page: Path) -> None:
    browser.open(page, width=360, height=800, scheme="light")
    overlaps = """[...document.querySelectorAll('.plot .x, .plot .y')].flatMap(axis => {
        const boxes = [...axis.querySelectorAll('span')].map(label => label.getBoundingClientRect());
        const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
        return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => meet(a, b)));
    }).length"""
    assert browser.evaluate(overlaps) == 0


def test_what_the_page_must_not_do_is_noticed(browser: Browser, tmp_path: Path) -> None:
    """The check above is worth something: a script and a picture from outside are complained about."""
    text = report.render(report.ReportData(title="t"))
    bad = "<script>console.log(1)</script><img src='http://127.0.0.1:9/x.png' alt=''>"
    (tmp_path / "bad.html").write_text(text.replace("</main>", bad + "</main>"), "utf-8")
    browser.open(tmp_path / "bad.html", width=360, height=800, scheme="light")
    complaints = " ".join(browser.complaints())
    assert "script" in complaints and "img-src" in complaints


def test_scrollable_parts_can_be_reached_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page, width=360, height=800, scheme="light")
    unreachable = """[...document.querySelectorAll('*')].filter(part =>
        part.scrollWidth > part.clientWidth + 1 && part.tabIndex < 0
        && ['auto', 'scroll'].includes(getComputedStyle(part).overflowX)).length"""
    assert browser.evaluate(unreachable) == 0
    browser.send(
        "Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9
    )
    assert browser.evaluate("document.activeElement.className") == "skip"
