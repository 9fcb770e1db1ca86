"""A small run of fit: two kinds of pictures, a network with draws of torch's own, every step saved."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import toque
from toque import data
from toque.random import Key
from toque.train.metrics import stages


def images(count, start=0):
    """Two kinds of 8 x 8 pictures: bright on the left, or bright on the right, with noise."""
    key = Key(99, 0, np.arange(start, start + count))
    labels = key.integers("label", 0, 2)[:, 0]
    pixels = 80 * key.uniform("noise", 64).reshape(count, 8, 8)
    pixels[labels == 0, :, :4] += 60
    pixels[labels == 1, :, 4:] += 60
    return data.ArraySource(pixels.to(torch.uint8), labels, ["left", "right"])


TRAIN, VAL = images(100), images(30, start=1000)


def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(4 * 36, 2),
    )  # fmt: skip


def settings(out, **changed):
    return toque.Run(
        **{
            "out": str(out),
            "epochs": 3,
            "batch_size": 16,
            "augment": "none",
            "ema": {"half_life_epochs": 0.5},
            "optimizer": {"name": "adamw"},
            "checkpoint": {"every_s": 1e-6, "background": False},  # one in every step
            "log": {"tensorboard": False, "every_images": 48},
            **changed,
        }
    )


def train(out, *, loss=None, model=network, show="quiet", train=TRAIN, val=VAL, **changed):
    return toque.fit(
        settings(out, **changed), train=train, val=val, model=model, loss=loss, show=show
    )


def bits(out):
    """The weights' hash, and the rows without their times."""
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    rows = [
        {key: value for key, value in row.items() if key not in stages.MEASURED} for row in rows
    ]
    return hashlib.sha256((Path(out) / "weights.safetensors").read_bytes()).hexdigest(), rows


class Crash(Exception):
    pass


def crashing_after(steps):
    """The usual loss, that raises in its `steps`-th training step."""
    count = 0

    def loss(outputs, targets):
        nonlocal count
        if outputs.requires_grad:
            count += 1
            if count > steps:
                raise Crash
        return cross_entropy(outputs, targets)

    return loss
