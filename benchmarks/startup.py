"""How long a person waits before anything happens.

    python benchmarks/startup.py [--rounds 9] [--record]

`toque --help` as a whole process, and the import of toque with everything `toque.fit` needs over
that of torch and numpy alone; the commands take turns, wall and CPU seconds, medians and spread.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "toque --help": [sys.executable, "-m", "toque", "--help"],
    "import torch, numpy": [sys.executable, "-c", "import torch, numpy"],
    "import toque": [sys.executable, "-c", "import torch, numpy, toque"],
    "toque.fit": [sys.executable, "-c", "import torch, numpy, toque; toque.fit; toque.Run"],
}


def run(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for number in range(options.rounds + 1):
        for name, command in COMMANDS.items():
            times = run(command)
            if number:  # the first round warms the page cache
                taken[name].append(times)
    parts = []
    for name, times in taken.items():
        wall, cpu = ([one[which] for one in times] for which in (0, 1))
        parts.append(
            f"{name} {statistics.median(wall):.3f} s ({min(wall):.3f} to {max(wall):.3f}; CPU {statistics.median(cpu):.3f})"
        )
        print(parts[-1])
    for name in ("import toque", "toque.fit"):
        beyond = [
            mine[0] - torch[0]
            for mine, torch in zip(taken[name], taken["import torch, numpy"], strict=True)
        ]
        parts.append(
            f"{name} beyond torch {statistics.median(beyond):+.3f} s ({min(beyond):+.3f} to {max(beyond):+.3f})"
        )
        print(parts[-1])
    if options.record:
        from record import append

        append("Start", "; ".join(parts) + f"; n = {options.rounds}")


if __name__ == "__main__":
    main()
