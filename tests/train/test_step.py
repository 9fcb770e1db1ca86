"""The step: the gradient of the whole batch in any parts, and nothing changed by a bad one."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.train.stepping import CPU, FLOAT32, batch, built, labels, pixels, weights
from toque import losses
from toque.models.ema import EMA
from toque.train.optimisation.optimizers import Optimizers
from toque.train.settings.optimisation import ClipSettings
from toque.train.steps.precision import LossScale, Precision
from toque.train.steps.statistics import Statistics


def segmenter():
    torch.manual_seed(0)
    return nn.Conv2d(2, 3, 3, padding=1).double()


def pixel_labels(count):
    targets = labels(count, 5, 5)
    targets[0] = -100  # one image counts nothing at all, another only in part
    targets[2, :4] = -100
    return targets


def soft(targets):
    return F.one_hot(targets, 3).double() * 0.7 + 0.1


CASES = {
    "class numbers": lambda: (losses.create("cross_entropy"), labels(7)),
    "soft": lambda: (losses.create("cross_entropy"), soft(labels(7))),
    "smoothed": lambda: (losses.create("cross_entropy", label_smoothing=0.1), labels(7)),
    "weighted": lambda: (
        losses.create("cross_entropy", {"class_weights": torch.tensor([1.0, 5.0, 0.2]).double()}),
        labels(7),
    ),
    "torch's own": lambda: (
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]).double()),
        labels(7),
    ),
    "a number": lambda: (lambda outputs, y: F.mse_loss(outputs, y), pixels(7, 3, seed=5)),
}


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5])
@pytest.mark.parametrize("case", CASES)
def test_parts_give_the_loss_and_the_gradient_of_the_whole_batch(case, micro_batch):
    loss, targets = CASES[case]()
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    before, x = copy.deepcopy(model), pixels(7, 4)
    value = loss(before(x), targets)
    value.backward()
    outcome = built(model, loss, micro_batch=micro_batch)(batch(x, targets), 0, 1.0)
    assert outcome.loss.item() == pytest.approx(value.item(), rel=1e-12)
    for parameter, was in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(was - parameter, was.grad, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(outcome.outputs, before(x).detach())


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_ignored_pixels_do_not_weigh_in_any_part(name, micro_batch):
    loss, targets, x = losses.create(name), pixel_labels(4), pixels(4, 2, 5, 5)
    whole, parts = segmenter(), segmenter()
    one = built(whole, loss)(batch(x, targets), 0, 1.0)
    other = built(parts, loss, micro_batch=micro_batch)(batch(x, targets), 0, 1.0)
    assert other.loss.item() == pytest.approx(one.loss.item(), rel=1e-12)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-12, atol=1e-14)


def test_a_batch_in_which_nothing_counts_changes_nothing_and_is_a_number():
    model, x = segmenter(), pixels(4, 2, 5, 5)
    before = weights(model)
    targets = torch.full((4, 5, 5), -100)
    outcome = built(model, losses.create("cross_entropy"), micro_batch=3)(batch(x, targets), 0, 1.0)
    assert outcome.loss.item() == 0 and outcome.skipped.item() == 0
    assert torch.equal(weights(model), before)


def test_a_nest_of_targets_is_cut_into_the_same_parts():
    def loss(outputs, targets):
        return F.mse_loss(outputs, targets["point"]) + F.cross_entropy(outputs, targets["kind"])

    targets = {"point": pixels(5, 3, seed=3), "kind": labels(5)}
    models = [nn.Linear(4, 3).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, micro_batch in zip(models, (None, 2), strict=True):
        built(model, loss, micro_batch=micro_batch)(batch(pixels(5, 4), targets), 0, 1.0)
    torch.testing.assert_close(weights(models[1]), weights(models[0]), rtol=1e-12, atol=1e-14)


def test_an_own_loss_says_how_many_of_its_targets_count():
    class Positive(nn.Module):
        """The mean of the squares over targets above 0."""

        def forward(self, outputs, targets):
            counted = targets > 0
            return ((outputs - targets) ** 2 * counted).sum() / counted.sum().clamp_min(1)

        def num_targets(self, targets):
            return (targets > 0).sum()

    x, targets = pixels(6, 4), pixels(6, 3, seed=9)
    targets[:2] = -1
    models = [nn.Linear(4, 3).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, micro_batch in zip(models, (None, 4), strict=True):
        built(model, Positive(), micro_batch=micro_batch)(batch(x, targets), 0, 1.0)
    torch.testing.assert_close(weights(models[1]), weights(models[0]), rtol=1e-12, atol=1e-14)


def test_dropout_draws_depend_on_the_count_of_images_alone():
    def after(images_seen, noise):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 3)).double()
        step = built(model, F.cross_entropy)
        torch.manual_seed(noise)  # what drew before does not matter
        step(batch(pixels(6, 4), labels(6)), images_seen, 1.0)
        return weights(model)

    assert torch.equal(after(64, noise=1), after(64, noise=2))
    assert not torch.equal(after(64, noise=1), after(128, noise=1))


# -- a step without a number


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


OPTIMIZERS = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
    "fused sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, fused=True),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.1),
    "fused adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.1, fused=True),
}


def root(outputs, targets):
    """A finite loss whose gradient at 0 is not finite."""
    return F.cross_entropy(outputs, targets) + (outputs * 0).abs().sqrt().sum()


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("what", ["image", "loss", "gradient"])
def test_a_bad_step_changes_nothing(what, optimizer, on_device, monkeypatch):
    if on_device:  # as on a GPU: the flag is not read, fused optimisers look at it themselves
        monkeypatch.setattr(Optimizers, "_reads", lambda self, bad: not self._skipping)
    model, calls = normed(), []

    def loss(outputs, targets):
        calls.append(1)
        value = F.cross_entropy(outputs, targets)
        if len(calls) == 3 and what == "loss":  # its gradients are good
            value = value + torch.inf
        return root(outputs, targets) if len(calls) == 3 and what == "gradient" else value

    step = built(model, loss, optimizer=OPTIMIZERS[optimizer])
    good = batch(pixels(6, 4, dtype=torch.float32), labels(6))
    poisoned = batch(good.images.clone(), good.targets)
    if what == "image":
        poisoned.images[2, 1] = torch.nan
    for number in range(2):
        assert step(good, number, 0.1).skipped.item() == 0
    before = copy.deepcopy((model.state_dict(), step.optimizers.state_dict()))
    assert step(poisoned, 2, 0.1).skipped.item() == 1
    after = (model.state_dict(), step.optimizers.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert step(good, 3, 0.1).skipped.item() == 0
    assert not torch.equal(model[0].weight, before[0]["0.weight"])


@pytest.mark.parametrize("way", ["restore_where", "_select"])  # as on a CPU, as on a GPU
def test_statistics_come_back_on_the_device_or_at_once(way):
    model = normed()
    statistics = Statistics(model)
    statistics.keep()
    before = copy.deepcopy(model.state_dict())
    model(pixels(6, 4, dtype=torch.float32))
    changed = copy.deepcopy(model.state_dict())
    getattr(statistics, way)(torch.tensor(0.0))
    torch.testing.assert_close(model.state_dict(), changed, rtol=0, atol=0)
    getattr(statistics, way)(torch.tensor(1.0))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not torch.equal(changed["1.running_mean"], before["1.running_mean"])
    model(pixels(6, 4, dtype=torch.float32))
    statistics.restore()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_clipping_sees_the_gradient_of_the_whole_batch(micro_batch):
    x, y = pixels(5, 4), labels(5)
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    before = copy.deepcopy(model)
    F.cross_entropy(before(x), y).backward()
    length = torch.cat([p.grad.flatten() for p in before.parameters()]).norm()
    limit = float(length) / 3
    step = built(model, F.cross_entropy, micro_batch=micro_batch, clip=ClipSettings(norm=limit))
    step(batch(x, y), 0, 1.0)
    moved = weights(before) - weights(model)
    assert moved.norm().item() == pytest.approx(limit, rel=1e-5)

    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    built(model, F.cross_entropy, clip=ClipSettings(value=0.01))(batch(x, y), 0, 1.0)
    expected = torch.cat([p.grad.clamp(-0.01, 0.01).flatten() for p in before.parameters()])
    torch.testing.assert_close(weights(before) - weights(model), expected)


def test_the_average_follows():
    model = normed()
    ema = EMA(model, half_life_images=6)
    step = built(model, F.cross_entropy, ema=ema)
    step(batch(pixels(6, 4, dtype=torch.float32), labels(6)), 0, 0.1)
    first = model[0].weight.detach().clone()
    torch.testing.assert_close(ema.model[0].weight, first)  # the first update copies
    step(batch(pixels(6, 4, dtype=torch.float32, seed=7), labels(6)), 6, 0.1)
    torch.testing.assert_close(ema.model[0].weight, (first + 2 * model[0].weight.detach()) / 3)


# -- precision


def test_bfloat16_multiplies_in_bfloat16_and_keeps_float32_weights():
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            answer = super().forward(x)
            seen.append(answer.dtype)
            return answer

    model = Watched(4, 3)
    step = built(model, losses.create("cross_entropy"), precision=Precision("bfloat16", CPU))
    outcome = step(batch(pixels(6, 4, dtype=torch.float32), labels(6)), 0, 0.1)
    assert seen == [torch.bfloat16] and model.weight.dtype == torch.float32
    assert outcome.loss.dtype == torch.float32


def test_float16_scales_as_torchs_gradscaler_does():
    """Overflow at the first scale, then steps: weights and scale against torch.amp.GradScaler."""
    x, y = 400 * pixels(8, 4, dtype=torch.float32), labels(8)
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    theirs = copy.deepcopy(model)
    step = built(model, losses.create("cross_entropy"), precision=Precision("float16", CPU))
    optimizer, scaler = torch.optim.SGD(theirs.parameters(), lr=0.01), torch.amp.GradScaler("cpu")
    skipped = []
    for number in range(12):
        skipped.append(step(batch(x, y), number, 0.01).skipped.item())
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = F.cross_entropy(theirs(x).float(), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(weights(model), weights(theirs))
        assert step.state_dict()["loss_scale"]["scale"].item() == scaler.get_scale()
    assert 0 < sum(skipped) < 12


def test_the_loss_scale_goes_on_where_it_was():
    scale = LossScale(CPU)
    scale.update(torch.tensor(1.0))
    for _ in range(1999):
        scale.update(torch.tensor(0.0))
    other = LossScale(CPU)
    other.load_state_dict({name: value.clone() for name, value in scale.state_dict().items()})
    for one in (scale, other):
        one.update(torch.tensor(0.0))
    assert scale.scale.item() == other.scale.item() == 2.0**16
    assert scale.inverse().item() == 2.0**-16


def test_precision_by_device_and_what_the_process_keeps():
    assert Precision("auto", CPU).name == "float32"
    with pytest.raises(ValueError, match=r"precision must be float32, bfloat16 or float16 on this"):
        Precision("tf32", CPU)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with FLOAT32.in_force():
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
