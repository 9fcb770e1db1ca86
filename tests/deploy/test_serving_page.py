"""The page in a real browser: choose a picture, see the answer, see what is wrong."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.deploy.serving import Model, running
from tests.train.test_report_chromium import PATH_OF_BROWSER, Browser
from tests.waiting import until as wait_until
from toque.data.masks import palette
from toque.deploy.predictor import Predictor
from toque.deploy.serving import reloading

pytestmark = pytest.mark.skipif(
    PATH_OF_BROWSER is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def server(monkeypatch):
    made = Model(labels=("dark <b>and</b> gloomy", "bright"))
    monkeypatch.setattr(reloading, "load", made.predictor)
    with running("made up") as found:
        yield found


@pytest.fixture
def bright(tmp_path):
    file = tmp_path / "bright.png"
    Image.new("RGB", (40, 30), (204, 204, 204)).save(file)
    return file


def show(browser, server, width=1000, scheme="light", path="/"):
    browser.send(
        "Emulation.setDeviceMetricsOverride",
        width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
    )  # fmt: skip
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.send("Emulation.setEmulatedMedia", features=features)
    browser.events.clear()
    browser.send("Page.navigate", url=f"http://127.0.0.1:{server.port}{path}")
    until(browser, "document.readyState === 'complete' && document.getElementById('drop') !== null")


def until(browser, expression):
    wait_until(lambda: browser.evaluate(expression), expression)


def choose(browser, file):
    root = browser.send("DOM.getDocument")["root"]["nodeId"]
    field = browser.send("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.send("DOM.setFileInputFiles", nodeId=field, files=[str(file)])


def text(browser, name):
    return browser.evaluate(f"document.getElementById('{name}').textContent")


def visible(browser, name):
    return browser.evaluate(f"document.getElementById('{name}').checkVisibility()")


def test_a_picture_and_its_answer(browser, server, bright, tmp_path):
    show(browser, server)
    until(browser, "document.getElementById('model').textContent.includes('2 classes')")
    choose(browser, bright)
    until(browser, "document.getElementById('result').checkVisibility()")
    assert text(browser, "answer") == "bright, 80.0 %"
    rows = browser.evaluate("[...document.querySelectorAll('#classes tr')].map(r => r.textContent)")
    assert rows == ["bright80.0 %", "dark <b>and</b> gloomy20.0 %"]  # a name is a text, not markup
    assert text(browser, "time").startswith("Answered in ")
    until(browser, "document.getElementById('picture').naturalWidth === 40")
    assert browser.evaluate("document.activeElement.id") == "result"  # a screen reader goes there
    assert not visible(browser, "mistake")
    browser.screenshot(tmp_path / "answer.png")
    outside = [
        address for address in addresses(browser)
        if not address.startswith((f"http://127.0.0.1:{server.port}/", "blob:", "data:"))
    ]  # fmt: skip
    assert outside == [] and complaints(browser) == []


def addresses(browser):
    return [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]


def complaints(browser):
    kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    return [json.dumps(event) for event in browser.events if event.get("method") in kinds]


def test_what_is_no_picture(browser, server, tmp_path, bright):
    show(browser, server)
    wrong = tmp_path / "notes.png"
    wrong.write_text("not a picture")
    choose(browser, wrong)
    until(browser, "document.getElementById('mistake').checkVisibility()")
    assert text(browser, "mistake") == "The body must be a JPEG, PNG, WebP, GIF or BMP file."
    assert browser.evaluate("document.getElementById('mistake').getAttribute('role')") == "alert"
    choose(browser, bright)
    until(browser, "document.getElementById('result').checkVisibility()")
    assert not visible(browser, "mistake")


def test_pasted_and_dropped(browser, server):
    show(browser, server)
    picture = """
        const canvas = new OffscreenCanvas(8, 8); canvas.getContext('2d').fillRect(0, 0, 8, 8);
        const held = new DataTransfer();
        held.items.add(new File([await canvas.convertToBlob()], 'black.png'));
    """
    for event in (
        "new ClipboardEvent('paste', { clipboardData: held, bubbles: true })",
        "new DragEvent('drop', { dataTransfer: held, bubbles: true })",
    ):
        browser.evaluate("document.getElementById('result').hidden = true")
        browser.evaluate(f"(async () => {{ {picture} document.body.dispatchEvent({event}); }})()")
        until(browser, "document.getElementById('result').checkVisibility()")
        assert text(browser, "answer") == "dark <b>and</b> gloomy, 100.0 %"
    browser.evaluate(
        "document.body.dispatchEvent(new ClipboardEvent('paste', "
        "{ clipboardData: new DataTransfer(), bubbles: true }))"
    )
    assert text(browser, "mistake") == "There is no picture in the clipboard."


def test_where_it_looked_on_demand(browser, run, photos, tmp_path):
    with running(run) as server:
        show(browser, server)
        until(browser, "document.getElementById('model').textContent.includes('2 classes')")
        choose(browser, photos / "val" / "left" / "0.jpg")
        until(browser, "document.getElementById('look').checkVisibility()")
        before = browser.evaluate("document.getElementById('picture').src")
        press = "document.getElementById('look').click()"
        browser.evaluate(press)
        until(browser, "document.getElementById('look').getAttribute('aria-pressed') === 'true'")
        assert browser.evaluate("document.getElementById('picture').src") != before
        until(browser, "document.getElementById('picture').naturalWidth > 0")
        alt = browser.evaluate("document.getElementById('picture').alt")
        assert alt.startswith("The picture in gray, red where the network looked for ")
        browser.screenshot(tmp_path / "looked.png")
        browser.evaluate(press)  # back, and again without another question
        assert browser.evaluate("document.getElementById('picture').src") == before
        browser.evaluate(press)
        assert browser.evaluate("document.getElementById('picture').src") != before
        assert [row["path"] for row in server.log].count("/explain") == 1
        assert complaints(browser) == []


def test_no_button_where_nothing_can_be_shown(browser, server, bright):
    show(browser, server)
    until(browser, "document.getElementById('model').textContent.includes('2 classes')")
    choose(browser, bright)
    until(browser, "document.getElementById('result').checkVisibility()")
    assert not visible(browser, "look")


CAMERA = """
    navigator.mediaDevices.getUserMedia = async () => {
      const canvas = document.createElement('canvas'); canvas.width = 64; canvas.height = 48;
      const draw = () => { const c = canvas.getContext('2d'); c.fillStyle = 'white';
        c.fillRect(0, 0, 64, 48); window.drawing = requestAnimationFrame(draw); };
      draw();
      window.stream = canvas.captureStream();
      return window.stream;
    };
