"""The four tasks: metrics against scikit-learn's, and runs that learn what there is to learn."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import toque
from toque import data
from toque.data.masks import decode_mask
from toque.random import Key
from toque.train import tasks
from toque.train.run_folder import kept, outcome
from toque.train.steps.step import Step
from toque.train.tasks import multilabel, regression, segmentation

metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn, of the extra dev")

DRAW = np.random.default_rng(0)


def quiet(out, train, val, **settings):
    run = toque.Run(
        out=str(out),
        **{"augment": "none", "log": {"tensorboard": False}, "batch_size": 16, **settings},
    )
    return toque.fit(run, train=train, val=val, show="quiet")


def rows_of(result):
    lines = (result.out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def tallied(task, outputs, targets, size=7):
    """An evaluation of outputs given in batches."""
    tally = task.tally()
    for start in range(0, len(outputs), size):
        part = slice(start, start + size)
        tally.add(outputs[part], targets[part], np.arange(len(outputs))[part])
    return tally.evaluation(0.5)


@pytest.mark.parametrize("ties", [False, True])
def test_multilabel_metrics_are_sklearns(ties):
    outputs = torch.from_numpy(DRAW.normal(size=(50, 4)).astype(np.float32))
    outputs = outputs.round() if ties else outputs
    targets = torch.from_numpy((DRAW.random((50, 4)) < 0.4).astype(np.float32))
    found = tallied(tasks.Multilabel("abcd"), outputs, targets)
    said, true = outputs.sigmoid().numpy(), targets.numpy()
    expected = {
        "mean_average_precision": metrics.average_precision_score(true, said, average="macro"),
        "f1_micro": metrics.f1_score(true, said > 0.5, average="micro"),
        "f1_macro": metrics.f1_score(true, said > 0.5, average="macro"),
    }
    assert found.metrics == pytest.approx(expected)
    assert found.score == found.metrics["mean_average_precision"]
    assert found.table("abcd").rows[2][0] == "c" and len(found) == 50


def test_a_label_that_no_image_has_is_left_out():
    said = np.array([[0.9, 0.2], [0.1, 0.3]], np.float32)
    targets = np.array([[1, 0], [0, 0]], np.float32)
    precisions = multilabel.average_precisions(said, targets)
    assert precisions[0] == 1 and np.isnan(precisions[1])
    assert multilabel.mean(precisions) == 1
    assert multilabel.f1_scores(said, targets)[0] == 1


def test_regression_metrics_are_sklearns_in_the_units_of_the_targets():
    targets = DRAW.normal([200.0, -3.0], [30.0, 0.1], size=(40, 2)).astype(np.float32)
    source = data.ArraySource(np.zeros((40, 4, 4), np.uint8), targets)
    task = tasks.of(source)
    np.testing.assert_allclose([task.mean, task.std], [targets.mean(0), targets.std(0)], rtol=1e-5)
    outputs = torch.from_numpy(DRAW.normal(size=(40, 2)).astype(np.float32))
    found = tallied(task, outputs, torch.from_numpy(targets))
    said = outputs.numpy() * targets.std(0) + targets.mean(0)
    expected = {
        "mae": metrics.mean_absolute_error(targets, said),
        "rmse": metrics.root_mean_squared_error(targets, said),
        "r2": metrics.r2_score(targets, said),
    }
    assert found.metrics == pytest.approx(expected, rel=1e-4)
    assert found.score == -found.metrics["mae"]
    for d, one in enumerate(found.per_number()):
        assert one["mae"] == pytest.approx(
            metrics.mean_absolute_error(targets[:, d], said[:, d]), rel=1e-4
        )
    # The loss is of standardised numbers, so that each weighs the same.
    huber = task.loss("huber", 0.0)(outputs, torch.from_numpy(targets))
    standard = torch.from_numpy((targets - targets.mean(0)) / targets.std(0))
    assert float(huber) == pytest.approx(
        float(nn.functional.huber_loss(outputs, standard)), rel=1e-4
    )
    restored = tasks.restored({"classes": ["0", "1"], **json.loads(json.dumps(task.details()))})
    assert torch.equal(restored.answer()(outputs), task.answer()(outputs))


def test_numbers_that_are_always_the_same():
    same = np.full((3, 1), 5.0, np.float32)
    assert regression.errors(same, same)["r2"] == 1
    assert regression.errors(same + 1, same)["r2"] == 0


def test_segmentation_metrics_are_sklearns_without_the_ignored_pixels():
    targets = torch.from_numpy(DRAW.integers(0, 3, (10, 6, 5)))
    targets[DRAW.random(targets.shape) < 0.2] = 255
    outputs = torch.from_numpy(DRAW.normal(size=(10, 3, 6, 5)).astype(np.float32))
    found = tallied(tasks.Segmentation("abc"), outputs, targets, size=4)
    kept = (targets != 255).numpy()
    true, said = targets.numpy()[kept], outputs.argmax(1).numpy()[kept]
    expected = metrics.jaccard_score(true, said, average=None)
    assert found.metrics == pytest.approx(
        {"mean_iou": expected.mean(), "pixel_accuracy": (true == said).mean()}
    )
    np.testing.assert_allclose([iou for _, iou in found.per_class()], expected)
    assert np.array_equal(found.pixels, metrics.confusion_matrix(true, said))
    for n in range(10):
        own = metrics.jaccard_score(
            targets[n].numpy()[kept[n]], outputs[n].argmax(0).numpy()[kept[n]], average="macro"
        )
        assert found.ious[n] == pytest.approx(own, rel=1e-5)
    assert [one.index for one in found.worst] == np.argsort(found.ious, kind="stable").tolist()
    assert np.array_equal(found.worst[0].mask, outputs[found.worst[0].index].argmax(0))


def test_the_worst_of_many_images_are_kept():
    targets = torch.from_numpy(DRAW.integers(0, 2, (40, 5, 5)))
    outputs = torch.from_numpy(DRAW.normal(size=(40, 2, 5, 5)).astype(np.float32))
    found = tallied(tasks.Segmentation("ab"), outputs, targets)
    worst = np.argsort(found.ious, kind="stable")[:24]
    assert [one.index for one in found.worst] == worst.tolist()


def test_coarse_logits_are_enlarged():
    targets = torch.from_numpy(DRAW.integers(0, 3, (2, 8, 8)))
    outputs = torch.from_numpy(DRAW.normal(size=(2, 3, 4, 4)).astype(np.float32))
    large = nn.functional.interpolate(outputs, size=(8, 8), mode="bilinear", align_corners=False)
    task = tasks.Segmentation("abc")
    for name in ("cross_entropy", "dice", "cross_entropy+dice"):
        assert float(task.loss(name, 0.0)(outputs, targets)) == pytest.approx(
            float(task.loss(name, 0.0)(large, targets)), rel=1e-5
        )
    both = task.loss("cross_entropy+dice", 0.0)(outputs, targets)
    one_by_one = [task.loss(name, 0.0)(outputs, targets) for name in ("cross_entropy", "dice")]
    assert float(both) == pytest.approx(float(sum(one_by_one)))
    assert np.array_equal(
        tallied(task, outputs, targets).pixels, tallied(task, large, targets).pixels
    )


def test_an_image_of_ignored_pixels_counts_nothing():
    nothing = torch.full((1, 4, 4), 255)
    found = tallied(tasks.Segmentation("ab"), torch.zeros(1, 2, 4, 4), nothing)
    assert found.pixels.sum() == 0 and not found.worst and np.isnan(found.ious[0])
    loss = tasks.Segmentation("ab").loss("cross_entropy", 0.0)
    assert (
        float(loss(torch.zeros(1, 2, 4, 4), nothing)) == 0 and int(loss.num_targets(nothing)) == 0
    )
    assert np.isnan(segmentation.class_ious(found.pixels)).all()


# --- runs ---


def shapes(count, start=0):
    """Bright squares on dark noise: uint8 [N, 1, 16, 16], their corner, side and mask."""
    key = Key(7, 0, np.arange(start, start + count))
    side = key.integers("side", 3, 9)[:, 0]
    top, left = (key.integers(name, 0, 8)[:, 0] for name in ("top", "left"))
    pixels = (40 * key.uniform("noise", 256)).reshape(count, 1, 16, 16).to(torch.uint8)
    masks = torch.zeros(count, 16, 16, dtype=torch.uint8)
    for n in range(count):
        y, x, s = int(top[n]), int(left[n]), int(side[n])
        masks[n, y : y + s, x : x + s] = 1
    pixels[:, 0] += 150 * masks
    return pixels, torch.as_tensor(top), torch.as_tensor(left), torch.as_tensor(side), masks


TRAIN, VAL = shapes(96), shapes(40, start=5000)


def sources(task):
    """Training and validation data of a task: what the square is like."""
    names = {
        "multilabel": ["high", "left", "large"],
        "regression": ["area", "top"],
        "segmentation": ["ground", "square"],
    }[task]
    made = []
    for pixels, top, left, side, masks in (TRAIN, VAL):
        targets = {
            "multilabel": torch.stack([top < 4, left < 4, side > 5], 1).float(),
            "regression": torch.stack([side.float() ** 2, top.float()], 1),
            "segmentation": masks,
        }[task]
        made.append(data.ArraySource(pixels, targets, names))
    return made


@pytest.mark.parametrize(
    ("task", "metric", "model", "reached"),
    [
        ("multilabel", "mean_average_precision", "resnet10_small", lambda value: value > 0.9),
        ("regression", "mae", "resnet10_small", lambda value: value < 6),
        ("segmentation", "mean_iou", "unet_small", lambda value: value > 0.9),
    ],
)
def test_a_run_learns_and_is_read_back(tmp_path, task, metric, model, reached):
    train, val = sources(task)
    settings = {"image_size": 16} if task == "segmentation" else {}
    result = quiet(
        tmp_path / "run", train, val, epochs=6, optimizer={"name": "adamw", "learning_rate": 3e-3},
        **settings,
    )  # fmt: skip
    assert result.run.task == task and result.run.model == model
    assert reached(result.evaluation.metrics[metric]), result.evaluation.metrics
    assert sorted(result.evaluation.indices.tolist()) == list(range(40))
    validations = [row for row in rows_of(result) if row["split"] == "val"]
    best = (min if metric == "mae" else max)(row[metric] for row in validations)
    assert result.evaluation.metrics[metric] == pytest.approx(best, rel=1e-5)
    assert "accuracy" not in validations[0] and result.accuracy is None
    again = toque.train.load_model(result.out)
    assert (
        again.task.details()
        == tasks.restored(
            {"classes": result.classes, **json.loads(json.dumps(again.task.details()))}
        ).details()
    )
    measured = toque.train.measure.measure(
        again.model,
        data.evaluation_batches(val, again.pipeline, batch_size=9, threads=1),
        again.task,
        again.task.loss(result.run.loss.name, 0.0),
        torch.device("cpu"),
    )
    assert measured.metrics == pytest.approx(result.evaluation.metrics, rel=1e-3)
    assert measured.loss == pytest.approx(result.loss, rel=1e-3)
    page = result.report.read_text()
    for metric_of_task in result.evaluation.shown:
        text = metric_of_task.text(result.evaluation.metrics[metric_of_task.key])
        assert text in page
    assert page.count("Answered worst") == 1 and "Results one by one" in page
    assert page.count("<figure") >= 24 and "Confusion" not in page
    assert_answers(result, task, val, tmp_path)
    assert_kept(result)


def assert_answers(result, task, val, folder):
    """What `answer` says of saved images is what the evaluation counted."""
    from PIL import Image

    from toque import deploy

    evaluation = result.evaluation
    files = [folder / f"{n}.png" for n in range(3)]
    for n, file in enumerate(files):
        Image.fromarray(val.read(int(evaluation.indices[n]))[0].numpy()).save(file)
    answers = deploy.answer(result.out, files)
    for n, one in enumerate(answers):
        if task == "multilabel":
            assert list(one.probabilities.values()) == pytest.approx(
                evaluation.probabilities[n], abs=1e-4
            )
            above = [name for name, share in one.probabilities.items() if share > 0.5]
            assert sorted(one.above(0.5)) == sorted(above)
        elif task == "regression":
            assert list(one.numbers.values()) == pytest.approx(
                evaluation.predictions[n], rel=1e-3, abs=1e-3
            )
        else:
            one.write(folder / "mask.png")
            again = decode_mask((folder / "mask.png").read_bytes(), "mask.png")
            assert np.array_equal(again, one.mask) and one.mask.shape == (16, 16)
            counts = segmentation.confusions(
                torch.from_numpy(one.mask)[None].long(),
                val.mask(int(evaluation.indices[n]))[None],
                2,
            )
            assert np.nanmean(segmentation.class_ious(counts[0])) == pytest.approx(
                evaluation.ious[n], rel=1e-4
            )


def assert_kept(result):
    """The run keeps its answers: the same evaluation again, and how sure its metrics are."""
    ended = outcome.read(result.out)
    found, fingerprint = kept.read(result.out, ended.metrics, ended.loss)
    assert type(found) is type(result.evaluation) and fingerprint
    for name, value in result.evaluation.kept().items():
        np.testing.assert_array_equal(found.kept()[name], value)
    assert found.metrics == result.evaluation.metrics and found.loss == result.loss
    assert found.table(result.classes) == result.evaluation.table(result.classes)
    for name, value in result.evaluation.metrics.items():
        sure = ended.intervals[name]
        assert sure.value == pytest.approx(value, rel=1e-5)
        assert sure.low <= value + 1e-6 and value - 1e-6 <= sure.high
    first = found.shown[0]
    assert f"{first.between(ended.intervals[first.key])} at 95" in result.report.read_text()
    said = [f"{one.label} {one.sure(ended.intervals[one.key])}, " for one in found.shown]
    assert result.summary() == f"{''.join(said)}loss {result.loss:.4f} on 40 validation images"


class Killed(Exception):
    pass


@pytest.mark.parametrize("task", ["regression", "segmentation"])
def test_killed_and_continued_a_run_ends_in_the_same_bits(tmp_path, monkeypatch, task):
    train, val = sources(task)
    settings = {"epochs": 2, "checkpoint": {"every_s": 1e-6}, "augment": "light", "image_size": 16}
    whole = quiet(tmp_path / "whole", train, val, **settings)
    step, count = Step.__call__, iter(range(100))

    def killed_at_the_ninth(self, *arguments):
        if next(count) == 8:
            raise Killed
        return step(self, *arguments)

    monkeypatch.setattr(Step, "__call__", killed_at_the_ninth)
    with pytest.raises(Killed):
        quiet(tmp_path / "run", train, val, **settings)
    monkeypatch.undo()
    again = quiet(tmp_path / "run", train, val, **settings)
    assert again.weights.read_bytes() == whole.weights.read_bytes()


def test_mistakes(tmp_path):
    train, val = sources("segmentation")
    with pytest.raises(
        ValueError, match=r"image_size must be a multiple of 8 .*; got 12. Set image_size=16"
    ):
        quiet(tmp_path / "run", train, val, image_size=12)
    with pytest.raises(ValueError, match=r"outputs of the model must be maps .* for segmentation"):
        quiet(tmp_path / "run", train, val, model="resnet10_small")
    assert not (tmp_path / "run").exists()
    numbers, _ = sources("regression")
    with pytest.raises(
        ValueError, match="targets of val must be those of segmentation; got those of reg"
    ):
        quiet(tmp_path / "run", train, numbers)


def test_other_images_are_evaluated_whole(tmp_path):
    """A run on a table, evaluated on its own part and on another table without a split."""
    from PIL import Image

    pixels, _, _, side, _ = TRAIN
    rows = ["path,area,split"]
    for n in range(40):
        Image.fromarray(pixels[n, 0].numpy()).save(tmp_path / f"{n}.png")
        rows.append(f"{n}.png,{float(side[n]) ** 2 + 0.5},{'val' if n % 4 == 0 else 'train'}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    run = toque.Run(
        data=str(tmp_path / "t.csv"), out=str(tmp_path / "run"), epochs=1, table={"label": "area"},
        log={"tensorboard": False},
    )  # fmt: skip
    result = toque.fit(run, show="quiet")
    assert result.run.task == "regression" and result.classes == ("area",)
    again = toque.evaluate(result.out)
    assert again.metrics == pytest.approx(result.evaluation.metrics, rel=1e-3) and len(again) == 10
    (tmp_path / "other.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows))
    assert len(toque.evaluate(result.out, str(tmp_path / "other.csv"))) == 40
    (tmp_path / "wrong.csv").write_text("\n".join(rows).replace("area", "size"))
    with pytest.raises(ValueError, match=r"table.label must be a column; got area"):
        toque.evaluate(result.out, str(tmp_path / "wrong.csv"))
