"""Runs on numbers and on masks: exported with parity, asked on the command line, served."""

import base64
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import toque
from tests.deploy.serving import running
from tests.deploy.without_toque import asked
from toque import deploy
from toque.deploy.outputs import Masks, Numbers, class_of_each_pixel
from toque.deploy.parity import EXACT, Tolerance
from toque.deploy.parity.masks import ComparedMasks
from toque.deploy.parity.numbers import ComparedNumbers
from toque.models.answers import Rescaled
from toque.random import Key
from toque.train import load_model

QUIET = {"log": {"tensorboard": False}}


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """24 gray pictures of 48 x 40 with a bright square, their masks, and a table of areas."""
    folder = tmp_path_factory.mktemp("squares")
    draw = np.random.default_rng(0)
    rows = ["path,area,share,split"]
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for n in range(24):
        mask = np.zeros((48, 40), np.uint8)
        top, left, side = (int(draw.integers(2, most)) for most in (16, 10, 26))
        mask[top : top + side, left : left + side] = 1
        image = draw.integers(0, 60, mask.shape, dtype=np.uint8) + 150 * mask
        Image.fromarray(image).save(folder / "images" / f"{n:02}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{n:02}.png")
        part = "val" if n % 4 == 0 else "train"
        rows.append(f"images/{n:02}.png,{mask.sum()},{mask.mean():.4f},{part}")
    (folder / "areas.csv").write_text("\n".join(rows))
    (folder / "classes.txt").write_text("ground\nsquare\n")
    return folder


@pytest.fixture(scope="module")
def masks(squares):
    settings = {"batch_size": 4, "epochs": 8, "image_size": 32, **QUIET}
    rate = {"name": "adamw", "learning_rate": 3e-3}
    run = toque.Run(data=str(squares), out=str(squares / "run-masks"), optimizer=rate, **settings)
    result = toque.fit(run, show="quiet")
    assert result.evaluation.metrics["mean_iou"] > 0.7  # else equal masks would say nothing
    return squares / "run-masks"


@pytest.fixture(scope="module")
def numbers(squares):
    table = {"label": ["area", "share"]}
    run = toque.Run(
        data=str(squares / "areas.csv"), out=str(squares / "run-numbers"), task="regression",
        table=table, batch_size=4, epochs=6, optimizer={"name": "adamw"}, **QUIET,
    )  # fmt: skip
    toque.fit(run, show="quiet")
    return squares / "run-numbers"


def images_of(squares, count=3):
    """Pictures of some sizes, as arrays [H, W, 1]."""
    first = np.asarray(Image.open(squares / "images" / "03.png"))
    wide = np.asarray(Image.fromarray(first).resize((77, 31)))
    other = np.asarray(Image.open(squares / "images" / "05.png"))
    return [np.array(one)[..., None] for one in (first, wide, other)][:count]


def outputs_of(run, images):
    """The trained network by itself, asked as validation asked it."""
    trained = load_model(run)
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    with torch.inference_mode():
        return trained.model(trained.pipeline(tensors, key=Key(0, 0, np.arange(len(images)))))


def mask_of(logits, image):
    large = F.interpolate(logits[None], image.shape[:2], mode="bilinear", align_corners=False)
    return large[0].argmax(0).numpy()


def numbers_of(outputs, squares):
    """In their own units, by the table: what the training rows say of mean and deviation."""
    rows = list(csv.DictReader((squares / "areas.csv").read_text().splitlines()))
    train = np.array(
        [[float(row["area"]), float(row["share"])] for row in rows if row["split"] == "train"]
    )
    return outputs.numpy() * train.std(0) + train.mean(0)


@pytest.mark.parametrize("kind", ["onnx", "pt2", "safetensors", "run"])
def test_masks_at_the_size_of_each_image(masks, squares, tmp_path, kind):
    source = masks
    if kind != "run":
        done = deploy.export(masks, out=tmp_path / f"m.{kind}")
        found = done.parity
        assert found.images == 5 and found.pixels > 5 * 48 * 40 and found.changed == 0
        assert found.mean_iou == found.mean_iou_before > 0.7 and found.probability < 1e-4
        assert "of each pixel" in done.card.read_text() and "Mean IoU" in done.card.read_text()
        source = done.file
    images = images_of(squares)
    model = deploy.load(source)
    answers = list(model.answers(images))
    for answer, logits, image in zip(answers, outputs_of(masks, images), images, strict=True):
        wanted = mask_of(logits, image)
        assert 0 < wanted.mean() < 1
        assert answer.mask.shape == image.shape[:2] and answer.mask.dtype == np.uint8
        # A pixel may fall either way where both classes are equally likely.
        assert (answer.mask != wanted).mean() < 1e-3
        assert answer.shares["square"] == pytest.approx(wanted.mean(), abs=1e-3)
    with pytest.raises(ValueError, match=r"to be called; got segmentation.*\.answers"):
        model(images)


