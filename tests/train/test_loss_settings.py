"""The loss of a run by name and arguments: minimised, stored, continued, evaluated, refused."""

import functools

import pytest
import torch
from torch import nn

import toque
from tests.train.runs import TRAIN, VAL, bits, network, settings, train
from toque import checks, losses
from toque.train import run as settings_of
from toque.train import tasks
from toque.train.run import Run
from toque.train.run_folder.folder import read_run
from toque.train.tasks import loss as loss_of

CPU = torch.device("cpu")
FOCAL = {"name": "focal", "gamma": 1.5, "class_weights": [1.0, 3.0]}


def of_run(task, **loss):
    return loss_of.by_settings(Run(loss={"label_smoothing": 0.0, **loss}), task, CPU)


def test_a_run_minimises_the_loss_it_names_with_its_arguments(tmp_path):
    own = functools.partial(losses.focal, gamma=1.5, class_weights=torch.tensor([1.0, 3.0]))
    named = toque.fit(
        settings(tmp_path / "focal", epochs=1, loss=FOCAL),
        train=TRAIN, val=VAL, model=network, show="quiet",
    )  # fmt: skip
    train(tmp_path / "own", loss=own, epochs=1)
    assert bits(tmp_path / "focal") == bits(tmp_path / "own")
    other = settings(tmp_path / "other", epochs=1, loss={**FOCAL, "gamma": 2.0})
    toque.fit(other, train=TRAIN, val=VAL, model=network, show="quiet")
    assert bits(tmp_path / "other")[0] != bits(tmp_path / "focal")[0]

    # stored, and shown in the report
    run, _ = read_run(tmp_path / "focal")
    assert run.loss.model_extra == {"gamma": 1.5, "class_weights": [1.0, 3.0]}
    report = (tmp_path / "focal" / "report.html").read_text()
    assert "loss.gamma" in report and "loss.class_weights" in report
    # the same run only with the same arguments
    with pytest.raises(ValueError, match=r"loss\.gamma: 1\.5 there, 2\.0 here"):
        toque.fit(
            other.changed(out=str(tmp_path / "focal")),
            train=TRAIN, val=VAL, model=network, show="quiet",
        )  # fmt: skip
    assert named.run.loss == run.loss


def test_evaluate_measures_by_the_loss_of_the_run(tmp_path, photos):
    run = Run(
        data=str(photos), out=str(tmp_path / "run"), epochs=1, image_size=16, batch_size=8,
        model="resnet10_small", augment="none", loss={"name": "focal", "gamma": 4.0},
        log={"to": []},
    )  # fmt: skip
    result = toque.fit(run, show="quiet")
    again = toque.evaluate(result.out)
    assert again.loss == pytest.approx(result.loss, rel=1e-4)


