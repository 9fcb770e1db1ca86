"""The guide's code blocks run as they stand, and its names exist."""

from tests import guides

from toque import augment


def test_the_guide_runs(tmp_path, capsys):
    guides.run("augmentation.md", tmp_path)
    (plan,) = guides.printed("augmentation.md")
    assert plan in capsys.readouterr().out


def test_every_public_name_is_documented():
    for name in augment.__all__:
        assert (getattr(augment, name).__doc__ or "").strip(), name
