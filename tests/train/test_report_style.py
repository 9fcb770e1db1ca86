"""The colours of the report can be read, in the light, in the dark and on paper."""

from __future__ import annotations

import re
from importlib import resources

import pytest

STYLE = (resources.files("toque.train.report") / "style.css").read_text("utf-8")
PAIRS = [
    ("ink", "ground"), ("ink", "raised"), ("quiet", "ground"), ("quiet", "raised"),
    ("link", "ground"), ("link", "raised"), ("good", "ground"), ("bad", "ground"),
    ("note-ink", "note"), ("mark-ink", "mark"),
    *[("pale-ink", f"{kind}{level}") for kind in "de" for level in (1, 2, 3)],
    *[("deep-ink", f"{kind}{level}") for kind in "de" for level in (4, 5)],
]  # fmt: skip


def scheme(name: str) -> dict[str, str]:
    light, dark, paper = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    )
    return {"light": light, "dark": light | dark, "paper": light | paper}[name]


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("name", ["light", "dark", "paper"])
def test_text_has_a_contrast_of_at_least_4_5(name: str) -> None:
    colours = scheme(name)
    ratios = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in PAIRS}
    assert not {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5}


@pytest.mark.parametrize("name", ["light", "dark", "paper"])
def test_lines_have_a_contrast_of_at_least_3(name: str) -> None:
    colours = scheme(name)
    for line in ("train", "val", "quiet"):
        assert contrast(colours[line], colours["raised"]) >= 3


def test_contrast_is_the_one_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_the_dark_scheme_sets_every_colour_of_the_light_one() -> None:
    blocks = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    light, dark = (set(re.findall(r"--([\w-]+):", block)) for block in blocks[:2])
    assert light == dark


def test_every_colour_in_use_is_defined_once_and_by_name() -> None:
    used = set(re.findall(r"var\(--([\w-]+)\)", STYLE)) - {"share"}
    assert used == set(scheme("light"))
    outside = re.sub(r":root \{.*?\}", "", STYLE, flags=re.DOTALL)
    assert not re.findall(r"#[0-9a-f]{3,6}\b", outside)


def test_nothing_is_loaded() -> None:
    assert "url(" not in STYLE and "@import" not in STYLE
