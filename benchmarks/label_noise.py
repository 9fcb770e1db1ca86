"""Wrong labels among training images: how many are found, with labels changed on purpose.

    python benchmarks/label_noise.py                 6,000 images of Fashion-MNIST, about 5 minutes
    python benchmarks/label_noise.py --images 10000 --epochs 12 --kinds uniform

A share of the training labels is changed, a run is trained on them with toque's defaults, and two
ways of ranking the training images are compared with what was changed:

- kept weights: what the finished run's weights answer on the images they were trained on, ranked by
  how far the label falls behind the answer (`toque check DATA --run RUN`). Costs one pass.
- area under the margin (Pleiss 2020, arXiv:2001.10528): the mean over the training of the label's
  logit less the largest other one, gathered here from the loss of each step.

Changed to any other class ("uniform"), or to the class most like it ("alike", harder).
precision@100; P=R, the share found in as many places as there are changed labels; AP, average
precision; listed: how many training images `toque check` would name, their precision and recall.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

import toque
from toque.data import bundled, order
from toque.random import Key
from toque.train.metrics import unlearnt
from toque.train.metrics.answers import answers_of

ALIKE = {0: 6, 6: 0, 2: 4, 4: 2, 5: 7, 7: 5, 9: 7, 1: 3, 3: 1, 8: 2}


class Labelled(Dataset):
    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.images[index]), int(self.labels[index])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--kinds", nargs="+", default=["uniform", "alike"])
    given = parser.parse_args()
    print("kind     ranking       precision@100  P=R    AP     listed  precision  recall")
    for kind in given.kinds:
        measure(kind, given.images, given.epochs, given.share)


def measure(kind: str, num_images: int, epochs: float, share: float) -> None:
    train, val = bundled.fashion()
    images = np.stack([train.read(n).numpy() for n in range(num_images)])
    labels = np.array(train.labels[:num_images])
    draw = np.random.default_rng(0)
    changed = draw.permutation(num_images)[: int(share * num_images)]
    wrong = labels.copy()
    for n in changed:
        away = (labels[n] + draw.integers(1, 10)) % 10
        wrong[n] = ALIKE[int(labels[n])] if kind == "alike" else away
    margins: list[np.ndarray] = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if outputs.requires_grad:
            logits = outputs.detach()
            own = logits.gather(1, targets[:, None])
            other = logits.scatter(1, targets[:, None], -torch.inf).amax(1, keepdim=True)
            margins.append((own - other)[:, 0].numpy().copy())
        return F.cross_entropy(outputs, targets, label_smoothing=0.1)

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = toque.Run(out=f"{folder}/run", epochs=epochs, log={"tensorboard": False})
        held = Labelled(np.stack([val.read(n).numpy() for n in range(1000)]), val.labels[:1000])
        result = toque.fit(run, train=Labelled(images, wrong), val=held, loss=loss, show="quiet")
        pipeline = toque.train.load_model(result.out).pipeline
    seconds = time.perf_counter() - began
    shares = []
    with torch.inference_mode():
        for start in range(0, num_images, 256):
            block = [torch.from_numpy(one) for one in images[start : start + 256]]
            outputs = result.model(pipeline(block, key=Key(0, 0, np.arange(len(block)))))
            shares.append(outputs.softmax(1).numpy())
    probabilities = np.concatenate(shares)
    is_changed = np.isin(np.arange(num_images), changed)
    answers = answers_of(np.arange(num_images), wrong.astype(np.int64), probabilities)
    lead = answers.target_probabilities - probabilities.max(1)
    # An equal answer and label lead by nothing; behind it, by how sure the answer is.
    kept = np.where(answers.right, answers.target_probabilities, lead)
    listed = np.isin(np.arange(num_images), [one.row for one in unlearnt(answers)])
    row(kind, "kept weights", kept, is_changed, listed)
    gathered = np.concatenate(margins)
    rows, _ = order.stream(result.run.seed, num_images, 0, len(gathered))
    area = np.bincount(rows, gathered, num_images) / np.bincount(rows, minlength=num_images)
    row(kind, "area", area, is_changed, area < 0)
    learnt = (probabilities[changed].argmax(1) == wrong[changed]).mean()
    print(f"         accuracy {result.accuracy:.3f}, {learnt:.1%} of the changed labels learnt by "
          f"heart, {seconds:.0f} s")  # fmt: skip


def row(
    kind: str, name: str, score: np.ndarray, is_changed: np.ndarray, listed: np.ndarray
) -> None:
    found = is_changed[np.argsort(score, kind="stable")]
    number = int(is_changed.sum())
    precision = np.cumsum(found) / np.arange(1, len(found) + 1)
    print(
        f"{kind:8} {name:12} {found[:100].mean():8.2f} {found[:number].mean():11.2f} "
        f"{precision[found].mean():6.2f} {listed.sum():7} {is_changed[listed].mean():9.2f} "
        f"{is_changed[listed].sum() / number:9.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
