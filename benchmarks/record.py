"""Appends a measured row to RESULTS.md: date, commit, hardware, versions, and what was measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "RESULTS.md"


def hardware() -> str:
    """ "2 cores Intel(R) Xeon(R) Processor (AVX512)" or with the GPU's name."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    text = f"{os.cpu_count()} cores {name} ({torch.backends.cpu.get_cpu_capability()})"
    return text + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")


def commit() -> str:
    """The short commit of the tree, with + where it was changed."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (
        "+" if git("status", "--porcelain", "../src") else ""
    )


def append(heading: str, measured: str) -> None:
    """Add one line under `## heading` of RESULTS.md, which is made if it is not there."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else "# Measured\n"
    line = (
        f"- {datetime.date.today().isoformat()}, {commit()}, {hardware()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}: {measured}. "
        f"`{' '.join(['python', 'benchmarks/' + Path(sys.argv[0]).name, *sys.argv[1:]])}`\n"
    )
    title = f"## {heading}\n"
    if title not in text:
        text = text.rstrip("\n") + f"\n\n{title}\n"
    before, _, after = text.partition(title)
    section, marker, rest = after.partition("\n## ")
    section = section.rstrip("\n") + "\n" + ("" if section.strip() else "\n") + line
    RESULTS.write_text(
        before + title + section + (marker and "\n" + marker.lstrip("\n")) + rest, encoding="utf-8"
    )
