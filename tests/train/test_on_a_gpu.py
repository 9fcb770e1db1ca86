"""Training on a CUDA device: the same bits again, after a crash too; memory; what goes there and
when. (What fit does anywhere is in test_fit.py.)"""

import hashlib
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

import toque
from tests.train.runs import Crash, crashing_after
from toque import augment, data, layers, models
from toque.random import Key

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


def images(count, start=0, size=48):
    """Four kinds of pictures: a bright band at one of four heights, in noise."""
    key = Key(5, 0, np.arange(start, start + count))
    labels = key.integers("label", 0, 4)[:, 0]
    coarse = key.uniform("noise", 3 * 64).reshape(count, 3, 8, 8)
    for kind in range(4):
        coarse[labels == kind, :, 2 * kind : 2 * kind + 2] += 0.6
    pixels = 150 * interpolate(coarse, (size, size), mode="nearest")
    return data.ArraySource(pixels.to(torch.uint8), labels, list("abcd"))


TRAIN, VAL = images(256), images(64, start=9000)


def network():
    """Convolutions, BatchNorm, a maximum, a mean, and draws of torch's own."""
    return nn.Sequential(
        models.create("toque/resnet18", num_classes=32), nn.Dropout(0.3), nn.Linear(32, 4)
    )


def train(out, *, train=TRAIN, val=VAL, model=network, loss=None, **changed):
    settings = {
        "out": str(out), "epochs": 2, "batch_size": 32, "image_size": 48, "augment": "imagenet",
        "device": "cuda", "checkpoint": {"every_s": 1e-6}, "log": {"tensorboard": False},
    }  # fmt: skip
    run = toque.Run(**(settings | changed))
    return toque.fit(run, train=train, val=val, model=model, loss=loss, show="quiet")


def bits(result):
    return hashlib.sha256((result.out / "weights.safetensors").read_bytes()).hexdigest()


def rows(result):
    lines = (result.out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    "changed",
    [
        {"precision": "bfloat16"},
        {"precision": "float32", "augment_on": "host", "channels_last": False},
        {"precision": "tf32", "mix": {"mixup": 0.3, "cutmix": 0.5}},
        {"precision": "float16", "ema": {"half_life_epochs": 0.5}, "optimizer": {"name": "adamw"}},
    ],
    ids=lambda changed: changed["precision"],
)
def test_crashed_three_times_it_ends_in_the_same_bits(tmp_path, changed):
    whole = train(tmp_path / "whole", loss=crashing_after(10**9), **changed)
    for steps in (3, 5, 4):
        with pytest.raises(Crash):
            train(tmp_path / "parts", loss=crashing_after(steps), **changed)
    parts = train(tmp_path / "parts", loss=crashing_after(10**9), **changed)
    assert bits(parts) == bits(whole)
    assert parts.images_seen == whole.images_seen == 512


def test_it_learns_as_on_the_cpu(tmp_path):
    settings = {"precision": "float32", "augment": "none", "model": "toque/resnet10_small"}
    on_cpu = train(tmp_path / "cpu", device="cpu", **(settings | {"model": resnet}))
    on_gpu = train(tmp_path / "gpu", **(settings | {"model": resnet}))
    first, other = (rows(result)[0]["loss"] for result in (on_cpu, on_gpu))
    assert other == pytest.approx(first, rel=1e-3)
    assert on_gpu.accuracy > 0.9 and on_cpu.accuracy > 0.9


def resnet():
    return models.create("toque/resnet10_small", num_classes=4)


def test_what_the_device_augments_is_what_the_host_would(tmp_path):
    """Within the bounds of the kernels, through decoding, staging and copying."""
    from toque.data import Upload, train_batches

    pipeline = augment.preset("imagenet", 40, channels=3)
    device = torch.device("cuda")
    given = {"seed": 0, "batch_size": 24, "start_images": 0, "stop_images": 480, "threads": 3}
    host = train_batches(TRAIN, pipeline, **given)
    there = train_batches(TRAIN, pipeline, **given, upload=Upload(device, augments=True))
    sent = train_batches(TRAIN, pipeline, **given, upload=Upload(device, augments=False))
    for one, other, copied in zip(host, there, sent, strict=True):
        assert other.images.is_cuda and other.targets.is_cuda and copied.images.is_cuda
        assert torch.equal(copied.images.cpu(), one.images)
        assert torch.equal(other.targets.cpu(), one.targets)
        different = (other.images.cpu() - one.images).abs()
        assert different.mean() < 2e-3 and (different > 0.05).float().mean() < 1e-3


def test_out_of_memory_in_earnest_the_step_is_done_again_in_halves(tmp_path):
    large = images(128, size=128)
    free = train(tmp_path / "free", train=large, batch_size=128, image_size=128, epochs=1)
    before = torch.cuda.memory_allocated()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    train(tmp_path / "again", train=large, batch_size=128, image_size=128, epochs=1)
    needed = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(
        (torch.cuda.memory_allocated() + 0.6 * needed) / total
    )
    try:
        tight = train(tmp_path / "tight", train=large, batch_size=128, image_size=128, epochs=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory" in (tight.out / "result.json").read_text()
    assert tight.images_seen == free.images_seen


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Conv2d(2, 3, 3), (torch.randn(2, 2, 7, 7),)),
        (nn.LayerNorm(8), (torch.randn(4, 8),)),
        (nn.BatchNorm2d(3), (torch.randn(4, 3, 5, 5),)),
    ],
    ids=["conv", "layer norm", "batch norm"],
)
def test_layers_are_verified_where_they_lie(layer, inputs):
    found = layers.verify(layer.cuda(), *(one.cuda() for one in inputs))
    assert [one for one in found.findings if one.status == "failed"] == []


def test_a_run_on_a_gpu_is_used_on_a_cpu(tmp_path):
    result = train(tmp_path / "run", model=None)
    trained = toque.train.load_model(result.out, device="cpu")
    pixels = torch.randn(4, 3, 48, 48)
    with torch.no_grad():
        here = trained.model(pixels)
        there = trained.model.cuda()(pixels.cuda()).cpu()
    torch.testing.assert_close(here, there, rtol=1e-2, atol=1e-2)
