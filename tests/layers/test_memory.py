"""save_memory: fewer bytes, the same bits."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from toque import random
from toque.layers import is_saving_memory, keep_activations, save_memory, saved_bytes


class Bottleneck(nn.Module):
    """The residual block of ResNet, written in place as torchvision's is."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class Inverted(nn.Module):
    """The block of EfficientNet: activation in place, a squeeze-and-excite gate."""

    def __init__(self, width, act):
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(width, 2 * width, 1), nn.BatchNorm2d(2 * width)
        self.depth = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.bn2, self.act = nn.BatchNorm2d(2 * width), act(inplace=True)
        self.gate = nn.Conv2d(2 * width, 2 * width, 1)
        self.project = nn.Conv2d(2 * width, width, 1)

    def forward(self, x):
        y = self.act(self.bn1(self.expand(x)))
        y = self.act(self.bn2(self.depth(y)))
        y = y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        return x + self.project(y)


class Transformer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.scale * self.down(F.gelu(self.up(self.norm(tokens))))
        return tokens.transpose(1, 2).reshape(x.shape)


MODELS = {
    "resnet": lambda: nn.Sequential(*(Bottleneck(4) for _ in range(3))),
    "efficientnet, silu": lambda: nn.Sequential(*(Inverted(4, nn.SiLU) for _ in range(2))),
    "mobilenet, hardswish": lambda: nn.Sequential(*(Inverted(4, nn.Hardswish) for _ in range(2))),
    "mish": lambda: nn.Sequential(*(Inverted(4, nn.Mish) for _ in range(2))),
    "relu6": lambda: nn.Sequential(*(Inverted(4, nn.ReLU6) for _ in range(2))),
    "transformer": lambda: nn.Sequential(*(Transformer(4) for _ in range(2))),
    "group norm": lambda: nn.Sequential(
        nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.ELU(), nn.Conv2d(4, 4, 3)
    ),
}


@pytest.fixture(params=MODELS)
def model(request):
    random.seed_torch(0, request.param)
    return MODELS[request.param]()


def images():
    return torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))


def step(model, x, **settings):
    """Output, gradients and buffers of one step."""
    x = x.clone().requires_grad_()
    out = model(x)
    gradients = torch.autograd.grad(out.square().sum(), [x, *model.parameters()], **settings)
    return [out.detach(), *gradients, *model.buffers()]


def saving(model):
    return save_memory(copy.deepcopy(model), min_bytes=0)


def both(model, x):
    """Pairs of the same tensor without and with save_memory, from the same state."""
    saved = saving(model)
    return zip(step(model, x), step(saved, x), strict=True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_and_running_statistics_are_the_same_bits(model, layout):
    x = images().contiguous(memory_format=layout)
    for plain, saved in both(model, x):
        assert torch.equal(plain, saved)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("resnet", 0.6),
        ("efficientnet, silu", 0.33),
        ("mobilenet, hardswish", 0.33),
        ("mish", 0.33),
        ("relu6", 0.6),
        ("transformer", 0.5),
        ("group norm", 0.35),
    ],
)
def test_fewer_bytes_are_saved(name, share):
    model = MODELS[name]()
    assert saved_bytes(saving(model), images()) <= share * saved_bytes(model, images())


def test_a_recipe_is_computed_once_for_all_and_then_dropped():
    from toque.layers.recipe import Recipe

    computed = []

    def make(x):
        computed.append(x)
        return x + 1

    recipe = Recipe(make, (torch.ones(2),), 0, None)
    recipe.pending = 2
    first = recipe.serve()
    assert recipe.serve() is first and len(computed) == 1 and recipe._cache is None
    recipe.serve()
    assert len(computed) == 2


def test_names_state_and_copies_stay():
    model = MODELS["resnet"]()
    names = list(model.state_dict())
    saved = save_memory(model)
    assert saved is model and list(model.state_dict()) == names and is_saving_memory(model)
    assert save_memory(model) is model and len(model._forward_pre_hooks) == 1
    assert is_saving_memory(copy.deepcopy(model))
    assert not is_saving_memory(keep_activations(model)) and not model._forward_hooks_always_called


def test_the_bytes_are_really_less():
    """Counted by the allocator, which no hook can deceive."""
    from torch.profiler import ProfilerActivity, profile

    model = MODELS["efficientnet, silu"]()
    x = torch.randn(8, 4, 32, 32)
    live = []
    for one in (copy.deepcopy(model), saving(model)):
        with profile(
            activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
        ) as profiled:
            out = one(x)
        events = profiled.profiler.kineto_results.events()
        live.append(sum(event.nbytes() for event in events if event.name() == "[memory]"))
        del out
    assert live[1] < 0.6 * live[0]
    assert live[1] == pytest.approx(saved_bytes(saving(model), x) + 4 * x.numel(), rel=0.1)


