"""Models by name: what is built, and what is said when a name is wrong."""

import builtins
import importlib
import subprocess
import sys
import urllib.error

import pytest
import torch
from torch import nn

from toque import checks, models
from toque.models import catalog


def own_model(num_classes, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size * image_size, num_classes))


def no_model():
    return "a model"


@pytest.mark.parametrize("name", ["toque/resnet10_small", "resnet10_small"])
def test_a_bare_name_is_toque_s_own(name):
    model = models.create(name, num_classes=7, in_channels=1)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 7)


def test_every_own_name_can_be_built():
    for name in models.names():
        model = models.create(name, num_classes=3, in_channels=2)
        assert isinstance(model, nn.Module), name


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/mobilenet_v3_small"])
def test_the_other_catalogues_take_classes_and_channels(name):
    model = models.create(name, num_classes=5, in_channels=1).eval()
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "torchvision/vit_b_32"])
def test_image_size_reaches_the_models_built_for_one_size(name):
    with torch.device("meta"):
        model = models.create(name, num_classes=5, image_size=64)
    assert models.shapes.output(model.eval(), [2, 3, 64, 64]).shape == (2, 5)


def test_googlenet_answers_with_one_tensor_while_training():
    model = models.create("torchvision/googlenet", num_classes=5)
    assert model.train()(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


def test_a_function_of_ones_own_gets_the_settings_it_takes():
    model = models.create(f"{__name__}:own_model", num_classes=4, image_size=8)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize("own", sorted(catalog._SAME_AS))
def test_own_models_take_the_weights_of_their_twins(monkeypatch, own):
    """No download here: the twin's function stands in with weights that are none of ours."""
    catalogue, _, name = catalog._SAME_AS[own].partition("/")
    torch.manual_seed(1)
    twin = models.create(f"{catalogue}/{name}", num_classes=6, in_channels=1).eval()
    asked = []

    def answer(short, num_classes, in_channels, pretrained, image_size):
        asked.append((short, num_classes, in_channels, pretrained))
        return twin

    monkeypatch.setattr(catalog, f"_{catalogue}", answer)
    model = models.create(own, num_classes=6, in_channels=1, pretrained=True).eval()
    assert asked == [(name, 6, 1, True)]
    images = torch.randn(1, 1, 64, 64)
    expected = twin(images).detach()
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("toque/resnet81", {}, "Did you mean resnet18"),
        ("efficientnet_b0", {}, "Did you mean timm/efficientnet_b0 or torchvision/efficientnet_b0"),
        ("timm/resnet5O", {}, "resnet50"),
        ("torchvision/resnet5O", {}, "Did you mean resnet50"),
        ("keras/resnet50", {}, "Say which catalogue"),
        ("nosuch.package:model", {}, "PYTHONPATH"),
        (f"{__name__}:own_modle", {}, "Did you mean own_model"),
        (f"{__name__}:no_model", {}, "Return the model"),
        (
            "toque/unet",
            {"pretrained": True},
            "has no weights; got True. With weights: mobileone_s0",
        ),
        ("toque/resnet18", {"num_classes": -1}, "number of classes"),
    ],
)
def test_create_says_what_is_wrong(name, settings, words):
    with pytest.raises((ValueError, TypeError), match=words):
        models.create(name, **{"num_classes": 3, **settings})


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (urllib.error.URLError("no route"), "got URLError .*no route.*pretrained = false"),
        (RuntimeError('invalid hash value (expected "a", got "b")'), "or to be downloaded"),
        (RuntimeError("No pretrained weights exist for x."), "False for .*, which has no weights"),
    ],
)
@pytest.mark.parametrize("name", ["toque/resnet18", "timm/resnet18", "torchvision/resnet18"])
def test_weights_that_cannot_be_had_are_one_sentence(monkeypatch, name, error, words):
    def unreachable(*_, **settings):
        if settings.get("pretrained") or settings.get("weights"):
            raise error
        raise AssertionError("asked for weights, and not for these")

    monkeypatch.setattr(importlib.import_module("timm"), "create_model", unreachable)
    monkeypatch.setattr(importlib.import_module("torchvision.models"), "get_model", unreachable)
    with pytest.raises(checks.UserMistake, match=words):
        models.create(name, num_classes=3, pretrained=True)


def test_a_mistake_while_building_is_not_taken_for_a_failed_download(monkeypatch):
    def wrong(*_, **__):
        raise RuntimeError("size mismatch for fc.weight")

    monkeypatch.setattr(importlib.import_module("timm"), "create_model", wrong)
    with pytest.raises(RuntimeError, match="size mismatch"):
        models.create("timm/resnet18", num_classes=3, pretrained=True)


@pytest.mark.parametrize("catalogue", ["timm", "torchvision"])
def test_a_missing_catalogue_names_the_command_that_installs_it(monkeypatch, catalogue):
    for module in [name for name in sys.modules if name.partition(".")[0] == catalogue]:
        monkeypatch.delitem(sys.modules, module)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == catalogue:
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(ImportError, match=r"pip install 'toque\[zoo\]'"):
        models.create(f"{catalogue}/resnet18", num_classes=3)


def test_neither_timm_nor_torchvision_is_imported_before_it_is_asked_for():
    code = (
        "import sys, toque.models\n"
        "toque.models.create('resnet10_small', num_classes=2)\n"
        "print([m for m in ('timm', 'torchvision', 'PIL') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
