"""The guide runs as it stands: its Python, and the commands between."""

from tests import guides


def test_the_guide_runs(tmp_path, capsys):
    guides.run("data.md", tmp_path)
    assert (tmp_path / "check.html").is_file() and (tmp_path / "run" / "report.html").is_file()
    printed = capsys.readouterr().out
    (quoted,) = guides.printed("data.md")
    assert quoted in printed and "40 images" in printed
