"""The guide's blocks run as they stand, in order: Python and shell."""

from tests import guides


def test_the_guide_runs(run, photos, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/photos").symlink_to(run)
    (tmp_path / "photos").symlink_to(photos)
    guides.run("deploy.md", tmp_path)
    assert (tmp_path / "photos.onnx").is_file() and (tmp_path / "answers.csv").is_file()
