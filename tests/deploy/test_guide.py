"""The guide's blocks run as they stand, in order: Python and shell."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs/guide/deploy.md"


@pytest.mark.skipif(not GUIDE.exists(), reason="the guide is not part of an installed package")
def test_the_blocks_of_the_guide_run(run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/photos").symlink_to(run)
    (tmp_path / "photos").symlink_to(photos)
    names: dict[str, object] = {}
    blocks = re.findall(r"```(python|bash)\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    assert len(blocks) == 5
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, str(GUIDE), "exec"), names)
        else:
            command = block.replace("toque ", f"{sys.executable} -m toque ")
            subprocess.run(["bash", "-euc", command], check=True, capture_output=True)
    assert (tmp_path / "photos.onnx").is_file() and (tmp_path / "answers.csv").is_file()
