"""Cross-entropy against its definition written out in float64, and what is defined where torch gives NaN."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vmap

from toque import random
from toque.losses import cross_entropy
from toque.losses import targets as labels


@pytest.fixture(autouse=True)
def seeded():
    random.seed_torch(0, "tests")


def defined(logits, targets, smoothing=0.0, ignore_index=-100, class_weights=None):
    """Loss and weight of each position, one by one, in float64."""
    logits = logits.double().movedim(1, -1)
    K = logits.shape[-1]
    weights = torch.ones(K).double() if class_weights is None else class_weights.double()
    soft = targets.is_floating_point()
    positions = logits.shape[:-1]
    losses, counted = torch.zeros(positions).double(), torch.zeros(positions).double()
    for position in itertools.product(*map(range, positions)):
        log_p = logits[position] - logits[position].exp().sum().log()
        if soft:
            target = targets.double().movedim(1, -1)[position]
            counted[position] = 1
        else:
            number = int(targets[position])
            if number == ignore_index:
                continue
            target = torch.zeros(K).double()
            target[number] = 1
            counted[position] = weights[number]
        target = target * (1 - smoothing) + smoothing / K
        losses[position] = -(weights * target * log_p).sum()
    return losses, counted


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 2, 3)])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_definition_under_every_reduction(shape, soft, smoothing, weighted):
    logits = torch.randn(shape)
    targets = torch.randn(shape).softmax(1) if soft else torch.randint(4, (shape[0], *shape[2:]))
    if not soft:
        targets.view(-1)[1] = -100
    weights = torch.rand(4) + 0.1 if weighted else None
    losses, counted = defined(logits, targets, smoothing, class_weights=weights)
    for reduction, expected in [
        ("none", losses),
        ("sum", losses.sum()),
        ("mean", losses.sum() / counted.sum()),
    ]:
        found = cross_entropy(
            logits, targets, label_smoothing=smoothing, class_weights=weights, reduction=reduction
        )
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_it_is_torchs_own_where_torchs_is_defined():
    logits, targets = torch.randn(6, 5, requires_grad=True), torch.tensor([0, 4, 255, 2, 2, 1])
    ours = cross_entropy(logits, targets, label_smoothing=0.1, ignore_index=255)
    theirs = F.cross_entropy(logits, targets, label_smoothing=0.1, ignore_index=255)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("targets", [torch.full((3,), -100), torch.zeros(0, dtype=torch.long)])
@pytest.mark.parametrize("weights", [None, torch.ones(4)])
def test_nothing_to_average_is_zero_with_zero_gradient(targets, weights):
    logits = torch.randn(len(targets), 4, requires_grad=True)
    loss = cross_entropy(logits, targets, class_weights=weights)
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_logits_are_summed_in_float32():
    logits = torch.randn(64, 1000).half() * 4
    targets = torch.randint(1000, (64,))
    found = cross_entropy(logits, targets, reduction="sum")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.cross_entropy(logits.float(), targets, reduction="sum"))


@pytest.mark.parametrize("number", [7, -1, 255])
def test_a_class_out_of_range_is_named_on_the_cpu_and_nan_where_values_cannot_be_read(number):
    logits, targets = torch.randn(3, 5), torch.tensor([0, number, 4])
    with pytest.raises(
        ValueError, match=rf"must be in 0 \.\. 4, or -100 to ignore; got {number}\."
    ):
        cross_entropy(logits, targets)
    # Under a transform values cannot be read: what a GPU does, where reading would synchronise.
    values = vmap(lambda z, t: cross_entropy(z[None], t[None]))(logits, targets)
    assert values.isnan().tolist() == [False, True, False]
    slope = grad(lambda z: vmap(lambda a, t: cross_entropy(a[None], t[None]))(z, targets).sum())
    assert slope(logits).shape == logits.shape
    assert "got" in labels.explain("step", targets, 5, -100)


def test_values_that_cannot_be_read_give_the_same_loss(monkeypatch):
    logits, targets = torch.randn(6, 5), torch.tensor([0, 4, -100, 2, 2, 1])
    weights = torch.rand(5)
    kinds = ["mean", "sum", "none"]
    read = [cross_entropy(logits, targets, class_weights=weights, reduction=k) for k in kinds]
    monkeypatch.setattr(labels, "is_readable", lambda tensor: False)
    unread = [cross_entropy(logits, targets, class_weights=weights, reduction=k) for k in kinds]
    for a, b in zip(read, unread, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("logits", "targets", "settings", "kind", "words"),
    [
        (torch.zeros(2, 3).long(), torch.zeros(2).long(), {}, TypeError, "before argmax"),
        (torch.zeros(3), torch.zeros(3).long(), {}, ValueError, r"\[B, K, ...\]; got \[3\]"),
        (torch.zeros(2, 3), torch.zeros(3).long(), {}, ValueError, r"shape \[2\] for logits \[2, 3\]"),
        (torch.zeros(2, 3), torch.zeros(2, 4), {}, ValueError, r"shape \[2, 3\]; got \[2, 4\]"),
        (torch.zeros(2, 3), torch.zeros(2).bool(), {}, TypeError, r"targets.long\(\)"),
        (torch.zeros(2, 3), torch.zeros(2).long(), {"label_smoothing": 1.5}, ValueError, "0 .. 1; got 1.5"),
        (torch.zeros(2, 3), torch.zeros(2).long(), {"class_weights": torch.ones(2)}, ValueError, r"shape \[3\]; got \[2\]"),
        (torch.zeros(2, 3), torch.zeros(2).long(), {"reduction": "avg"}, ValueError, "mean, sum or none; got 'avg'"),
        (torch.zeros(2, 3, device="meta"), torch.zeros(2).long(), {}, ValueError, "on meta like the logits; got cpu"),
    ],
)  # fmt: skip
def test_bad_input_is_said_in_one_sentence(logits, targets, settings, kind, words):
    with pytest.raises(kind, match=words):
        cross_entropy(logits, targets, **settings)
