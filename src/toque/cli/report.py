"""toque report: the page of a run, or of several runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One or more run folders.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The page that compares several runs.")
    ] = Path("compare.html"),
) -> None:
    """Write a run's report.html again, or one page that compares several runs.

    Example: toque report runs/first runs/second -o compare.html
    """
    from toque import checks
    from toque.cli.waiting import waiting

    if len(runs) > 1:
        from toque.train.studies.comparing import compare

        with waiting("comparing the runs"):
            sentences = compare(runs, out)
        for sentence in sentences:
            print(sentence)
        print(f"\ncomparison  {out}   (open it in a browser)")
        return
    from toque.train import prepare, reporting
    from toque.train.run_folder.folder import read_run

    run, recorded = read_run(runs[0])
    splits = None
    try:
        if run.data != prepare.OWN:
            splits = prepare.open_splits(run, prepare.Own())
    except checks.UserMistake as mistake:
        print(f"without pictures, because the data cannot be opened: {mistake}")
    if splits and prepare.data_fingerprint(splits) != recorded.get("data_fingerprint"):
        splits = None
        print(f"without pictures, because {run.data} has changed since the run began")
    with waiting("drawing the report"):
        page = reporting.write_report(runs[0], splits)
    print(f"report  {page}   (open it in a browser)")
