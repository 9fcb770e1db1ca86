"""Layers and losses beside eager torch, its checkpointing and compile, torchvision and timm.

For each: bytes saved for backward (counted by the allocator: live after forward), peak bytes of
forward and backward, CPU time as a ratio to the plain composition (interleaved runs, one thread),
and the error of the gradients against float64, beside the plain composition's own: of a loss or
layer the largest absolute error over the largest gradient, of a net as layers.compare_gradients says
(the worst tensor that is not zero by cancellation; and in units of eager's rounding). The allocator is
told to keep what was freed (as after some minutes of a training that fits the memory); with --untuned
it is glibc's own, which gives blocks above 32 MB back and takes page faults for them each time: most
of what a loss that makes no large blocks then wins.

    python benchmarks/layers.py                 # losses and layers, then whole nets in eager: minutes
    python benchmarks/layers.py --only nets     # one part: losses, layers, nets, overhead, parts, gpu
    python benchmarks/layers.py --compile       # nets also compiled: many minutes
    python benchmarks/layers.py --record        # appends to RESULTS.md
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TUNED = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1)}
if (
    __name__ == "__main__"
    and "--untuned" not in sys.argv
    and not TUNED.items() <= os.environ.items()
):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **TUNED})

import record  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from toque import layers, losses, random  # noqa: E402


@dataclass(frozen=True)
class Row:
    """One contender in one case; ratios are to the first contender."""

    case: str
    name: str
    saved_mb: float
    saved: float
    peak: float
    time: float
    low: float
    high: float
    error: float
    plain_error: float
    remark: str = ""

    def __str__(self) -> str:
        return (
            f"{self.case:42} {self.name:24} {self.saved_mb:8.1f} MB {100 * self.saved:6.1f} % "
            f"peak {self.peak:5.2f}  time x{self.time:.2f} ({self.low:.2f}-{self.high:.2f})  "
            f"error {self.error:.0e} (plain {self.plain_error:.0e}){self.remark}"
        )

    def recorded(self) -> str:
        return (
            f"{self.case}, {self.name}: saved {100 * self.saved:.1f} % ({self.saved_mb:.1f} MB), "
            f"peak x{self.peak:.2f}, time x{self.time:.2f} ({self.low:.2f}-{self.high:.2f}), "
            f"error {self.error:.0e} (plain {self.plain_error:.0e}){self.remark}"
        )


Step = Callable[..., Tensor]


def memory_events(run: Callable[[], object]) -> tuple[int, int]:
    """Bytes still live after a call, and the peak on the way, as the CPU allocator saw them."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = run()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    del kept
    return live, peak


def gradients_of(step: Step, inputs: Sequence[Tensor]) -> list[Tensor]:
    leaves = [value for value in inputs if value.requires_grad]
    random.seed_torch(0, "benchmark")
    return list(torch.autograd.grad(step(*inputs).sum(), leaves))


