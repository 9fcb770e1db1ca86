"""What a report proposes after a run: each rule speaks where its number does, and only there."""

import numpy as np
import pytest

from toque.models import catalog
from toque.train.metrics import score
from toque.train.next_steps import next_steps
from toque.train.run import Run

NAMES = ("cat", "dog", "owl")


def scores(answers):
    """Scores of images whose (label, answer) pairs come so many times: {(0, 0): 40, ...}."""
    pairs = np.array([pair for pair, times in answers.items() for _ in range(times)])
    probabilities = np.full((len(pairs), 3), 0.1, np.float32)
    probabilities[np.arange(len(pairs)), pairs[:, 1]] = 0.8
    return score(np.arange(len(pairs)), pairs[:, 0], probabilities, seed=0)


def rows(training, validation):
    """Rows of metrics.jsonl with these accuracies, epoch by epoch."""
    made = []
    for epoch, (mine, others) in enumerate(zip(training, validation, strict=True), start=1):
        seen = {"images_seen": 100 * epoch}
        made += [
            {"split": "train", "accuracy": mine, **seen},
            {"split": "val", "accuracy": others} | seen,
        ]
    return made


GOOD = scores({(n, n): 990 for n in range(3)} | {(0, 1): 30})
FLAT = rows([0.5, 0.99, 0.99], [0.5, 0.995, 0.99])
MANY = np.array([4000, 4000, 4000])


def said(run=None, found=GOOD, curve=FLAT, counts=MANY):
    resolved = run or Run(model="resnet18", image_size=224, epochs=10)
    return next_steps(resolved, curve, found, NAMES, counts)


def test_where_all_is_well_nothing_is_said():
    assert said() == []


def test_the_commonest_answer_is_the_mark_to_beat():
    dumb = scores({(0, 0): 600, (1, 0): 300, (2, 0): 100})
    first, second = said(found=dumb, curve=rows([0.6] * 3, [0.5, 0.6, 0.6]))
    assert first.startswith("Whoever always answers cat is right on 60.0 % of these images")
    assert "--set epochs=20" in first
    assert second == "Never recognised: dog, owl."
    assert not any(
        "Whoever" in one for one in said(found=scores({(0, 0): 600, (1, 1): 400, (2, 0): 9}))
    )


def test_a_class_that_is_rare_and_never_recognised():
    blind = scores({(0, 0): 500, (1, 1): 500, (2, 0): 9})
    (sentence,) = said(found=blind, counts=np.array([4000, 4000, 70]))
    assert sentence == (
        "Never recognised: owl. Training images are few of owl (70): add some, or show all classes "
        "equally often (--set sampling.name=balanced)."
    )
    balanced = Run(model="resnet18", image_size=224, sampling={"name": "balanced"})
    (sentence,) = said(balanced, found=blind, counts=np.array([4000, 4000, 70]))
    assert sentence.endswith("owl (70): add some.")
    assert said(found=blind, counts=None) == ["Never recognised: owl."]


def test_what_was_learnt_by_heart_and_what_was_not_learnt_to_the_end():
    middling = scores({(n, n): 700 for n in range(3)} | {(n, (n + 1) % 3): 300 for n in range(3)})
    (heart,) = said(found=middling, curve=rows([0.6, 0.8, 0.95], [0.6, 0.7, 0.7]))
    assert heart.startswith("On training images it is right in 95.0 %, on others in 70.0 %")
    (longer,) = said(found=middling, curve=rows([0.5, 0.6, 0.68], [0.5, 0.6, 0.7]))
    assert "a longer run is likely to learn more (--set epochs=20)" in longer
    assert (
        said(found=middling, curve=rows([0.5, 0.7, 0.68], [0.5, 0.71, 0.7])) == []
    )  # had its best
    # Mixed images have no accuracy while training.
    unmixed = [row for row in rows([0.9] * 3, [0.5, 0.6, 0.7]) if row["split"] == "val"]
    assert said(found=middling, curve=unmixed) == []


def test_published_weights_for_few_photos_and_a_model_that_has_some():
    few = np.array([100, 100, 100])
    (sentence,) = said(counts=few)
    assert (
        sentence.startswith("300 training images are few") and "--set pretrained=true" in sentence
    )
    begun = {"image_size": 224, "model": "resnet18"}
    for other in (
        begun | {"pretrained": True},
        begun | {"image_size": 32},
        begun | {"model": "resnet10_small"},
        begun | {"model": "own:network"},
    ):
        assert said(Run(**other), counts=few) == [], other


@pytest.mark.parametrize(
    "name", ["toque/resnet50", "repvgg_a0", "timm/resnet50", "torchvision/resnet18"]
)
def test_who_has_weights(name):
    assert catalog.has_weights(name)
    assert not any(catalog.has_weights(other) for other in ("unet", "toque/vit_tiny", "a.b:net"))


def test_few_validation_images_hide_what_changes_bring():
    few = scores({(0, 0): 30, (1, 1): 30, (2, 2): 30, (0, 1): 10})
    (sentence,) = said(found=few)
    assert sentence.startswith("100 validation images tell the accuracy to 90.0 %")
