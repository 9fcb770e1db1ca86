"""The environment of a run: what besides settings, data and seed can change its bits, and git."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from toque import cores

Fingerprint = dict[str, str | int]


def fingerprint(device: torch.device) -> Fingerprint:
    """What must be equal for a resumed run to end in the same bits as one never stopped.

    The number of threads changes the order of sums, the instruction set and the torch version
    change the kernels; equality across GPU models, or across any of these, is not promised.
    """
    found: Fingerprint = {
        "torch": torch.__version__,
        "device": device.type,
        "torch_threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        found["triton"] = _version_of("triton")  # its kernels augment the images there
        found["tf32"] = str(torch.backends.cuda.matmul.allow_tf32)
    return found


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """["torch_threads was 2, is 4", ...]: why a resumed run may not end in the same bits.

    The Python version is for the record only.
    """
    return [
        f"{name} was {before.get(name, 'not known')}, is {now.get(name, 'not known')}"
        for name in sorted(before.keys() | now.keys())
        if name != "python" and before.get(name) != now.get(name)
    ]


def num_cores() -> int:
    """The cores this process may use: its share, where torchrun started several on this machine."""
    return max(1, cores.usable() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def git_state(folder: Path) -> dict[str, str | bool] | None:
    """Commit and cleanness of the repository that `folder` lies in; None outside of one."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=5, check=True
    )
    return done.stdout.strip()
