"""load_model: one sentence for every file of weights that is not this run's."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import toque
from tests.train.runs import TRAIN, VAL, network, settings
from toque import deploy
from toque.train import load_model, restore
from toque.train.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("restore") / "run"
    toque.fit(settings(out, epochs=1), train=TRAIN, val=VAL, model=network, show="quiet")
    return out


@pytest.fixture
def file(run):
    file = run / "weights.safetensors"
    whole = file.read_bytes()
    yield file
    file.write_bytes(whole)


def both(file):
    """The two readers of the one file: of a run folder, and of an exported file."""
    return (
        lambda: load_model(file.parent, model=network()),
        lambda: deploy.load(file),
    )


def test_the_weights_come_back(run):
    model = load_model(run, model=network()).model
    assert not model.training
    for name, tensor in load_file(run / "weights.safetensors").items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize("metadata", [None, {"toque": "{"}, {"toque": "[1]"}, {"other": "{}"}])
def test_weights_without_toques_metadata(file, metadata):
    save_file(load_file(file), file, metadata=metadata)
    for read in both(file):
        with pytest.raises(ValueError, match=r"weights.safetensors must be .*without toque's meta"):
            read()


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_file_cut_short(file, kept):
    file.write_bytes(file.read_bytes()[:kept])
    for read in both(file):
        with pytest.raises(ValueError, match="must be a whole safetensors file; got an error"):
            read()


def test_another_architecture_is_named_by_its_first_difference(run):
    other = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3))
    with pytest.raises(ValueError, match=r"weights.safetensors was saved from; got .*1\.weight"):
        load_model(run, model=other)


def test_data_named_from_another_folder_is_said_to_be_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"photos, must be found .* none in {tmp_path}"):
        restore.own_splits(Run(data="photos"))
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        restore.own_splits(Run(data=str(tmp_path / "photos")))
