"""The page that newcomers start from: it runs as it stands, and leads to every other page."""

import json
import re

from tests import guides
from toque.train.run import Run
from toque.train.settings import refusal


def test_the_first_page_runs_and_learns_something(tmp_path, capsys):
    guides.run("README.md", tmp_path)
    assert capsys.readouterr().out.endswith("stripes\n")
    assert (tmp_path / "runs/photos/report.html").is_file()
    ended = json.loads((tmp_path / "runs/photos/result.json").read_text())
    assert ended["accuracy"] > 0.8


def test_it_leads_to_every_page_and_names_settings_that_exist():
    page = guides.text("README.md")
    linked = set(re.findall(r"\]\((\w+\.md)\)", page))
    assert linked == {file.name for file in guides.FOLDER.glob("*.md")} - {"README.md"}
    for path in re.findall(r"`([a-z_.]+)=[^`]*`", page):
        known = refusal._paths(Run)
        assert path in known, path
