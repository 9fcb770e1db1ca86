"""The page of toque check: findings -> HTML text -> file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toque import checks, durable
from toque.data import Finding, Findings, Item
from toque.train.report import images
from toque.train.report.template import render

_MOST_PICTURES = 48  # of one finding
_MOST_IN_GROUP = 8
_MOST_CLASSES = 500


@dataclass(frozen=True)
class Shown:
    """An image as the page shows it; without a source where it cannot be read."""

    source: str
    tiny: bool
    name: str
    part: str
    label: str
    remark: str


def write_check(path: Path, findings: Findings) -> None:
    """Write what a check found as one HTML file that needs no network.

    Raises:  MissingFile: the folder does not exist
             OSError: it cannot be written; `path` is as it was
    Example: >>> write_check(Path("check.html"), toque.data.check("photos/"))
    """
    path = Path(path)
    checks.require_folder_of("toque check", "--out", path)
    durable.write(path, render_check(findings))


def render_check(findings: Findings) -> str:
    """The text of the page; everything of the data is escaped by the template."""
    return render(
        "check.html",
        {
            "found": findings,
            "num_images": sum(part.num_images for part in findings.parts),
            "sections": [_section(finding, findings) for finding in findings.findings],
            "rows": _rows(findings),
        },
    )


def _section(finding: Finding, findings: Findings) -> dict[str, Any]:
    single = all(len(group) == 1 for group in finding.groups)
    groups: list[dict[str, Any]] = []
    num_shown = 0
    for number, group in enumerate(finding.groups):
        if num_shown >= _MOST_PICTURES:
            break
        remark = finding.remarks[number] if finding.remarks else ""
        pictures = [
            _shown(item, findings, remark if single else "") for item in group[:_MOST_IN_GROUP]
        ]
        num_shown += len(pictures)
        if single and groups:
            groups[0]["pictures"] += pictures
        else:
            groups.append({"remark": remark, "pictures": pictures})
    total = sum(map(len, finding.groups))
    more = f"{num_shown} of {total} images shown." if num_shown < total else ""
    return {
        "title": finding.kind.capitalize(),
        "problem": finding.problem,
        "says": finding.says,
        "groups": groups,
        "remarks_apart": not single,
        "more": more,
    }


def _shown(item: Item, findings: Findings, remark: str) -> Shown:
    source, tiny = "", False
    try:
        pixels = findings.read(item).permute(1, 2, 0).numpy()
    except (checks.UserMistake, OSError):
        pixels = None  # it cannot be read, as the remark says
    if pixels is not None and pixels.dtype == np.uint8:
        array = np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        source, tiny = images.data_uri(array), images.is_tiny(array)
    return Shown(source, tiny, item.name, item.part, item.label, remark)


def _rows(findings: Findings) -> list[list[Any]]:
    """Each class and its images in each part, the largest first."""
    names = dict.fromkeys(name for part in findings.parts for name in part.classes)
    counts: list[list[Any]] = [
        [name, *(part.classes.get(name, 0) for part in findings.parts)] for name in names if name
    ]
    return sorted(counts, key=lambda row: -row[1])[:_MOST_CLASSES]