"""


def test_a_picture_from_the_camera(browser, server):
    show(browser, server)
    browser.evaluate(CAMERA)  # a headless browser has none; the rest of the way is the real one
    browser.evaluate("document.getElementById('camera').click()")
    until(browser, "document.getElementById('viewfinder').checkVisibility()")
    until(browser, "document.activeElement.id === 'shoot'")
    until(browser, "document.getElementById('video').videoWidth === 64")
    browser.evaluate("document.getElementById('shoot').click()")
    until(browser, "document.getElementById('result').checkVisibility()")
    assert text(browser, "answer").startswith("bright, ")
    assert not visible(browser, "viewfinder")
    ended = "window.stream.getTracks().every((track) => track.readyState === 'ended')"
    assert browser.evaluate(ended)  # the camera's light goes out


def test_without_a_camera(browser, server):
    show(browser, server)
    browser.evaluate("document.getElementById('camera').click()")
    until(browser, "document.getElementById('mistake').checkVisibility()")
    assert "camera" in text(browser, "mistake")


def test_a_server_that_has_gone(browser, monkeypatch, bright):
    made = Model()
    monkeypatch.setattr(reloading, "load", made.predictor)
    with running("made up") as server:
        show(browser, server)
        until(browser, "document.getElementById('model').textContent.includes('2 classes')")
    choose(browser, bright)
    until(browser, "document.getElementById('mistake').checkVisibility()")
    assert text(browser, "mistake").startswith("The server does not answer.")


def test_the_token_is_asked_for_once(browser, monkeypatch, bright):
    monkeypatch.setattr(reloading, "load", Model().predictor)
    with running("made up", token="s3cret") as server:
        show(browser, server)
        until(browser, "document.getElementById('access').checkVisibility()")
        choose(browser, bright)
        asked = {"path": "/predict", "status": 401}.items()
        wait_until(lambda: any(asked <= row.items() for row in server.log), "the question")
        browser.evaluate("document.getElementById('token').value = 's3cret'")
        browser.evaluate("document.getElementById('access').requestSubmit()")
        until(browser, "document.getElementById('result').checkVisibility()")
        assert not visible(browser, "access")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1000])
def test_it_fits_and_is_reached_by_the_keyboard(browser, server, bright, width, scheme, tmp_path):
    show(browser, server, width=width, scheme=scheme)
    reached = []
    for _ in range(2):
        for kind in ("rawKeyDown", "keyUp"):
            browser.send(
                "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
            )
        reached.append(browser.evaluate("document.activeElement.id"))
    assert reached == ["file", "camera"]
    choose(browser, bright)
    until(browser, "document.getElementById('result').checkVisibility()")
    browser.screenshot(tmp_path / f"{width}-{scheme}.png")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    low = browser.evaluate(CONTRASTS)
    assert low == []


# Every text on the page against the colour that lies behind it (WCAG 2.2, 1.4.3).
CONTRASTS = """(() => {
  const part = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const numbers = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => { const [r, g, b] = numbers(c); return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b); };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (numbers(c)[3] !== 0) return c; } return 'rgb(255,255,255)'; };
  const low = [];
  for (const e of document.querySelectorAll('body *')) {
    if (!e.checkVisibility() || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    const grounds = [behind(e)];
    const bar = e.parentElement.querySelector(':scope > .bar'); if (bar) grounds.push(getComputedStyle(bar).backgroundColor);
    for (const ground of grounds) {
      const [a, b] = [light(getComputedStyle(e).color), light(ground)].sort((x, y) => y - x);
      if ((a + 0.05) / (b + 0.05) < 4.5) low.push([e.id || e.tagName, e.textContent, (a + 0.05) / (b + 0.05)]);
    }
  }
  return low;
})()"""


@pytest.fixture(scope="module")
def shown_masks():
    """A made-up model of masks: whatever is bright is of the third class."""
    from toque.deploy.outputs import Masks

    def ask(images):
        brightness = [one[..., 0].astype(np.float32) for one in images]
        maps = [np.stack([0 * x, 0 * x - 1, x / 100 - 1]) for x in brightness]
        return np.stack(maps).astype(np.float32)

    labels = ("ground <i>", "sky", "cell")
    return Predictor("made up", labels, 3, ask, {"model": "made up"}, outputs=Masks())


def test_a_mask_over_the_picture(browser, monkeypatch, shown_masks, tmp_path):
    monkeypatch.setattr(reloading, "load", lambda *_, **__: shown_masks)
    file = tmp_path / "half.png"
    half = Image.new("RGB", (40, 30), (30, 30, 30))
    half.paste((220, 220, 220), (0, 0, 40, 15))
    half.save(file)
    with running("made up") as server:
        show(browser, server, width=390, scheme="dark")
        until(browser, "document.getElementById('model').textContent.includes('3 classes')")
        choose(browser, file)
        until(browser, "document.getElementById('look').getAttribute('aria-pressed') === 'true'")
        assert text(browser, "answer") == "ground <i> 50.0 %, cell 50.0 %"
        rows = "[...document.querySelectorAll('#classes tr')].map(r => r.textContent)"
        assert browser.evaluate(rows) == ["ground <i>50.0 %", "cell50.0 %"]  # what is there alone
        until(browser, "document.getElementById('picture').naturalWidth === 40")
        pixel = """(() => { const c = new OffscreenCanvas(40, 30), p = c.getContext('2d');
            p.drawImage(document.getElementById('picture'), 0, 0);
            return [...p.getImageData(20, AT, 1, 1).data].slice(0, 3); })()"""
        above, below = (browser.evaluate(pixel.replace("AT", at)) for at in ("5", "25"))
        assert below == [30, 30, 30]  # the first class stays as it is
        mixed = (palette(3)[2].astype(float) * 140 + np.array([220, 220, 220]) * 115) / 255
        assert np.abs(np.array(above) - mixed).max() <= 3
        browser.screenshot(tmp_path / "mask.png")
        browser.evaluate("document.getElementById('look').click()")
        assert browser.evaluate("document.getElementById('picture').alt") == "The picture you sent"
        width = browser.evaluate("document.documentElement.scrollWidth")
        assert width <= 390 and complaints(browser) == []


def test_numbers_on_the_page(browser, monkeypatch, bright, tmp_path):
    from toque.deploy.outputs import Numbers

    def ask(images):
        return np.array([[one.mean(), 0.5] for one in images], np.float32)

    made = Predictor("made up", ("area", "age"), 3, ask, {}, outputs=Numbers([0, 0], [1, 1]))
    monkeypatch.setattr(reloading, "load", lambda *_, **__: made)
    with running("made up") as server:
        show(browser, server)
        until(browser, "document.getElementById('model').textContent.includes('2 numbers')")
        choose(browser, bright)
        until(browser, "document.getElementById('result').checkVisibility()")
        assert text(browser, "answer") == "area 204, age 0.5"
        rows = "[...document.querySelectorAll('#classes tr')].map(r => r.textContent)"
        assert browser.evaluate(rows) == ["area204", "age0.5"]
        browser.screenshot(tmp_path / "numbers.png")
        assert not visible(browser, "look") and complaints(browser) == []
