# ruff: noqa: N801, RUF059  the exhibits need no names, their decorators give them
"""The museum of wrong layers: each has one planted bug, and the check and words that must name it.

Most are the same small operation, tanh(x) * w, with one thing wrong; modules where the bug needs one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Exhibit:
    layer: Callable[..., Any]
    inputs: tuple[Any, ...]
    check: str
    words: str
    required: tuple[str, ...] = ()


EXHIBITS: dict[str, Exhibit] = {}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 17 * len(shape)))


def pair() -> tuple[Tensor, Tensor]:
    return numbers(4, 3), numbers(3, seed=1)


def plant(
    name: str, check: str, words: str, *inputs: Any, required: tuple[str, ...] = ()
) -> Callable[[Any], Any]:
    """Puts a function, a Function or a module class on show."""

    def show(made: Any) -> Any:
        layer = made
        if isinstance(made, type) and issubclass(made, Function):
            layer = made.apply
        elif isinstance(made, type) and issubclass(made, nn.Module):
            layer = made()
        EXHIBITS[name] = Exhibit(layer, inputs or pair(), check, words, required)
        return made

    return show


def slope(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x) ** 2


class Gate(Function):
    """The right layer, which the wrong ones change in one place. No bug: it must pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, w):
        return torch.tanh(x) * w

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        grad_x = grad * w * slope(x) if ctx.needs_input_grad[0] else None
        grad_w = (grad * torch.tanh(x)).sum(0) if ctx.needs_input_grad[1] else None
        return grad_x, grad_w


# ---- the gradient is wrong ---------------------------------------------------------------------


@plant("a factor 2", "gradients", r"`w` that is 2 times.*taken twice")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_w = Gate.backward(ctx, grad)
        return grad_x, 2 * grad_w


@plant("a factor of 1 %", "gradients", r"`x` that is 1\.01 times")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_w = Gate.backward(ctx, grad)
        return 1.01 * grad_x, grad_w


@plant("a sign", "gradients", r"-1 times.*sign lost")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_w = Gate.backward(ctx, grad)
        return -grad_x, grad_w


@plant("a mean taken twice", "gradients", r"is a mean over 12 taken twice", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x**2).mean()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (2 * x / x.numel()) / x.numel()