def test_a_file_gives_masks_to_those_without_toque(masks, squares, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    file = deploy.export(masks, out=tmp_path / "m.onnx").file
    image = images_of(squares, 2)[1]
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_outputs()] == ["masks", "logits"]
    found, logits = session.run(None, {"images": np.stack([image, image])})
    assert found.dtype == np.uint8 and found.shape == (2, 31, 77) and logits.shape[:2] == (2, 2)
    wanted = mask_of(outputs_of(masks, [image])[0], image)
    assert (found[0] != wanted).mean() < 1e-3 and (found[0] == found[1]).all()
    # By the guide's example, of a picture that a camera held on its side.
    turned = Image.fromarray(image[..., 0]).transpose(Image.Transpose.ROTATE_90)
    turned.save(
        tmp_path / "one.png",
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    )
    (answer,) = deploy.load(file).answers([tmp_path / "one.png"])
    np.testing.assert_array_equal(asked(file, tmp_path / "one.png"), answer.mask)
    assert answer.mask.shape == (31, 77) and (answer.mask == found[0]).all()


@pytest.mark.parametrize("kind", ["onnx", "pt2", "safetensors", "run"])
def test_numbers_in_their_own_units(numbers, squares, tmp_path, kind):
    source = numbers
    if kind != "run":
        done = deploy.export(numbers, out=tmp_path / f"m.{kind}")
        assert done.parity.changed == 0 and done.parity.number < 1e-4
        assert done.parity.mae == pytest.approx(done.parity.mae_before, rel=1e-5)
        source = done.file
    images = images_of(squares)
    wanted = numbers_of(outputs_of(numbers, images), squares)
    assert wanted[:, 0].min() > 5  # pixels, not deviations
    model = deploy.load(source)
    for answer, row in zip(model.answers(images), wanted, strict=True):
        assert list(answer.numbers) == ["area", "share"]
        np.testing.assert_allclose(list(answer.numbers.values()), row, rtol=1e-4, atol=1e-4)
    if kind == "onnx":
        Image.fromarray(images[0][..., 0]).save(tmp_path / "one.png")
        said = asked(source, tmp_path / "one.png")
        assert said == pytest.approx(dict(zip(("area", "share"), wanted[0], strict=True)), rel=1e-4)


def test_numbers_on_the_command_line(numbers, squares, toque, tmp_path):
    image = squares / "images" / "03.png"
    mirrored = tmp_path / "mirrored.png"
    Image.fromarray(np.asarray(Image.open(image))[:, ::-1]).save(mirrored)
    pair = [np.array(Image.open(file))[..., None] for file in (image, mirrored)]
    wanted = numbers_of(outputs_of(numbers, pair), squares)
    code, stdout, _ = toque("predict", numbers, image, mirrored, "--csv")
    rows = list(csv.DictReader(io.StringIO(stdout)))
    assert code == 0 and list(rows[0]) == ["image", "area", "share", "error"]
    assert [float(row["area"]) for row in rows] == pytest.approx(wanted[:, 0], rel=1e-4)
    code, stdout, _ = toque("predict", numbers, image, mirrored, "--json", "--tta")
    both = [one["numbers"]["area"] for one in json.loads(stdout)]
    assert both == pytest.approx([wanted[:, 0].mean()] * 2, rel=1e-4)
    code, _, _ = toque("predict", numbers, image, "--explain", tmp_path / "seen")
    names = sorted(file.name for file in (tmp_path / "seen").iterdir())
    assert code == 0 and names == ["00000-03-area.png", "00000-03-share.png"]
    with Image.open(tmp_path / "seen" / names[0]) as seen:
        assert seen.mode == "RGB"
    # Paths, one a line, from another command.
    code, stdout, _ = toque(
        "predict", numbers, "-", "--csv", stdin=f"{image}\n{mirrored}\n".encode()
    )
    assert code == 0 and stdout.count("\n") == 3 and str(mirrored) in stdout
    code, stdout, stderr = toque(
        "predict", numbers, "-", "--csv", stdin=f"no/such.png\n{image}\n".encode()
    )
    first, second = csv.DictReader(io.StringIO(stdout))
    assert code == 1 and "no/such.png must be an image file" in stderr
    assert first["image"] == "no/such.png" and first["area"] == "" and "must be" in first["error"]
    assert float(second["area"]) == pytest.approx(wanted[0, 0], rel=1e-4) and not second["error"]
    code, _, stderr = toque("predict", numbers, image, "--calibrated")
    assert code == 2 and "knows its temperature" in stderr and stderr.count("\n") == 1


