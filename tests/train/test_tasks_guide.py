"""The guide on tasks: its blocks run as they stand, in order, and learn what they say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs/guide/tasks.md"


@pytest.mark.skipif(not GUIDE.exists(), reason="the guide is not part of an installed package")
def test_the_blocks_of_the_guide_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = re.findall(r"```(python|bash)\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    kinds = ["python", "bash", "python", "python", "python", "bash", "python"]
    assert [kind for kind, _ in blocks] == kinds
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, str(GUIDE), "exec"), names)
        else:
            command = block.replace("toque ", f"{sys.executable} -m toque ")
            subprocess.run(["bash", "-euc", command], check=True, capture_output=True)
    assert (
        names["squares"].run.task == "segmentation" and names["squares"].run.model == "unet_small"
    )
    assert names["squares"].evaluation.metrics["mean_iou"] > 0.5
    assert names["areas"].run.task == "regression" and names["labels"].run.task == "multilabel"
    assert sorted(path.name for path in (tmp_path / "answers").iterdir()) == ["00.png", "01.png"]
    area = names["found"][0].numbers["area"]
    assert names["mask"].mask.shape == (32, 32) and -200 < area < 700  # pixels, not deviations
    assert len(names["splits"].train) + len(names["splits"].val) == 40
