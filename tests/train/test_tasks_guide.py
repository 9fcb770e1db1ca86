"""The guide on tasks: its blocks run as they stand, in order, and learn what they say."""

from tests import guides


def test_the_guide_runs(tmp_path):
    names = guides.run("tasks.md", tmp_path)
    assert (
        names["squares"].run.task == "segmentation" and names["squares"].run.model == "unet_small"
    )
    assert names["squares"].evaluation.metrics["mean_iou"] > 0.5
    assert names["areas"].run.task == "regression" and names["labels"].run.task == "multilabel"
    assert sorted(path.name for path in (tmp_path / "answers").iterdir()) == ["00.png", "01.png"]
    area = names["found"][0].numbers["area"]
    assert names["mask"].mask.shape == (32, 32) and -200 < area < 700  # pixels, not deviations
    assert len(names["splits"].train) + len(names["splits"].val) == 40
