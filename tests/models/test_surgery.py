"""Models changed after they were built, and weights taken over from other files."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from toque import models
from toque.models import surgery, weights


def test_a_layer_is_replaced_at_its_path():
    model = models.create("resnet18", num_classes=3)
    surgery.replace(model, "features.stem.pool", nn.Identity())
    assert isinstance(model.features.stem.pool, nn.Identity)
    with pytest.raises(ValueError, match=r"Did you mean features\.stem\.pool"):
        surgery.replace(model, "features.stem.pol", nn.Identity())


@pytest.mark.parametrize(
    "name",
    [
        "toque/resnet10_small",
        "timm/resnet10t",
        "torchvision/squeezenet1_1",
        "torchvision/mobilenet_v3_small",
    ],
)
def test_another_head_changes_only_the_head(name):
    model = models.create(name, num_classes=3).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    surgery.replace_head(model, 7)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    changed = [k for k, v in model.state_dict().items() if v.shape != before[k].shape]
    assert len(changed) == 2 and all(len(before[k]) == 3 for k in changed)


def test_a_grown_head_keeps_the_old_answers():
    model = models.create("resnet10_small", num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    before = model(images)
    surgery.grow_head(model, 5)
    torch.testing.assert_close(model(images)[:, :3], before)
    assert model.num_classes == 5 and model(images).shape == (2, 5)
    with pytest.raises(ValueError, match=">= 5; got 2"):
        surgery.grow_head(model, 2)


@pytest.mark.parametrize("name", ["toque/resnet18", "timm/efficientnet_b0", "torchvision/vgg11"])
def test_other_input_channels_keep_the_answer_to_a_grey_image(name):
    model = models.create(name, num_classes=3).eval()
    grey = torch.randn(2, 1, 64, 64)
    before = model(grey.expand(-1, 3, -1, -1))
    for channels in (1, 5, 3):
        surgery.adapt_input(model, channels)
        torch.testing.assert_close(
            model(grey.expand(-1, channels, -1, -1)), before, rtol=1e-3, atol=1e-4
        )


def test_a_network_without_a_first_convolution_is_refused():
    with pytest.raises(ValueError, match="Replace its first layer"):
        surgery.adapt_input(nn.Linear(2, 2), 3)
    with pytest.raises(ValueError, match="Replace its last layer"):
        surgery.replace_head(nn.ReLU(), 3)


def test_weights_with_another_head_and_other_channels_are_accounted_for(tmp_path):
    theirs = models.create("resnet10_small", num_classes=10, in_channels=3)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    own = models.create("resnet10_small", num_classes=4, in_channels=1)
    head = own.head.weight.clone()
    report = weights.load(own, tmp_path / "w.safetensors")
    assert report.adapted == {"features.stem.conv.weight": "3 input channels made into 1"}
    assert set(report.kept) == {"head.weight", "head.bias"}
    assert "4x128 in the model, 10x128 in the file" in str(report)
    assert len(report.loaded) == len(own.state_dict()) - 3 and not report.unused
    assert torch.equal(own.head.weight, head)
    assert torch.equal(
        own.features.stage2[0].body[0].weight, theirs.features.stage2[0].body[0].weight
    )
    torch.testing.assert_close(
        own.features.stem.conv.weight, theirs.features.stem.conv.weight.sum(1, keepdim=True)
    )


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
def test_wrappers_around_a_state_dict_are_taken_off(tmp_path, wrap):
    theirs = models.create("resnet10_small", num_classes=4)
    state = {f"module._orig_mod.{k}": v for k, v in theirs.state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pt")
    own = models.create("resnet10_small", num_classes=4)
    report = weights.load(own, tmp_path / "w.pt", strict=True)
    assert not report.kept and len(report.loaded) == len(state)


def test_another_architecture_is_refused_and_nothing_is_loaded():
    own, theirs = (models.create(n, num_classes=4) for n in ("resnet10_small", "resnet18"))
    before = {k: v.clone() for k, v in own.state_dict().items()}
    with pytest.raises(
        ValueError,
        match=r"got \d+ mismatches, the first: features\.stem\.conv\.weight: 16x3x3x3 in the model, 64x3x7x7 in the file; .*; .*Create the model",
    ):
        weights.load(own, theirs.state_dict())
    assert all(torch.equal(before[k], v) for k, v in own.state_dict().items())
    with pytest.raises(ValueError, match="got 2 mismatches"):
        weights.load(own, models.create("resnet10_small", num_classes=5).state_dict(), strict=True)


def test_a_tensor_of_the_same_size_but_another_shape_is_not_taken():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 30))
    state = {**model.state_dict(), "0.weight": torch.ones(4, 6)}
    assert weights.load(model, state).kept == {"0.weight": "6x4 in the model, 4x6 in the file"}


class Danger:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pickle_that_could_run_code_is_refused(tmp_path, capsys):
    torch.save({"weight": torch.ones(1), "extra": Danger()}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"could run code when opened\. .*safetensors"):
        weights.read(tmp_path / "w.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Danger(), protocol=2))
    with pytest.raises(ValueError, match=r"safetensors|cannot be read"):
        weights.read(tmp_path / "raw.pt")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_is_cut_short_or_missing_is_named(tmp_path, suffix):
    file = tmp_path / f"w.{suffix}"
    state = models.create("resnet10_small", num_classes=2).state_dict()
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"may be cut short"):
        weights.read(file)
    with pytest.raises(FileNotFoundError, match="there is none"):
        weights.read(tmp_path / "nothing.pt")


def test_a_file_with_something_else_in_it_is_named(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "w.pt")
    with pytest.raises(ValueError, match="name -> tensor; got list"):
        weights.read(tmp_path / "w.pt")
