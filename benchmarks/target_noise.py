"""Wrong labels, numbers and masks among training images: how many a finished run names.

    python benchmarks/target_noise.py                        all three tasks, about 10 minutes
    python benchmarks/target_noise.py --tasks multilabel --seeds 0 1 2      about 8 minutes
    python benchmarks/target_noise.py --tasks multilabel --seeds 0 1 2 --epochs 2     a poor model

For labels of one class see label_noise.py. A tenth of the training targets is changed, a run is
trained on them with toque's defaults, and what `toque check DATA --run RUN` would list is compared
with what was changed:

- multilabel: 2,000 collages of four garments (Fashion-MNIST), which of ten kinds are there; of a
  changed image one kind is claimed ("superfluous") or denied ("missing") wrongly; as many of the
  validation images are spoilt alike, as where a part of the data is drawn for it (--clean: none)
- regression: 2,000 of the same collages and their mean brightness; a changed one carries another's
- segmentation: the 160 nuclei that ship with toque; a changed mask is another image's ("other"),
  lies 12 pixels aside ("moved") or lacks half of its nuclei, every other one ("missing")

listed: how many training images are named; precision: share of them that was changed; recall: share
of the changed ones that is named; P=R: precision among as many as were changed, "-" where fewer
are named. Of several labels the kinds have rows of their own, and what cannot be told is said.
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
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--clean", action="store_true", help="validation labels that are all right")
    given = parser.parse_args()
    print(
        "task          kind        seed score      changed  listed  precision  recall  P=R  seconds"
    )
    for task in given.tasks:
        kinds = ("other", "moved", "missing") if task == "segmentation" else ("wrong",)
        for kind in kinds:
            for seed in given.seeds:
                epochs = given.epochs or EPOCHS[task]
                measure(task, kind, epochs, given.share, seed, given.clean)


def measure(task: str, kind: str, epochs: float, share: float, seed: int, clean: bool) -> None:
    began = time.perf_counter()
    train, val = sources(task)
    draw = np.random.default_rng(seed)
    size = len(train)
    changed = draw.permutation(size)[: round(share * size)]
    wrong = spoilt(train, changed, kind, draw)
    if task == "multilabel" and not clean:
        val = spoilt(val, draw.permutation(len(val))[: round(share * len(val))], kind, draw)
    with tempfile.TemporaryDirectory() as folder:
        run = toque.Run(out=f"{folder}/run", epochs=epochs, seed=seed, log={"tensorboard": False})
        result = toque.fit(run, train=wrong, val=val, show="quiet")
        trained = restore.load_model(result.out)
        validation = restore.answers(trained, val)
        found = learnt.doubts(Path(result.out), trained, wrong, validation, show="quiet")
    main_metric = result.evaluation.main
    score = main_metric.text(result.evaluation.metrics[main_metric.key])
    seconds = time.perf_counter() - began
    row(task, kind, seed, score, changed, [one.index for one in found.doubts], seconds)
    if task == "multilabel":
        more = np.asarray(wrong.labels).sum(1) - np.asarray(train.labels).sum(1)
        for name, by in (("missing", -1), ("superfluous", 1)):
            listed = [one.index for one in found.doubts if one.kind == name]
            row(task, name, seed, score, np.flatnonzero(more == by), listed, seconds)
    if found.cannot_tell:
        print(f"    {found.cannot_tell}", flush=True)


def row(
    task: str, kind: str, seed: int, score: str, changed: np.ndarray, doubted: list[int],
    seconds: float,
) -> None:  # fmt: skip
    listed = list(dict.fromkeys(doubted))
    hits = np.isin(listed, changed)
    top = np.isin(listed[: len(changed)], changed)
    equal = f"{top.mean():5.2f}" if len(top) == len(changed) else "    -"
    print(
        f"{task:13} {kind:11} {seed:4} {score:10} {len(changed):7} {len(listed):7} "
        f"{hits.mean() if len(hits) else np.nan:10.2f} {hits.sum() / len(changed):7.2f} {equal} "
        f"{seconds:8.0f}",
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