@plant("half of the product rule", "gradients", r"`x` is not the numerical one", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.tanh(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * torch.tanh(x)


@plant("a constant added", "gradients", r"off by a constant")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_w = Gate.backward(ctx, grad)
        return grad_x + 0.01, grad_w


@plant("None for a weight", "gradients", r"no gradient for `w`")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        return Gate.backward(ctx, grad)[0], None


@plant("two gradients swapped", "gradients", r"swapped", numbers(3, 3), numbers(3, 3, seed=2))
class _(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * torch.sin(b)

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        return grad * a * torch.cos(b), grad * torch.sin(b)


@plant("weight by .data", "gradients", r"no gradient for `weight`", numbers(4, 3))
class _(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x):
        return x @ self.weight.data.t() + self.bias


@plant("a norm held constant", "gradients", r"`x` is not the numerical one", numbers(4, 3))
def _(x):
    return x / x.norm(dim=1, keepdim=True).detach()


@plant("all under no_grad", "gradients", r"no gradient for `x`, `w`")
def _(x, w):
    with torch.no_grad():
        return torch.tanh(x) * w


@plant("through NumPy", "gradients", r"NumPy", numbers(4, 3))
def _(x):
    return torch.from_numpy(np.tanh(x.detach().numpy()))


@plant("a border forgotten", "gradients", r"wrong in 4 of 12 elements", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.pad(x**2, (1, 1), mode="constant")

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        inner = grad[:, 1:-1] * 2 * x
        inner[:, -1] = 0
        return inner


@plant("the negative side", "gradients", r"`x`.*wrong in \d+ of 12", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.elu(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * torch.where(x > 0, torch.ones_like(x), 0.1 * torch.ones_like(x))


@plant(
    "slope cut off far out", "gradients at other scales", r"inputs times 30: .*`x`", numbers(4, 3)
)
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sqrt(1 + x**2)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        exact = (1 + 2 * x**2) / torch.sqrt(1 + x**2)
        return grad * torch.where(x.abs() < 10, exact, torch.zeros_like(x))


@plant("an unused output", "gradients", r"only one output is used", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        return x.sin(), x.cos()

    @staticmethod
    def backward(ctx, first, second):
        (x,) = ctx.saved_tensors
        return first * x.cos() - second * x.sin()


@plant("float64 lost", "gradients", r"float32 output", numbers(4, 3))
def _(x):
    return torch.tanh(x.float())


# ---- derivatives of other kinds ----------------------------------------------------------------


@plant("once_differentiable", "second derivatives", r"required, but .*differentia",
       required=("second derivatives",))  # fmt: skip
class _(Gate):
    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return Gate.backward(ctx, grad)


@plant("backward detaches", "second derivatives", r"second derivative .*`x` is wrong")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * w * slope(x.detach()), (grad * torch.tanh(x)).sum(0)


@plant("kept on ctx", "second derivatives", r"second derivative .*kept on ctx", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.cube = x**3
        ctx.save_for_backward(x)
        return x**4

    @staticmethod
    def backward(ctx, grad):
        return grad * 4 * ctx.cube


@plant("jvp drops a tangent", "forward-mode AD", r"`x` and `w` is wrong")
class _(Gate):
    generate_vmap_rule = False

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, x_tangent, w_tangent):
        x, w = ctx.saved_tensors
        if bool((x_tangent != 0).any()):
            return slope(x) * w * x_tangent
        return torch.tanh(x) * w_tangent


@plant("vmap rule for one sample", "vmap", r"vmap over `w`")
class _(Gate):
    generate_vmap_rule = False

    @staticmethod
    def vmap(info, in_dims, x, w):
        if in_dims[0] is not None:
            x = x.movedim(in_dims[0], 0)
        if in_dims[1] is not None:
            w = w.movedim(in_dims[1], 0)[0]
        shape = torch.broadcast_shapes(x.shape, w.shape, (info.batch_size, *x.shape[-2:]))
        return Gate.apply(x.expand(shape), w), 0


# ---- what is not its own -----------------------------------------------------------------------


@plant("input changed", "inputs left alone", r"forward changes `x` in place")
def _(x, w):
    return _Changing.apply(x, w)


class _Changing(Function):
    @staticmethod
    def forward(ctx, x, w):
        x.tanh_()
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, grad):
        y, w = ctx.saved_tensors
        return grad * w * (1 - y**2), (grad * y).sum(0)


@plant("grad_output written", "inputs left alone", r"writes into grad_output")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        grad_w = (grad * torch.tanh(x)).sum(0)
        return grad.mul_(w * slope(x)), grad_w


@plant(
    "gradient in the input's memory",
    "inputs left alone",
    r"backward changes|lies in the memory of `x`",
)
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        grad_w = (grad * torch.tanh(x)).sum(0)
        return x.detach().copy_(grad * w * slope(x)), grad_w


@plant("gradient is the weight", "inputs left alone", r"lies in the memory of `w`",
       numbers(3), numbers(3, seed=1))  # fmt: skip
class _(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return (x * w).sum()

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return w.mul(grad) if float(grad) == 0 else w.data, x * grad


@plant("a view returned", "views", r"view of `x` from an autograd.Function", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        return x.view(2, 6)

    @staticmethod
    def backward(ctx, grad):
        return grad.reshape(4, 3)


@plant("memory shared behind autograd's back", "views", r"shares memory with `x`", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        return x.detach()

    @staticmethod
    def backward(ctx, grad):
        return grad.clone()


@plant("ctx.x instead of save_for_backward", "changes in place caught", r"when `x` is changed")
class _(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.x, ctx.w = x, w
        return torch.tanh(x) * w

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.w * slope(ctx.x), (grad * torch.tanh(ctx.x)).sum(0)


@plant(
    "output kept through .data",
    "changes in place caught",
    r"when the output is changed",
    numbers(4, 3),
)
class _(Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.sigmoid(x)
        ctx.save_for_backward(y.data)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * y * (1 - y)


@plant("state on the class", "called twice", r"call 1 of two", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        _Kept.kept = x.clone()
        return x**2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2 * _Kept.kept


class _Kept:
    kept: Tensor


@plant("backward counts its calls", "backward twice", r"second backward")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        ctx.calls = getattr(ctx, "calls", 0) + 1
        grad_x, grad_w = Gate.backward(ctx, grad)
        return (grad_x if ctx.calls == 1 else 0 * grad_x), grad_w


@plant("a saved tensor changed in backward", "backward twice", r"second backward", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y + 0)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return y.data.mul_(grad).clone()


@plant(
    "gradient clipped inside", "backward twice", r"not linear in grad_output", 20 * numbers(2, 2)
)
class _(Function):
    @staticmethod
    def forward(ctx, x):
        return 0.8 * x

    @staticmethod
    def backward(ctx, grad):
        return (0.8 * grad).clamp(-1.7, 1.7)


@plant("fails when only w needs a gradient", "some inputs without gradient", r"only `w` needs")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, grad.sum(0)
        return Gate.backward(ctx, grad)


@plant(
    "crashes for a frozen weight", "some inputs without gradient", r"backward fails when only `x`"
)
class _(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w if w.requires_grad else None)
        return torch.tanh(x) * w

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * w * slope(x), (grad * torch.tanh(x)).sum(0)


@plant("ignores needs_input_grad", "no unneeded work", r"same work when only `[xw]`")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * w * slope(x), (grad * torch.tanh(x)).sum(0)


# ---- memory ------------------------------------------------------------------------------------


@plant("output on ctx", "nothing kept alive", r"reference cycle")
class _(Gate):
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.output = output


@plant("last activation on the module", "nothing kept alive", r"in `last`", numbers(4, 3))
class _(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x):
        self.last = torch.tanh(x).detach()
        return F.linear(self.last + 0 * x, self.weight, self.bias)


_SEEN: list[Tensor] = []


@plant(
    "a list that grows",
    "nothing kept alive",
    r"kept on the module, the class or a global",
    numbers(4, 3),
)
def _(x):
    y = torch.tanh(x)
    _SEEN.append(y.detach())
    return y


@plant("a buffer hidden on ctx", "saved memory visible", r"hooks cannot see")
class _(Gate):
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.hidden = torch.cat([inputs[0].detach()] * 50)


# ---- layouts and sizes -------------------------------------------------------------------------


@plant(
    "contiguous input assumed",
    "strides",
    r"`x` (transposed|every second element): the output differs",
)
def _(x, w):
    return torch.tanh(torch.as_strided(x, x.shape, (x.shape[1], 1), x.storage_offset())) * w


@plant(
    "NCHW assumed",
    "strides",
    r"`x` (transposed|channels_last|every second element)",
    numbers(2, 3, 4, 4),
)
def _(x):
    rows = torch.as_strided(x, (x.shape[0], x[0].numel()), (x[0].numel(), 1), x.storage_offset())
    return rows.reshape(x.shape) ** 2


@plant(".view of an input", "strides", r"it calls \.view\(\)", numbers(4, 6))
def _(x):
    return (x.view(-1, 2) ** 2).sum(1)


@plant(
    "an offset forgotten", "strides", r"with a storage offset: the output differs", numbers(4, 3)
)
def _(x):
    return torch.as_strided(x, x.shape, x.stride(), 0).sin()


@plant(
    "contiguous grad_output assumed",
    "strides of grad_output",
    r"grad_output (expanded|transposed|every)",
)
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        flat = torch.as_strided(
            grad, grad.shape, (min(3, grad.numel()), 1) if grad.stride(0) else (0, 0)
        )
        return Gate.backward(ctx, flat)


@plant("squeeze without an axis", "other sizes", r"a batch of one loses its axis", numbers(4, 3))
def _(x):
    return torch.tanh(x).squeeze()


@plant("an odd last column", "other sizes", r"x7x5", numbers(2, 1, 4, 4))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        even = x.shape[-1] - x.shape[-1] % 2
        return torch.cat([(2 * x * grad)[..., :even], torch.zeros_like(x)[..., even:]], -1)


@plant("NaN on an empty batch", "empty batch", r"`w` is NaN on an empty batch")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        product = grad * torch.tanh(x)
        return grad * w * slope(x), product.mean(0) * product.shape[0]


@plant("exp before it is bounded", "large values", r"logsumexp", numbers(4, 3))
def _(x):
    return torch.log(torch.exp(x).sum(1))


# ---- dtypes ------------------------------------------------------------------------------------


@plant("float32 summed in float16", "float32", r"`w` is off by")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        lower = torch.float64 if x.dtype == torch.float64 else torch.float16
        return grad * w * slope(x), (grad * torch.tanh(x)).to(lower).sum(0).to(x.dtype)


@plant(
    "a running sum in bfloat16",
    "bfloat16 and float16",
    r"the output is off",
    3 + numbers(2, 700).abs(),
)
def _(x):
    return x.double().cumsum(1)[:, -1].to(x.dtype) if x.dtype != torch.bfloat16 else _one_by_one(x)


def _one_by_one(x: Tensor) -> Tensor:
    total = x[:, 0]
    for column in range(1, x.shape[1]):
        total = total + x[:, column]
    return total


@plant(
    "a float32 table for half inputs",
    "bfloat16 and float16",
    r"is a tensor made in float32",
    numbers(4, 3),
)
def _(x):
    table = torch.eye(3, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    return x @ table


@plant(
    "two dtypes under autocast",
    "autocast",
    r"forward saw autocast's dtype",
    numbers(4, 3),
    numbers(2, 3),
)
class _(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return F.linear(x, w)

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad @ w, grad.t() @ x


# ---- what others do to it ----------------------------------------------------------------------


@plant(".item() in forward", "meta tensors", r"reads a value of a tensor", numbers(4, 3))
def _(x):
    return x / max(x.detach().abs().max().item(), 1e-6) if x.numel() else x * 1


@plant("a tensor on the CPU", "meta tensors", r"device=input.device|two devices", numbers(4, 3))
def _(x):
    return x * torch.arange(1, 4, dtype=x.dtype)


@plant("a graph break", "torch.compile", r"breaks the graph", numbers(4, 3))
def _(x):
    torch._dynamo.graph_break()
    return torch.tanh(x)


@plant("another answer when compiled", "torch.compile", r"compiled against eager", numbers(4, 3))
def _(x):
    if torch.compiler.is_compiling():
        return x - x**3 / 3
    return torch.tanh(x)


@plant(
    "another answer without gradient", "no_grad and inference_mode", r"under no_grad", numbers(4, 3)
)
def _(x):
    return torch.tanh(x) if torch.is_grad_enabled() else x.clamp(-1, 1)


@torch.library.custom_op("toque_museum::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return torch.cat([x, x])


@doubled.register_fake
def _(x):
    return torch.empty_like(x)


doubled.register_autograd(lambda ctx, grad: grad.unflatten(0, (2, -1)).sum(0))


plant("a wrong fake of an operator", "custom operator", r"opcheck", numbers(4, 3),
      required=("custom operator",))(doubled)  # fmt: skip


@plant("ctx.saved_tensors read twice", "checkpoint", r"reads ctx.saved_tensors more than once")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors[0], ctx.saved_tensors[1]
        return grad * w * slope(x), (grad * torch.tanh(x)).sum(0)


@plant(
    "forward that depends on how often it ran", "checkpoint",
    r"run again as it did|under checkpoint", numbers(4, 3),
)  # fmt: skip
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return torch.tanh(x) if self.calls % 2 else x.tanh() + x.exp() * 0.1


# ---- state -------------------------------------------------------------------------------------


@plant("dropout in eval", "train and eval", r"another torch seed", numbers(4, 30))
class _(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5)


@plant("Python's random", "deterministic", r"another generator than torch's", numbers(4, 3))
def _(x):
    return x * random.random()


@plant("NumPy's random", "deterministic", r"another generator than torch's", numbers(4, 3))
def _(x):
    return x * float(np.random.rand())


@plant("torch reseeded", "process-wide settings", r"reseeds torch's generator", numbers(4, 3))
def _(x):
    torch.manual_seed(0)
    return x * torch.rand(3, dtype=x.dtype)


@plant("a call counter", "deterministic", r"keep a counter", numbers(4, 3))
class _(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


@plant(
    "gradients switched off for all",
    "process-wide settings",
    r"changes torch's grad mode",
    numbers(4, 3),
)
def _(x):
    y = torch.tanh(x)
    torch.set_grad_enabled(False)
    return y


class _Statistics(nn.Module):
    """Centres by a running mean: the right one, which the wrong ones change."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def update(self, x):
        with torch.no_grad():
            self.mean.lerp_(x.mean(0).to(self.mean.dtype), 0.1)

    def forward(self, x):
        if self.training:
            self.update(x)
            return x - x.mean(0)
        return x - self.mean


@plant("buffers move in eval", "train and eval", r"eval changes the buffer `mean`", numbers(4, 3))
class _(_Statistics):
    def forward(self, x):
        self.update(x)
        return x - (x.mean(0) if self.training else self.mean.clone())


@plant(
    "the batch's statistics in eval", "train and eval", r"depends on its neighbours", numbers(4, 3)
)
class _(_Statistics):
    def forward(self, x):
        if self.training:
            self.update(x)
        return x - x.mean(0)


@plant("a stale cache in eval", "state", r"stale cache", numbers(4, 3))
class _(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
        self.folded = None

    def forward(self, x):
        if self.training:
            self.folded = None
            return F.linear(x, self.weight, self.bias)
        if self.folded is None:
            self.folded = [self.weight.detach().clone()]
        return F.linear(x, self.folded[0].to(x.dtype), self.bias)


@plant("a plain tensor attribute", "state", r"`scale` is a plain tensor", numbers(4, 3))
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.tensor(2.0)

    def forward(self, x):
        return x * self.scale.to(x)


@plant("state in a Python number", "state", r"kept outside parameters and buffers", numbers(4, 3))
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.size = 1.0

    def forward(self, x):
        if self.training:
            self.size = 0.9 * self.size + 0.1 * float(x.detach().abs().mean())
        return x / self.size if not self.training else x * 1


@plant("a graph kept on the module", "state", r"deepcopy fails after a forward", numbers(4, 3))
class _(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
        self.kept = []

    def forward(self, x):
        y = F.linear(x, self.weight, self.bias)
        self.kept = [y]
        return y


class _Opaque:
    pass


@plant("state that weights_only refuses", "state", r"weights_only=True", numbers(4, 3))
class _(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def get_extra_state(self):
        return _Opaque()

    def set_extra_state(self, state):
        pass


# ---- mistakes of a first layer -----------------------------------------------------------------


@plant("a part detached", "gradients", r"part detached", numbers(4, 3))
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return x + self.outer(torch.tanh(self.inner(x).detach()))


@plant("a norm by .item()", "gradients", r"`x`", numbers(4, 3))
def _(x):
    return x / (1 + x.detach().norm().item())


@plant("the values marked non-differentiable", "gradients", r"no gradient for `x`", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        values, indices = x.sort(1)
        ctx.save_for_backward(indices)
        ctx.mark_non_differentiable(values)
        return values, indices

    @staticmethod
    def backward(ctx, grad, _):
        (indices,) = ctx.saved_tensors
        return torch.zeros_like(grad).scatter(1, indices, grad)


@plant("a mask that passes gradients on", "gradients", r"`x` is not the numerical", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        mask = (x > 0).to(x.dtype)
        ctx.save_for_backward(mask)
        return x * mask, mask

    @staticmethod
    def backward(ctx, grad, grad_mask):
        (mask,) = ctx.saved_tensors
        return grad * mask + grad_mask


@plant("a bias gradient averaged over the batch", "gradients", r"`w` that is 0\.25 times")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, _ = ctx.saved_tensors
        return Gate.backward(ctx, grad)[0], (grad * torch.tanh(x)).mean(0)


@plant("grad_output forgotten", "backward twice", r"not linear in grad_output", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return x.exp()


@plant("needs_input_grad in another order", "some inputs without gradient", r"only `[xw]` needs")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        grad_x = grad * w * slope(x) if ctx.needs_input_grad[1] else None
        grad_w = (grad * torch.tanh(x)).sum(0) if ctx.needs_input_grad[0] else None
        return grad_x, grad_w


@plant("a gradient not summed over the batch", "shapes of gradients", r"\[4, 3\] for `w` of shape")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, _ = ctx.saved_tensors
        return Gate.backward(ctx, grad)[0], grad * torch.tanh(x)


@plant("a gradient with an axis too many", "shapes of gradients", r"\[1, 3\] for `w` of shape")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, _ = ctx.saved_tensors
        return Gate.backward(ctx, grad)[0], (grad * torch.tanh(x)).sum(0, keepdim=True)


@plant("a copy that requires a gradient", "weights are parameters", r"new tensor", numbers(4, 3))
def _(x):
    return torch.from_numpy(np.sin(x.detach().numpy())).requires_grad_() * 1.0


@plant(
    "a parameter made in forward", "weights are parameters", r"new tensor.*__init__", numbers(4, 3)
)
class _(nn.Module):
    def forward(self, x):
        return F.linear(x, nn.Parameter(torch.ones(2, 3, dtype=x.dtype)))


@plant("layers in a list", "weights are parameters", r"ModuleList", numbers(4, 3))
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = [nn.Linear(3, 3), nn.Linear(3, 2)]

    def forward(self, x):
        for part in self.parts:
            x = F.linear(x, part.weight.to(x), part.bias.to(x))
        return x


@plant("gradients in a buffer used again", "called twice", r"gradient of one call is overwritten",
       numbers(4, 3))  # fmt: skip
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        scratch = _SCRATCH.setdefault((x.shape, x.dtype, x.device), torch.empty_like(x))
        return torch.mul(grad, 2 * x, out=scratch)


_SCRATCH: dict[Any, Tensor] = {}


@plant("a norm without eps", "zeros", r"NaN for an input of zeros", numbers(4, 3))
def _(x):
    return x / x.square().sum(1, keepdim=True).sqrt()


@plant("the slope of a root at zero", "zeros", r"gradient for `x` is not finite", numbers(4, 3))
def _(x):
    return x.square().sum(1).sqrt()


@plant("softmax over the batch", "images apart", r"wrong for a batch", numbers(4, 3),
       required=("images apart",))  # fmt: skip
def _(x):
    return x.softmax(0)


@plant("a view of what is transposed", "images apart", r"wrong for a batch", numbers(4, 6),
       required=("images apart",))  # fmt: skip
def _(x):
    return 2 * x.t().reshape(x.shape)


@plant("values cached by shape", "state", r"cached by their shape alone", numbers(4, 3))
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.sizes = {}

    def forward(self, x):
        size = self.sizes.setdefault(x.shape, float(x.detach().abs().mean()))
        return x / size


@plant("dropout by a flag of its own", "train and eval", r"another torch seed", numbers(4, 30))
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.is_training = True

    def forward(self, x):
        return F.dropout(x, 0.3, training=self.is_training)


@plant("Python reseeded", "process-wide settings", r"reseeds Python's", numbers(4, 3))
def _(x):
    random.seed(0)
    return x * random.random()


@plant("NumPy reseeded", "process-wide settings", r"reseeds NumPy's", numbers(4, 3))
def _(x):
    np.random.seed(0)
    return x * float(np.random.rand())
