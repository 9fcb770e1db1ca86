"""The training guide's code blocks run as they stand, one after the other."""

import re

from tests import guides
from toque.train.run import Run


def test_the_guide_runs(tmp_path, capsys):
    guides.run("training.md", tmp_path)
    printed, said = capsys.readouterr()
    assert "killed in step 24" in printed
    (planned,) = guides.printed("training.md")
    assert planned in said


def test_the_settings_it_names_exist():
    for path in re.findall(r"`([a-z]+\.[a-z_]+)(?: = [^`]*)?`", guides.text("training.md")):
        section, key = path.split(".")
        if hasattr(Run(), section):
            assert key in type(getattr(Run(), section)).model_fields, path
