"""The moving average: its definition, bias correction, exact resumption."""

import copy
import io

import pytest
import torch
from torch import nn

from toque.models.ema import EMA


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))


def wander(model, generator, steps):
    """Weights and buffers move; yields the images of each step."""
    for step in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn(parameter.shape, generator=generator)
        model(torch.randn(3, 1, 8, 8, generator=generator))
        yield 10 + step % 3


def test_the_average_is_the_weighted_mean_of_the_weights_seen():
    model, generator = network(), torch.Generator().manual_seed(0)
    ema = EMA(model, half_life_images=35)
    seen, counts = [], []
    for images in wander(model, generator, 9):
        ema.update(model, images)
        seen.append(model[0].weight.detach().double().clone())
        counts.append(images)
    # A weight reached after t of T images counts what its step added, halved every 35 images since.
    age = [sum(counts[i + 1 :]) for i in range(len(counts))]
    share = [
        (1 - 2 ** (-count / 35)) * 2 ** (-old / 35) for count, old in zip(counts, age, strict=True)
    ]
    mean = sum(s * w for s, w in zip(share, seen, strict=True)) / sum(share)
    torch.testing.assert_close(ema.model[0].weight.double(), mean, rtol=1e-5, atol=1e-6)


def test_buffers_are_copied_and_the_model_is_ready_to_evaluate():
    model, generator = network(), torch.Generator().manual_seed(0)
    ema = EMA(model, half_life_images=100)
    for images in wander(model, generator, 3):
        ema.update(model, images)
    for own, theirs in zip(ema.model.buffers(), model.buffers(), strict=True):
        assert torch.equal(own, theirs)
    assert not ema.model.training and model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())


def test_the_same_images_in_other_batches_give_the_same_average():
    one, many = nn.Linear(3, 3), None
    many = EMA(one, half_life_images=50)
    at_once = EMA(one, half_life_images=50)
    before = copy.deepcopy(one)
    for ema, sizes in [(many, [5, 7, 8]), (at_once, [20])]:
        ema.update(before, 30)
        with torch.no_grad():
            one.weight.copy_(before.weight + 1)
        for size in sizes:
            ema.update(one, size)
    torch.testing.assert_close(many.model.weight, at_once.model.weight)


def test_a_resumed_average_ends_in_the_same_bits():
    def run(stop):
        torch.manual_seed(1)
        model, generator = network(), torch.Generator().manual_seed(3)
        ema = EMA(model, half_life_images=40)
        for step, images in enumerate(wander(model, generator, 8)):
            if step == stop:
                file = io.BytesIO()
                torch.save(ema.state_dict(), file)
                file.seek(0)
                ema = EMA(model, half_life_images=40)
                ema.load_state_dict(torch.load(file, weights_only=True))
            ema.update(model, images)
        return ema.state_dict()

    whole, resumed = run(None), run(4)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_applied_lends_the_average_and_gives_the_weights_back():
    model, generator = network(), torch.Generator().manual_seed(0)
    ema = EMA(model, half_life_images=100)
    for images in wander(model, generator, 3):
        ema.update(model, images)
    before = copy.deepcopy(model.state_dict())
    batch = torch.randn(2, 1, 8, 8, generator=generator)
    model.eval()
    with ema.applied(model) as lent:
        assert torch.equal(lent(batch), ema.model(batch))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not torch.equal(model(batch), ema.model(batch))


def test_a_wrapped_model_is_followed_by_the_names_inside():
    model = network()
    ema = EMA(model, half_life_images=100)
    ema.update(nn.ModuleDict({"module": model}), 10)
    assert torch.equal(ema.model[0].weight, model[0].weight)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: EMA(nn.Linear(2, 2), 0), "half_life_images must be > 0; got 0"),
        (lambda: EMA(nn.Linear(2, 2), 9).update(nn.Linear(2, 2), 0), "images must be > 0"),
        (lambda: EMA(nn.Linear(2, 2), 9).update(network(), 5), "anew after surgery"),
        (lambda: EMA(nn.Linear(2, 2), 9).load_state_dict({}), r"shape \[2, 2\]; got nothing"),
    ],
)
def test_ema_says_what_is_wrong(act, words):
    with pytest.raises(ValueError, match=words):
        act()