def test_the_command_line_and_the_old_form(tmp_path):
    run = settings_of.load(None, {"loss.name": "focal", "loss.gamma": "1.5"})
    assert (
        run.loss.model_extra == {"gamma": 1.5}
        and settings_of.flat(run.as_dict())["loss.gamma"] == 1.5
    )
    file = tmp_path / "run.toml"
    file.write_text(run.as_toml())
    assert settings_of.load(file) == run
    file.write_text('[loss]\nname = "focal"\nlabel_smoothing = 0.0\n')
    assert settings_of.load(file).loss.model_extra == {}
    with pytest.raises(ValueError, match=r"gamma is not a setting. Did you mean loss\.gamma\?"):
        settings_of.load(None, {"gamma": "2"})


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (
            {"name": "focal", "gama": 1},
            r"^run.toml \[loss\]: gama is not a setting of focal. Did you mean gamma\?",
        ),
        ({"gamma": 2.0}, r"gamma is not a setting of cross_entropy. Known: class_weights, label"),
        ({"name": "focal", "gamma": -1.0}, r"focal refused its settings \(focal: gamma must be"),
        ({"name": "focal", "gamma": "high"}, r"focal refused its settings \("),
        ({"name": "focal", "class_weights": [1.0]}, r"focal refused its settings \("),
        ({"class_weights": [1.0]}, r"cross_entropy refused its settings \(.*class_weights must"),
        ({"class_weights": {"up": 2}}, r"class_weights must be by classes of the data; got up\. "),
        ({"name": "focal", "reduction": "sum"}, "reduction is not a setting. A run minimises"),
        ({"ignore_index": 1}, "ignore_index is not a setting"),
    ],
)
def test_a_wrong_argument_is_said_before_anything_is_written(tmp_path, loss, sentence):
    with pytest.raises(checks.InvalidValue, match=sentence):
        toque.fit(
            settings(tmp_path / "run", loss=loss),
            train=TRAIN, val=VAL, model=network, show="quiet",
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_arguments_with_a_loss_of_ones_own_are_refused(tmp_path):
    with pytest.raises(ValueError, match="gamma must be unset with a loss of your own"):
        toque.fit(
            settings(tmp_path / "run", loss={"gamma": 2.0}),
            train=TRAIN, val=VAL, model=network, loss=nn.CrossEntropyLoss(), show="quiet",
        )  # fmt: skip


def test_weights_by_class_names_are_one_for_those_not_named():
    task = tasks.Classification(["cat", "dog", "owl"])
    loss, _ = of_run(task, class_weights={"owl": 4})
    z, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    expected = nn.functional.cross_entropy(z, y, torch.tensor([1.0, 1.0, 4.0]))
    torch.testing.assert_close(loss(z, y), expected)


def test_smoothing_is_of_training_alone_and_other_arguments_of_both():
    task = tasks.Classification(["a", "b"])
    run = Run(loss={"label_smoothing": 0.2, "class_weights": [1.0, 5.0]})
    training, validation = loss_of.by_settings(run, task, CPU)
    z, y, weights = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 0]), torch.tensor([1.0, 5.0])
    plain = nn.functional.cross_entropy(z, y, weights)
    smooth = nn.functional.cross_entropy(z, y, weights, label_smoothing=0.2)
    torch.testing.assert_close(validation(z, y), plain)
    torch.testing.assert_close(training(z, y), smooth)


def test_losses_joined_by_name_take_each_what_they_have():
    task = tasks.Segmentation(["a", "b", "c"])
    loss, _ = of_run(task, name="focal+dice", gamma=1.0, smooth=3.0)
    z, y = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))
    y[0, 0] = 255
    expected = losses.focal(z, y, gamma=1.0, ignore_index=255) + losses.dice(
        z, y, smooth=3.0, ignore_index=255
    )
    torch.testing.assert_close(loss(z, y), expected)
    with pytest.raises(ValueError, match=r"beta is not a setting of focal\+dice\. Known: "):
        of_run(task, name="focal+dice", beta=1.0)


@pytest.mark.parametrize("enlarged", [False, True])
def test_class_weights_of_pixels_weigh_and_are_counted(enlarged):
    task = tasks.Segmentation(["a", "b", "c"])
    weights = torch.tensor([1.0, 5.0, 0.2])
    loss, _ = of_run(task, class_weights=weights.tolist())
    z = torch.randn(4, 3, 4, 4) if enlarged else torch.randn(4, 3, 8, 8)
    y = torch.randint(3, (4, 8, 8))
    y[0, :5] = 255
    large = nn.functional.interpolate(z, size=(8, 8), mode="bilinear") if enlarged else z
    whole = nn.functional.cross_entropy(large, y, weights, ignore_index=255)
    torch.testing.assert_close(loss(z, y), whole)
    # In parts: each by the weight of its own pixels.
    parts = [slice(0, 1), slice(1, 4)]
    counts = [loss.num_targets(y[part]) for part in parts]
    joined = sum(
        loss(z[part], y[part]) * count / sum(counts)
        for part, count in zip(parts, counts, strict=True)
    )
    torch.testing.assert_close(joined, whole)


def test_several_labels_and_numbers_take_arguments_too():
    task = tasks.Multilabel(["a", "b"])
    loss, _ = of_run(task, pos_weight=[2.0, 3.0])
    z, y = torch.randn(5, 2), torch.randint(2, (5, 2)).float()
    expected = nn.functional.binary_cross_entropy_with_logits(
        z, y, pos_weight=torch.tensor([2.0, 3.0])
    )
    torch.testing.assert_close(loss(z, y), expected)
    numbers = tasks.Regression(["x"], [0.0], [1.0])
    z, y = 5 * torch.randn(6, 1), torch.randn(6, 1)
    huber, _ = of_run(numbers, name="huber", delta=3.0)
    torch.testing.assert_close(huber(z, y), nn.functional.huber_loss(z, y, delta=3.0))
