"""Wrong labels, numbers and masks among training images: how many a finished run names.

    python benchmarks/target_noise.py                        all three tasks, about 10 minutes
    python benchmarks/target_noise.py --tasks segmentation --epochs 20

For labels of one class see label_noise.py. A tenth of the training targets is changed, a run is
trained on them with toque's defaults, and what `toque check DATA --run RUN` would list is compared
with what was changed:

- multilabel: 2,000 collages of four garments (Fashion-MNIST), which of ten kinds are there; of a
  changed image one kind is claimed or denied wrongly
- regression: 2,000 of the same collages and their mean brightness; a changed one carries another's
- segmentation: the 160 nuclei that ship with toque; a changed mask is another image's ("other"),
  lies 12 pixels aside ("moved") or lacks half of its nuclei, every other one ("missing")

listed: how many training images are named; precision: share of them that was changed; recall: share
of the changed ones that is named; P=R: precision among as many as were changed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import toque
from toque import data
from toque.data import bundled
from toque.train import restore
from toque.train.studies import learnt

EPOCHS = {"multilabel": 10.0, "regression": 10.0, "segmentation": 20.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--share", type=float, default=0.1)
    given = parser.parse_args()
    print("task          kind      score      changed  listed  precision  recall  P=R   seconds")
    for task in given.tasks:
        kinds = ("other", "moved", "missing") if task == "segmentation" else ("wrong",)
        for kind in kinds:
            measure(task, kind, given.epochs or EPOCHS[task], given.share)


def measure(task: str, kind: str, epochs: float, share: float) -> None:
    began = time.perf_counter()
    train, val = sources(task)
    draw = np.random.default_rng(0)
    size = len(train)
    changed = draw.permutation(size)[: round(share * size)]
    wrong = spoilt(train, changed, kind, draw)
    with tempfile.TemporaryDirectory() as folder:
        run = toque.Run(out=f"{folder}/run", epochs=epochs, log={"tensorboard": False})
        result = toque.fit(run, train=wrong, val=val, show="quiet")
        trained = restore.load_model(result.out)
        validation = learnt.answers(trained, val)
        found = learnt.doubts(Path(result.out), trained, wrong, validation, show="quiet")
    listed = [one.index for one in found.doubts]
    hits = np.isin(listed, changed)
    top = np.isin(listed[: len(changed)], changed).sum() / len(changed)
    main_metric = result.evaluation.main
    print(
        f"{task:13} {kind:9} {main_metric.text(result.evaluation.metrics[main_metric.key]):10} "
        f"{len(changed):7} {len(listed):7} {hits.mean() if len(hits) else np.nan:10.2f} "
        f"{hits.sum() / len(changed):7.2f} {top:5.2f} {time.perf_counter() - began:8.0f}",
        flush=True,
    )


def sources(task: str) -> tuple[data.ArraySource, data.ArraySource]:
    if task == "segmentation":
        return tuple(
            data.ArraySource(
                torch.stack([source.read(n) for n in range(len(source))]),
                torch.stack([source.mask(n) for n in range(len(source))]),
                source.classes,
            )
            for source in bundled.nuclei()
        )  # type: ignore[return-value]
    made = []
    for source, size, seed in zip(bundled.fashion(), (2000, 500), (1, 2), strict=True):
        draw = np.random.default_rng(seed)
        picked = draw.integers(0, len(source), (size, 4))
        parts = torch.stack([source.read(n) for n in range(len(source))])[picked]
        rows = [torch.cat([parts[:, a], parts[:, a + 1]], dim=3) for a in (0, 2)]
        images = torch.cat(rows, dim=2)
        kinds = torch.nn.functional.one_hot(torch.as_tensor(source.labels)[picked].long(), 10)
        brightness = images.float().mean((1, 2, 3))[:, None]
        targets = kinds.amax(1).float() if task == "multilabel" else brightness
        names = source.classes if task == "multilabel" else ["brightness"]
        made.append(data.ArraySource(images, targets, names))
    return made[0], made[1]


def spoilt(
    source: data.ArraySource, changed: np.ndarray, kind: str, draw: np.random.Generator
) -> data.ArraySource:
    """The source with the targets of the changed images made wrong."""
    images = torch.stack([source.read(n) for n in range(len(source))])
    if source.task == "segmentation":
        masks = torch.stack([source.mask(n) for n in range(len(source))])
        for n in changed:
            masks[n] = wrong_mask(masks, int(n), kind)
        return data.ArraySource(images, masks, source.classes)
    targets = torch.as_tensor(source.labels).clone()
    if source.task == "multilabel":
        for n in changed:
            k = int(draw.integers(0, targets.shape[1]))
            targets[n, k] = 1 - targets[n, k]
    else:
        others = draw.integers(1, len(source), len(changed))
        targets[changed] = targets[(changed + others) % len(source)]
    return data.ArraySource(images, targets, source.classes)


def wrong_mask(masks: torch.Tensor, n: int, kind: str) -> torch.Tensor:
    if kind == "other":
        return masks[(n + 1) % len(masks)].clone()
    if kind == "moved":
        return masks[n].roll(12, dims=1)
    from scipy import ndimage

    numbers, _ = ndimage.label(masks[n].numpy())
    return torch.from_numpy((numbers % 2 == 1).astype(np.uint8))


if __name__ == "__main__":
    main()
