"""Run folders -> what a comparison of them shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toque import checks
from toque.train.logs.log import read_rows
from toque.train.run_folder import folder, kept, outcome
from toque.train.run_folder.folder import read_run


def compare(paths: Sequence[Path], out: Path) -> list[str]:
    """Write a page about some runs; return the sentences on whether they differ.

    Raises: FileNotFoundError: no run folder
            ValueError: fewer than two runs, more than ten, or a file to write that has no folder
    """
    from toque.train.report import comparison

    if not 2 <= len(paths) <= comparison.MOST_RUNS:
        raise checks.invalid(
            "report", "RUN", f"2 to {comparison.MOST_RUNS} run folders", len(paths),
            "Compare fewer runs at a time." if len(paths) > 2 else "Name another run.",
        )  # fmt: skip
    checks.require_folder_of("report", "--out", out)
    runs = []
    for path, name in zip(paths, names(paths), strict=True):
        run, recorded = read_run(path)
        ended = outcome.read(path)
        answers = kept.read(path, ended.metrics, ended.loss) if ended else None
        runs.append(
            comparison.Compared(
                name=name,
                path=str(path),
                settings=run.as_dict(),
                rows=read_rows(path / folder.METRICS),
                metrics=ended.metrics if ended else {},
                loss=ended.loss if ended else None,
                scores=ended.scores if ended else None,
                answers=answers[0] if answers else None,
                intervals=ended.intervals if ended else {},
                fingerprint=str(recorded.get("data_fingerprint", "")),
                seconds=ended.seconds if ended else None,
                images_seen=ended.images_seen if ended else None,
            )
        )
    comparison.write(out, runs)
    return comparison.verdicts(runs)


def names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(part[-length:]) for part in parts]
        if len(set(ends)) == len(ends):
            return ends
    raise checks.invalid(
        "report", "RUN", "different run folders", [str(path) for path in paths], "Name each once."
    )
