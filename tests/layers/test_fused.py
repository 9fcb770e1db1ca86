"""The factory: fast in the eager step, the reference everywhere else."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from toque.layers import fused, trace_saved, verify


class Calls:
    """A scaled SiLU that writes down which of its passes ran."""

    def __init__(self, **settings):
        self.seen = []
        self.layer = fused(
            self.reference, self.forward, self.backward, name="scaled_silu", **settings
        )

    def reference(self, x, weight):
        self.seen.append("reference")
        return F.silu(x) * weight

    def forward(self, needs, x, weight):
        self.seen.append(("forward", needs))
        return F.silu(x) * weight, (x.sigmoid(),)

    def backward(self, needs, grad, inputs, residuals):
        self.seen.append(("backward", needs))
        (x, weight), (s,) = inputs, residuals
        to_x = grad * weight * (s * (1 + x * (1 - s))) if needs[0] else None
        to_weight = (grad * x * s).sum(0) if needs[1] else None
        return to_x, to_weight


def inputs():
    x = torch.linspace(-2, 2, 12).view(4, 3).requires_grad_()
    return x, torch.tensor([0.5, 1.5, -1.0], requires_grad=True)


def test_it_is_proved():
    layer = Calls(autocast="keep").layer
    report = verify(layer, *inputs(), reference=lambda x, w: F.silu(x) * w)
    assert report.passed and not report.unsupported, str(report)


def test_the_eager_step_takes_the_fast_pass():
    calls = Calls()
    x, w = inputs()
    out = calls.layer(x, w.detach())
    assert type(out.grad_fn).__name__ == "scaled_siluBackward"
    out.sum().backward()
    assert calls.seen == [("forward", (True, False)), ("backward", (True, False))]


def test_without_gradient_nothing_is_kept():
    calls = Calls()
    x, w = inputs()
    with torch.no_grad():
        assert calls.layer(x, w).grad_fn is None
    assert calls.layer(x.detach(), w.detach()).grad_fn is None
    assert calls.seen == [("forward", (False, False))] * 2


def create_graph(layer):
    x, w = inputs()
    (gradient,) = torch.autograd.grad(layer(x, w).sum(), x, create_graph=True)
    torch.autograd.grad(gradient.sum(), w)


def dual(layer):
    with forward_ad.dual_level():
        layer(forward_ad.make_dual(inputs()[0].detach(), torch.ones(4, 3)), inputs()[1].detach())


def per_sample(layer):
    x, w = (value.detach() for value in inputs())
    torch.func.grad(lambda x: layer(x, w).sum())(x)


@pytest.mark.parametrize(
    "use",
    [
        create_graph,
        dual,
        lambda layer: torch.func.vmap(layer, (0, None))(*inputs()),
        per_sample,
        lambda layer: torch.compile(layer, backend="eager", fullgraph=True)(*inputs()),
    ],
)
def test_everything_else_takes_the_reference(use):
    calls = Calls()
    use(calls.layer)
    assert "reference" in calls.seen
    assert ("backward", (True, True)) not in calls.seen


def test_residuals_and_kept_inputs_are_all_that_is_saved():
    layer = Calls(keeps=["weight"]).layer
    x, w = inputs()
    (node,) = [n for n in trace_saved(layer, x, w).nodes if n.saves]
    assert [t.shape for t in node.saves] == [(3,), (4, 3)]
    with pytest.raises(RuntimeError, match="must be kept for a second derivative"):
        create_graph(layer)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("lower", torch.bfloat16), ("float32", torch.float32), ("keep", torch.float32)],
)
def test_autocast_is_a_choice(policy, expected):
    x, w = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = Calls(autocast=policy).layer(x, w)
        out.sum().backward()  # also when backward runs inside the context
    assert out.dtype == expected and x.grad.dtype == torch.float32


def test_under_compile_the_reference_may_be_checkpointed():
    def reference(x):
        return torch.sin(x)

    def pass_back(needs, grad, inputs, residuals):
        return (grad * inputs[0].cos(),)

    layer = fused(reference, lambda needs, x: (x.sin(), ()), pass_back, traced="checkpoint")
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x, _ = inputs()
    torch.testing.assert_close(
        torch.autograd.grad(compiled(x).sum(), x), torch.autograd.grad(layer(x).sum(), x)
    )
    torch._dynamo.reset()


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="Did you mean weight"):
        Calls(keeps=["weigth"])