def error_of(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    return max(
        float((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-30))
        for a, b in zip(found, truth, strict=True)
    )


def interleaved(runs: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """CPU seconds of this thread, the contenders taking turns."""
    for run in runs:
        run()
    seconds: list[list[float]] = [[] for _ in runs]
    for number in range(repeats):
        order = range(len(runs)) if number % 2 == 0 else reversed(range(len(runs)))
        for i in order:
            start = time.thread_time()
            runs[i]()
            seconds[i].append(time.thread_time() - start)
    return seconds


def compare(
    case: str,
    contenders: dict[str, Step],
    inputs: Sequence[Tensor],
    repeats: int,
    exact: bool = True,
) -> list[Row]:
    """Measure contenders that map the same inputs to the same loss; the first is the plain one."""
    plain = next(iter(contenders.values()))
    truth = None
    if exact:
        doubles = [
            v.detach().double().requires_grad_(v.requires_grad) if v.is_floating_point() else v
            for v in inputs
        ]
        truth = gradients_of(plain, doubles)
    seconds = interleaved(
        [lambda step=step: gradients_of(step, inputs) for step in contenders.values()], repeats
    )
    rows: list[Row] = []
    base = None
    for (name, step), times in zip(contenders.items(), seconds, strict=True):
        live, _ = memory_events(lambda step=step: step(*inputs).sum())
        _, peak = memory_events(lambda step=step: gradients_of(step, inputs))
        ratios = sorted(a / b for a, b in zip(times, seconds[0], strict=True))
        error = error_of(gradients_of(step, inputs), truth) if truth else 0.0
        base = base or (live, peak, error)
        rows.append(
            Row(
                case, name, live / 2**20, live / base[0], peak / base[1],
                statistics.median(ratios), ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4],
                error, base[2],
            )
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape)


def loss_cases(repeats: int) -> list[Row]:
    rows = []

    def plain_upsampled(z: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(F.interpolate(z, size=t.shape[-2:], mode="bilinear"), t)

    for classes, small, large in ((150, 128, 512), (19, 64, 256)):
        rows += compare(
            f"upsample + CE, 2x{classes}, {small} to {large} px",
            {"torch": plain_upsampled, "toque": losses.upsample_cross_entropy},
            (numbers(2, classes, small, small).requires_grad_(), torch.randint(classes, (2, large, large))),
            max(3, repeats // 3),
            exact=classes == 19,
        )  # fmt: skip

    for n, d, k in ((4096, 192, 8192), (1024, 256, 4096)):
        x, w = numbers(n, d).requires_grad_(), (numbers(k, d) / d**0.5).requires_grad_()
        contenders: dict[str, Step] = {
            "torch": lambda x, w, t: F.cross_entropy(F.linear(x, w), t),
            "toque": losses.linear_cross_entropy,
        }
        rows += compare(
            f"linear + CE, N={n} D={d} K={k}", contenders, (x, w, torch.randint(k, (n,))), repeats
        )

    def clip(a: Tensor, b: Tensor) -> Tensor:
        logits, t = 20 * a @ b.t(), torch.arange(len(a))
        return (F.cross_entropy(logits, t) + F.cross_entropy(logits.t(), t)) / 2

    a, b = (F.normalize(numbers(4096, 256)).requires_grad_() for _ in range(2))
    rows += compare(
        "contrastive, N=4096 D=256",
        {"torch": clip, "toque": lambda a, b: losses.contrastive_loss(a, b, 20.0)}, (a, b), repeats,
    )  # fmt: skip

    from torchvision.ops import sigmoid_focal_loss

    z, t = numbers(20_000, 80).requires_grad_(), torch.randint(-1, 80, (20_000,))

    def torchvisions(z: Tensor, t: Tensor) -> Tensor:
        hot = F.one_hot(t.clamp(min=0), 80).to(z.dtype) * (t >= 0)[:, None]
        return sigmoid_focal_loss(z, hot, reduction="mean")

    contenders = {"torchvision": torchvisions, "toque": losses.sigmoid_focal}
    contenders |= kornias_focal()
    rows += compare("focal, 20000x80", contenders, (z, t), repeats)

    def plain_dice(z: Tensor, t: Tensor) -> Tensor:
        p = z.softmax(1)
        hot = F.one_hot(t, z.shape[1]).movedim(-1, 1).to(p.dtype)
        shared, sizes = (p * hot).sum((0, 2, 3)), p.sum((0, 2, 3)) + hot.sum((0, 2, 3))
        return (1 - (2 * shared + 1) / (sizes + 1)).mean()

    contenders = {"one-hot": plain_dice, "toque": losses.dice} | kornias_dice()
    inputs = (numbers(8, 21, 128, 128).requires_grad_(), torch.randint(21, (8, 128, 128)))
    rows += compare("dice, 8x21x128x128", contenders, inputs, repeats)

    z, t = numbers(512, 1000).requires_grad_(), torch.randint(1000, (512,))

    def soft(z: Tensor, t: Tensor) -> Tensor:  # as timm's Mixup and SoftTargetCrossEntropy
        def hot(t: Tensor) -> Tensor:
            on, off = 0.9 + 0.1 / 1000, 0.1 / 1000
            return torch.full((len(t), 1000), off, dtype=z.dtype).scatter_(1, t[:, None], on)

        mixed = 0.3 * hot(t) + 0.7 * hot(t.flip(0))
        return torch.sum(-mixed * F.log_softmax(z, -1), -1).mean()

    def ours(z: Tensor, t: Tensor) -> Tensor:
        return losses.mixup_cross_entropy(z, t, t.flip(0), 0.3, label_smoothing=0.1)

    return rows + compare(
        "MixUp CE, 512x1000", {"one-hot (timm)": soft, "toque": ours}, (z, t), 3 * repeats
    )


def kornias_focal() -> dict[str, Step]:
    """kornia's sigmoid focal loss, where kornia is installed; it asks for one-hot targets."""
    try:
        from kornia.losses import binary_focal_loss_with_logits
    except ImportError:
        return {}

    def focal(z: Tensor, t: Tensor) -> Tensor:
        hot = F.one_hot(t.clamp(min=0), 80).to(z.dtype) * (t >= 0)[:, None]
        return binary_focal_loss_with_logits(z, hot, alpha=0.25, gamma=2.0, reduction="mean")

    return {"kornia": focal}


def kornias_dice() -> dict[str, Step]:
    """kornia's Dice of each class, where kornia is installed."""
    try:
        from kornia.losses import dice_loss
    except ImportError:
        return {}
    return {"kornia": lambda z, t: dice_loss(z, t, average="macro", eps=1.0)}


def layer_cases(repeats: int) -> list[Row]:
    from timm.layers import DropPath, Mlp, RmsNorm2d

    mlp = Mlp(384, 1536)
    x = numbers(32, 196, 384).requires_grad_()
    drop, subset = DropPath(0.5), layers.SubsetDepth(mlp, 0.5)
    for module in (drop, subset):
        module.train()
    contenders: dict[str, Step] = {
        "whole": lambda x: x + mlp(x),
        "timm DropPath": lambda x: x + drop(mlp(x)),
        "toque SubsetDepth": subset,
    }
    rows = compare(
        "stochastic depth p=0.5, ViT-S MLP", contenders, (x,), max(3, repeats // 3), exact=False
    )

    theirs, mine = RmsNorm2d(96), layers.RMSNorm2d(96)
    x = numbers(8, 96, 56, 56).requires_grad_()
    rows += compare(
        "RMSNorm2d 8x96x56x56", {"timm": theirs, "toque": mine}, (x,), repeats, exact=False
    )

    blur = layers.BlurPool()

    def plain_blur(x: Tensor) -> Tensor:
        weight = blur.filter.expand(96, 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), weight, stride=2, groups=96)

    rows += compare(
        "BlurPool 8x96x56x56", {"torch": plain_blur, "toque": blur}, (x,), repeats, exact=False
    )

    w = nn.Parameter(numbers(384, 1536) / 40)
    h = numbers(32, 196, 1536).requires_grad_()
    contenders = {
        "torch": lambda h, w: F.linear(F.gelu(h), w),
        "checkpoint": lambda h, w: torch.utils.checkpoint.checkpoint(
            lambda h, w: F.linear(F.gelu(h), w), h, w, use_reentrant=False
        ),
        "toque act_linear": layers.act_linear,
    }
    rows += compare(
        "GELU + linear, 32x196x1536", contenders, (h, w), max(3, repeats // 3), exact=False
    )

    def vgg() -> nn.Module:
        random.seed_torch(0, "vgg")
        parts: list[nn.Module] = []
        for a, b in ((3, 64), (64, 64), (64, 128), (128, 128)):
            parts += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*parts).requires_grad_(False).eval()

    x = numbers(2, 3, 64, 64).requires_grad_()
    pair = {"torch": vgg(), "toque": layers.freeze_for_input_grad(vgg())}
    return rows + compare(
        "frozen VGG part, gradient of the image", pair, (x,), max(3, repeats // 3), exact=False
    )


NETS = ("efficientnet_b0", "vit_small_patch16_224", "convnext_tiny", "resnet50")


def net_cases(names: Sequence[str], repeats: int, batch: int, compiles: bool) -> list[Row]:
    import timm

    rows = []
    for name in names:
        random.seed_torch(0, name)
        net = timm.create_model(name).train()
        images, targets = numbers(batch, 3, 224, 224), torch.arange(batch)
        contenders = {"eager": net, "save_memory": layers.save_memory(copy.deepcopy(net))}
        if hasattr(net, "set_grad_checkpointing"):
            checkpointed = copy.deepcopy(net)
            checkpointed.set_grad_checkpointing()
            contenders["timm checkpointing"] = checkpointed
        rows += whole_nets(name, contenders, images, targets, repeats)
        if compiles:
            # One after the other: the budget is of the whole process.
            for kind, budget in (("compile", 1.0), ("compile, save_memory", 0.9)):
                torch._dynamo.reset()
                compiled = layers.save_memory(copy.deepcopy(net), compiled=True, budget=budget)
                pair = {"eager": net, kind: torch.compile(compiled)}
                rows += whole_nets(name, pair, images, targets, repeats)  # type: ignore[arg-type]
        torch._dynamo.reset()
    return rows


def whole_nets(
    name: str, nets: dict[str, nn.Module], images: Tensor, targets: Tensor, repeats: int
) -> list[Row]:
    def step(net: nn.Module) -> None:
        for parameter in net.parameters():
            parameter.grad = None
        F.cross_entropy(net(images), targets).backward()

    starts = [{k: v.clone() for k, v in net.state_dict().items()} for net in nets.values()]
    seconds = interleaved(
        [lambda net=net: step(net) for net in nets.values()], max(3, repeats // 3)
    )
    plain_net = next(iter(nets.values()))
    plain_net.load_state_dict(starts[0])
    exact = gradients_by_name(copy.deepcopy(plain_net).double(), images.double(), targets)
    rows: list[Row] = []
    base = None
    for (kind, net), times, start in zip(nets.items(), seconds, starts, strict=True):
        net.load_state_dict(start)
        gradients = gradients_by_name(net, images, targets)
        buffers = [b.clone() for b in net.buffers()]
        live, _ = memory_events(lambda net=net: net(images))
        _, peak = memory_events(lambda net=net: step(net))
        base = base or (live, peak, gradients, buffers)
        errors = layers.compare_gradients(gradients, base[2], exact)
        # Rounding of another order of sums is 1e-6; statistics that move twice differ by 10 %.
        pairs = list(zip(buffers, base[3], strict=True))
        moved = all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)
        ratios = sorted(a / b for a, b in zip(times, seconds[0], strict=True))
        rows.append(
            Row(
                name, kind + ("" if moved else " (statistics differ)"), live / 2**20,
                live / base[0], peak / base[1], statistics.median(ratios), ratios[0], ratios[-1],
                errors.worst, errors.plain_worst,
                f", at most x{errors.times_plain:.1f} of eager's rounding in any tensor",
            )
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def gradients_by_name(net: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Gradients of one step by the parameters' names; those of the parameters are cleared."""
    net.zero_grad()
    F.cross_entropy(net(images), targets).backward()
    found = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    return {name.removeprefix("_orig_mod."): gradient for name, gradient in found.items()}


def unavoidable_parts(repeats: int) -> list[str]:
    """What a fused loss cannot leave out, beside the plain loss: its floor on this machine."""

    def products(n: int, d: int, k: int) -> Callable[[], object]:
        a, b, c, grad = numbers(n, d), numbers(k, d), numbers(512, k), torch.zeros(k, d)

        def run() -> None:
            for start in range(0, n, 512):
                rows = a[start : start + 512]
                torch.mm(rows, b.t(), out=c)
                torch.mm(c, b)
                grad.addmm_(c.t(), rows)

        return run

    def passes(n: int, k: int) -> Callable[[], object]:
        z, column = numbers(n, k), numbers(n, 1)

        def run() -> None:
            z.amax(1)
            risen = (z - column).mul_(1.4).exp2_()
            risen.sum(1)
            z.mean(1)
            (risen * column).sub_(column)

        return run

    def linear(n: int, d: int, k: int) -> Callable[[], object]:
        x, w, t = (
            numbers(n, d).requires_grad_(),
            numbers(k, d).requires_grad_(),
            torch.arange(n) % k,
        )
        return lambda: torch.autograd.grad(F.cross_entropy(F.linear(x, w), t), (x, w))

    def mixed(n: int, k: int) -> Callable[[], object]:
        z, t = numbers(n, k).requires_grad_(), torch.arange(n) % k

        def run() -> object:
            hot = F.one_hot(t, k) * 0.3 + F.one_hot(t.flip(0), k) * 0.7
            return torch.autograd.grad(F.cross_entropy(z, hot, label_smoothing=0.1), z)

        return run

    found = []
    for name, plain, part in (
        ("three products of linear + CE, 4096x192x8192", linear(4096, 192, 8192), products(4096, 192, 8192)),
        ("three products of contrastive, 4096x256x4096", linear(4096, 256, 4096), products(4096, 256, 4096)),
        ("eight passes of MixUp CE, 512x1000", mixed(512, 1000), passes(512, 1000)),
    ):  # fmt: skip
        whole, alone = (statistics.median(s) for s in interleaved([plain, part], repeats))
        found.append(f"{name}: {1000 * alone:.2f} ms of plain's {1000 * whole:.2f}")
        print(found[-1], flush=True)
    return found


def gpu_cases(repeats: int) -> list[str]:
    """Upsample + cross-entropy on a GPU, 16x150 classes, 128 to 512 px: time, peak and the floor."""
    if not torch.cuda.is_available():
        raise SystemExit("layers.py: --only gpu needs a CUDA device; there is none.")

    def plain(z: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(F.interpolate(z, size=t.shape[-2:], mode="bilinear"), t)

    z = torch.randn(16, 150, 128, 128, device="cuda").requires_grad_()
    t = torch.randint(150, (16, 512, 512), device="cuda")
    bandwidth = copy_bandwidth()
    floor_ms = 1000 * (3 * z.numel() * 4 + 2 * t.numel() * (8 + 4)) / bandwidth
    contenders: dict[str, Step] = {
        "eager": plain, "compile": torch.compile(plain), "toque": losses.upsample_cross_entropy,
    }  # fmt: skip
    found, base = [], 0.0
    for name, step in contenders.items():
        for _ in range(3):
            torch.autograd.grad(step(z, t), z)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        times = []
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            torch.autograd.grad(step(z, t), z)
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        middle = statistics.median(times)
        base = base or middle
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
        found.append(
            f"upsample + CE, 16x150, 128 to 512 px, {torch.cuda.get_device_name()}, {name}: "
            f"{middle:.2f} ms ({min(times):.2f}-{max(times):.2f}, n = {repeats}), x{middle / base:.2f}, "
            f"peak {peak:.0f} MB above the inputs; {floor_ms:.2f} ms at the bandwidth of a copy "
            f"({bandwidth / 1e12:.2f} TB/s)"
        )
        print(found[-1], flush=True)
    return found


def copy_bandwidth() -> float:
    """Bytes a second that a copy on the GPU reads and writes."""
    a = torch.empty(2**28, device="cuda")
    b = torch.empty_like(a)
    b.copy_(a)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(10):
        b.copy_(a)
    end.record()
    end.synchronize()
    return 10 * 2 * a.numel() * 4 / (start.elapsed_time(end) / 1000)


def overhead() -> str:
    """Microseconds of forward and backward of a layer that does nothing, made by the factory."""

    class Bare(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 1.0

        @staticmethod
        def backward(ctx, grad):
            _ = ctx.saved_tensors
            return grad * 1.0

    layer = layers.fused(
        lambda x: x * 1.0,
        lambda needs, x: (x * 1.0, ()),
        lambda needs, grad, i, r: (grad * 1.0,),
        name="nothing",
    )
    x = torch.ones(1, requires_grad=True)
    contenders = {"fused": layer, "autograd.Function": Bare.apply, "torch": lambda x: x * 1.0}

    def many(function: Step) -> None:
        for _ in range(1000):
            function(x).backward()

    seconds = interleaved([lambda f=f: many(f) for f in contenders.values()], 7)
    text = ", ".join(
        f"{name} {1000 * statistics.median(times):.0f}"
        for name, times in zip(contenders, seconds, strict=True)
    )
    print(f"call overhead, forward + backward, microseconds: {text}")
    return f"call overhead of forward + backward in microseconds: {text}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=["losses", "layers", "nets", "overhead", "parts", "gpu"])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=8, help="images of the whole nets")
    parser.add_argument("--nets", nargs="+", default=NETS, help="timm names of the whole nets")
    parser.add_argument("--compile", action="store_true", help="whole nets compiled too")
    parser.add_argument("--untuned", action="store_true", help="glibc's allocator as it comes")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # glibc raises its threshold to the largest block freed, 32 MB at most: as any training does.
    torch.empty(30 * 2**18).fill_(0)
    warnings.simplefilter("ignore")
    random.seed_torch(0, "benchmark")
    parts = [options.only] if options.only else ["overhead", "losses", "layers", "nets"]
    found: list[str] = []
    for part in parts:
        if part == "overhead":
            found.append(overhead())
        if part == "gpu":
            found += gpu_cases(options.repeats)
        if part == "parts":
            found += unavoidable_parts(options.repeats)
        rows = {
            "losses": lambda: loss_cases(options.repeats),
            "layers": lambda: layer_cases(options.repeats),
            "nets": lambda: net_cases(
                options.nets, options.repeats, options.batch, options.compile
            ),
            "overhead": list,
            "parts": list,
            "gpu": list,
        }[part]()
        found += [row.recorded() for row in rows]
    if options.record:
        for line in found:
            record.append("layers", line)


if __name__ == "__main__":
    main()