def test_masks_on_the_command_line(masks, squares, toque, tmp_path):
    image = squares / "images" / "03.png"
    code, stdout, _ = toque("predict", masks, image, "--csv", "--masks", tmp_path / "out")
    (row,) = csv.DictReader(io.StringIO(stdout))
    assert code == 0 and list(row) == ["image", "mask", "ground", "square", "error"]
    with Image.open(row["mask"]) as written:
        assert written.mode == "P" and written.size == (40, 48)
        assert float(row["square"]) == pytest.approx((np.asarray(written) == 1).mean(), abs=1e-6)
    code, _, stderr = toque("predict", masks, image, "--explain", tmp_path / "seen")
    assert code == 2 and "A mask shows by itself" in stderr and stderr.count("\n") == 1
    code, _, stderr = toque("predict", masks, image, "--masks", squares / "images")
    assert code == 2 and "another folder than that of the images" in stderr
    with Image.open(image) as still:
        assert still.mode == "L"  # not the mask


def test_masks_of_mirror_images_are_turned_back(masks, squares):
    image = images_of(squares, 1)[0]
    pair = [image, np.ascontiguousarray(image[:, ::-1])]
    straight, mirrored = outputs_of(masks, pair).softmax(1)
    shares = (straight + mirrored.flip(2)) / 2
    (answer,) = deploy.answer(masks, [squares / "images" / "03.png"], mirrored=True)
    wanted = mask_of(shares.log(), image)
    assert (answer.mask != wanted).mean() < 1e-3
    wrong = mask_of(((straight + mirrored) / 2).log(), image)
    assert (wrong != wanted).mean() > 0.01  # else the test would say nothing


def test_served(masks, numbers, squares):
    body = (squares / "images" / "03.png").read_bytes()
    image = images_of(squares, 1)
    with running(numbers) as server:
        status, _, said = server.ask(body)
        wanted = numbers_of(outputs_of(numbers, image), squares)[0]
        assert status == 200 and set(said) == {"numbers", "milliseconds"}
        assert said["numbers"] == pytest.approx(
            dict(zip(("area", "share"), wanted, strict=True)), rel=1e-4, abs=1e-4
        )
        assert server.ask(path="/model", method="GET")[2]["task"] == "regression"
        status, _, png = server.ask(body, "/explain?label=share")
        assert status == 200 and Image.open(io.BytesIO(png)).mode == "RGB"
    with running(masks) as server:
        status, _, said = server.ask(body)
        kind, _, content = said["mask"].partition(",")
        mask = Image.open(io.BytesIO(base64.b64decode(content)))
        assert status == 200 and kind == "data:image/png;base64" and mask.mode == "P"
        wanted = mask_of(outputs_of(masks, image)[0], image[0])
        assert (np.asarray(mask) != wanted).mean() < 1e-3
        assert sum(said["shares"].values()) == pytest.approx(1)
        at = np.argwhere(np.asarray(mask) == 1)[0]
        shown = mask.convert("RGB").getpixel((int(at[1]), int(at[0])))
        assert said["colours"]["square"] == "#{:02x}{:02x}{:02x}".format(*shown)
        status, _, said = server.ask(body, "/explain")
        assert status == 404 and "A mask shows by itself" in said["detail"]
        schema = server.ask(path="/openapi.json", method="GET")[2]
        assert "Mask" in json.dumps(schema["paths"]["/predict"])


def test_a_file_answers_by_the_formula_and_the_names_of_training():
    mean, std = [10.0, -1.0], [2.0, 0.5]
    numbers, trained = Numbers(mean, std), Rescaled(mean, std)
    # By these names lie the numbers in the files that were exported so far.
    assert list(numbers.state_dict()) == list(trained.state_dict()) == ["mean", "std"]
    outputs = torch.tensor([[0.5, 2.0], [0.0, -4.0]])
    wanted = torch.tensor([[11.0, 0.0], [10.0, -3.0]])
    assert torch.equal(numbers.read(outputs), wanted) and torch.equal(trained(outputs), wanted)
    one = Numbers(mean[:1], std[:1])
    assert one.read(torch.tensor([0.5, 0.0])).tolist() == [[11.0], [10.0]]


