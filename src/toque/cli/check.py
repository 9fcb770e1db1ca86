"""toque check: what is wrong with a data set, before training on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from toque.data import Findings
    from toque.data.checking.findings import Part

_MOST_LINES = 3


def check(
    data: Annotated[str, typer.Argument(help="A folder of images, 'fashion', or a packed cache.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="An HTML page to write.")
    ] = None,
    json_too: Annotated[
        bool, typer.Option("--json", help="Print all findings as JSON, and nothing else.")
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Also the labels that this run contradicts."),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of the split, where there is no val part.")
    ] = 0,
    val_fraction: Annotated[float, typer.Option(metavar="SHARE", help="Of that split.")] = 0.2,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="That decode.  [default: one per core]")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Decode every image and tell what is wrong with the data, or worth knowing.

    Files that cannot be read, validation images that were trained on (also nearly the same ones),
    copies, two labels for one picture; uneven classes, odd files, channel statistics. Ends with 0
    if there are no problems, 1 if there are, 2 if DATA is no data set.

    Example: toque check photos/ -o check.html
    """
    import json

    from toque.data import check as check_data

    found = check_data(
        data,
        seed=seed,
        val_fraction=val_fraction,
        threads=threads,
        show="quiet" if quiet or json_too else "auto",
    )
    if run is not None:
        from toque.train.studies.contradicted import contradicted

        for more, read in contradicted(run, show="quiet" if quiet or json_too else "auto"):
            found = found.with_finding(more, read)
    if out is not None:
        from toque.train.report.check_page import write_check

        write_check(out, found)
    if json_too:
        print(json.dumps(found.as_dict(), indent=1))
    elif not quiet:
        print(_summary(found, out))
    raise typer.Exit(0 if found.clean else 1)


def _of_classes(part: Part) -> str:
    """ "5 classes, ", or nothing where each image has numbers or a mask instead."""
    count = len(part.classes.keys() - {""})
    return f"{count} class{'' if count == 1 else 'es'}, " if count else ""


def _summary(found: Findings, out: Path | None) -> str:
    lines = [
        f"{part.name:8} {part.num_images} images, {_of_classes(part)}widths "
        f"{part.width[0]} to {part.width[2]}, heights {part.height[0]} to {part.height[2]}"
        for part in found.parts
    ]
    for finding in found.findings:
        lines.append(f"\n{'problem ' if finding.problem else 'note    '} {finding.says}")
        for number, group in enumerate(finding.groups[:_MOST_LINES]):
            remark = f"  ({finding.remarks[number]})" if finding.remarks else ""
            names = ", ".join(f"{item} [{item.label}]" for item in group[:_MOST_LINES])
            lines.append(f"           {names}{' …' if len(group) > _MOST_LINES else ''}{remark}")
        if len(finding.groups) > _MOST_LINES:
            lines.append(f"           and {len(finding.groups) - _MOST_LINES} more")
    if found.mean:
        lines.append(f"\nchannels  mean={list(found.mean)}, std={list(found.std)}")
    if out is not None:
        lines.append(f"page      {out}   (open it in a browser)")
    lines.append(
        "no problems found" if found.clean else
        f"{len(found.problems)} {'kinds of problems' if len(found.problems) > 1 else 'problem'}"
    )  # fmt: skip
    return "\n".join(lines)