def test_offloading_sees_what_is_kept():
    model = MODELS["transformer"]()
    results = []
    for one in (copy.deepcopy(model), saving(model)):
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor.clone()

        x = images().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor.clone()):
            out = one(x)
        results.append((sum(sizes), torch.autograd.grad(out.square().sum(), x)[0]))
    assert results[1][0] < 0.8 * results[0][0]
    assert torch.equal(results[0][1], results[1][1])


def test_in_eval_and_with_a_frozen_backbone():
    model = MODELS["resnet"]().eval()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    x = images()
    results = []
    for one in (copy.deepcopy(model), saving(model)):
        out = one(x)
        wanted = [p for p in one.parameters() if p.requires_grad]
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), wanted)])
    for plain, saved in zip(*results, strict=True):
        torch.testing.assert_close(saved, plain, rtol=0, atol=0)


def test_backward_twice_gives_the_same_again():
    model = saving(MODELS["efficientnet, silu"]())
    out = model(images()).square().sum()
    first = torch.autograd.grad(out, list(model.parameters()), retain_graph=True)
    again = torch.autograd.grad(out, list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_double_backward_where_nothing_is_in_place():
    model = MODELS["transformer"]().double()
    results = []
    for one in (model, saving(model)):
        x = images().double().requires_grad_()
        (gradient,) = torch.autograd.grad(one(x).square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), list(one.parameters())))
    for plain, saved in zip(*results, strict=True):
        torch.testing.assert_close(saved, plain)


def test_a_tensor_changed_after_it_was_made_is_kept_as_it_is():
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            y = F.gelu(self.a(x))
            y.mul_(2).add_(1)
            return self.b(y)

    model = Changing()
    x = torch.randn(4, 8)
    for plain, saved in both(model, x):
        assert torch.equal(plain, saved)


def test_a_change_in_place_that_autograd_would_catch_is_caught():
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    for one in (model, saving(model)):
        hidden = one[0](torch.randn(4, 8))
        with torch.enable_grad():
            out = save_memory(one[1:], min_bytes=0)(hidden)
        with torch.no_grad():
            hidden.mul_(2)
        with pytest.raises(RuntimeError, match=r"in.?place"):
            out.sum().backward()


def test_views_of_a_tensor_are_laid_out_again():
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 12), nn.Linear(6, 3)

        def forward(self, x):
            y = F.silu(self.a(x)).unflatten(1, (2, 6)).transpose(0, 1)
            return self.b(y[1:]) + self.b(y[:1, :, torch.tensor([5, 4, 3, 2, 1, 0])])

    model = Viewing()
    x = torch.randn(4, 8)
    for plain, saved in both(model, x):
        assert torch.equal(plain, saved)


def test_under_autocast():
    model = MODELS["transformer"]()
    x = images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pairs = list(both(model, x))
    for a, b in pairs:
        assert torch.equal(a, b)


def test_an_error_in_forward_leaves_no_hooks_behind():
    model = saving(MODELS["resnet"]())
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 3, 6, 6))
    x = torch.ones(3, requires_grad=True)
    assert type(x.sin().grad_fn._saved_self) is torch.Tensor
    step(model, images())


def test_no_gradient_no_work():
    model = saving(MODELS["resnet"]())
    with torch.no_grad():
        model.eval()(images())
    with torch.inference_mode():
        model(images())


def test_torch_func_and_compile_see_the_plain_model():
    model = MODELS["transformer"]()
    saved = saving(model)
    parameters = dict(model.named_parameters())

    def loss(which):
        return lambda p: torch.func.functional_call(which, p, (images(),)).square().sum()

    plain = torch.func.grad(loss(model))(parameters)
    for name, gradient in torch.func.grad(loss(saved))(parameters).items():
        torch.testing.assert_close(gradient, plain[name])
    compiled = torch.compile(saved, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(step(compiled, images())[1], step(model, images())[1])
    torch._dynamo.reset()


def test_a_compiled_run_gets_a_budget_instead():
    import torch._functorch.config as config

    with config.patch(activation_memory_budget=1.0):
        model = save_memory(nn.Linear(2, 2), compiled=True, budget=0.8)
        assert config.activation_memory_budget == 0.8 and not is_saving_memory(model)
        with pytest.raises(ValueError, match="budget must be in 0"):
            save_memory(model, compiled=True, budget=2)
    assert config.activation_memory_budget == 1.0


def test_everything_is_freed_after_backward():
    from toque.layers import verify

    model = saving(MODELS["efficientnet, silu"]())
    report = verify(model, images(), only=["nothing kept alive", "called twice", "deterministic"])
    assert report.passed, str(report)