# Parity


def test_a_number_that_differs_is_told_in_deviations():
    outputs = Numbers([100.0], [20.0])
    for away, problem in ((0.01, False), (1.0, True), (float("nan"), True)):
        comparing = ComparedNumbers(outputs, EXACT)
        theirs = np.array([[100.0], [400.0]], np.float32)
        comparing.add([theirs + np.array([[away], [0]])], [theirs], list(theirs))
        found = comparing.parity(2, 0)
        assert bool(found.problem) is problem and found.changed == int(problem)
        if away == 1.0:
            assert found.number == pytest.approx(1 / 20) and found.mae == pytest.approx(0.5)
    # A large number may differ by as much as its own size says: 15 deviations from the mean.
    comparing = ComparedNumbers(outputs, EXACT)
    comparing.add([theirs + np.array([[0], [0.15]])], [theirs], None)
    assert comparing.parity(0, 2).number == pytest.approx(0.15 / 20 / 15, rel=1e-3)
    loose = ComparedNumbers(outputs, Tolerance(1.0, 1.0, 0.1))
    loose.add([theirs + 2.2], [theirs], list(theirs + 2))
    assert loose.parity(2, 0).problem is None
    loose.add([theirs + 20], [theirs], list(theirs + 2))
    assert "mean absolute error" in loose.parity(4, 0).problem


def test_a_pixel_that_differs_is_counted_unless_both_classes_are_as_likely():
    logits = torch.zeros(1, 2, 4, 4)
    logits[0, 1, :2] = 3.0  # the upper half is surely of class 1, the lower one may be either
    theirs = [class_of_each_pixel(logits, 4, 4).numpy(), logits.numpy()]
    right = [np.eye(4, dtype=np.uint8)]
    for place, changed in (((3, 0), 0), ((0, 0), 1)):
        mask = theirs[0].copy()
        mask[(0, *place)] ^= 1
        comparing = ComparedMasks(EXACT)
        comparing.add([mask, theirs[1]], theirs, right)
        found = comparing.parity(1, 0)
        assert found.changed == changed and (found.problem is None) is (changed == 0)
        assert found.pixels == 16 and found.mean_iou != found.mean_iou_before
    comparing = ComparedMasks(EXACT)
    comparing.add([theirs[0], theirs[1] * 1.5], theirs, None)
    assert "a probability differs" in comparing.parity(0, 1).problem


def test_a_mask_takes_no_more_memory_for_more_classes_and_is_the_argmax():
    logits = Key(0, 0, [0, 1]).uniform("test", 7 * 5 * 6).view(2, 7, 5, 6)
    large = F.interpolate(logits, (33, 20), mode="bilinear", align_corners=False)
    assert torch.equal(class_of_each_pixel(logits, 33, 20), large.argmax(1).to(torch.uint8))
    equal = torch.zeros(1, 3, 2, 2)  # the first of equals, as argmax
    assert int(class_of_each_pixel(equal, 2, 2).max()) == 0
    assert Masks().fit(logits) and not Masks().fit(logits[0])


def test_the_presets_are_those_of_training():
    from toque.deploy.outputs import outputs_for
    from toque.train import tasks

    for name in ("classification", "multilabel", "regression", "segmentation"):
        assert outputs_for(name, [0.0], [1.0]).preset == tasks.kind(name).evaluation_preset


def test_another_task_in_the_place_of_the_model_is_not_loaded(masks, numbers, tmp_path):
    from tests.waiting import until

    file = tmp_path / "m.safetensors"
    file.write_bytes((Path(numbers) / "weights.safetensors").read_bytes())
    with running(file, look_every_s=0.05) as server:
        other = tmp_path / "other"
        other.write_bytes((Path(masks) / "weights.safetensors").read_bytes())
        other.replace(file)
        until(lambda: [row for row in server.log if row.get("event") == "reload"], "the reload")
        (row,) = [row for row in server.log if row.get("event") == "reload"]
        assert not row["done"] and "of regression, as the one before; got segmentation" in (
            row["message"]
        )  # fmt: skip
        assert server.ask(path="/model", method="GET")[2]["task"] == "regression"
