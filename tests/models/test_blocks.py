"""The parts: what they compute, what they refuse, and that the rest of PyTorch takes them."""

import copy
import io

import pytest
import torch
from torch import nn

from toque import models
from toque.models import (
    Attention,
    Checkpointed,
    Gate,
    HeadLosses,
    LayerScale,
    LongSkips,
    MultiHead,
    Parallel,
    Repeat,
    Residual,
    Siamese,
    Skip,
    Stage,
    StochasticDepth,
    Up,
    conv_norm,
    shapes,
)
from toque.models.resnet import basic_block
from toque.models.shapes import BranchMismatch


def three_branches():
    """A network of branches in branches and of skips over skips."""
    inner = Parallel(
        {
            "local": conv_norm(8, 8, 3, activation=nn.SiLU()),
            "wide": nn.Sequential(conv_norm(8, 8, 5, groups=8), conv_norm(8, 8, 1)),
            "same": nn.Identity(),
        },
        "attention",
    )
    middle = Residual(inner, scale=LayerScale(8, 0.5), after=nn.ReLU(), drop=0.1)
    return nn.Sequential(
        conv_norm(3, 8, 3), Skip(middle, "concat"), Residual(conv_norm(16, 4, 3, 2))
    )


def test_residual_is_the_sum_of_its_branches():
    body, x = conv_norm(4, 4, 3), torch.randn(2, 4, 6, 6)
    part = Residual(body, after=nn.ReLU(), scale=LayerScale(4, 0.25)).eval()
    torch.testing.assert_close(part(x), torch.relu(x + 0.25 * body(x)))


@pytest.mark.parametrize(("channels", "stride"), [(4, 2), (6, 1), (6, 4)])
def test_a_projection_stands_where_the_shapes_ask_for_it(channels, stride):
    part = Residual(conv_norm(4, channels, 3, stride)).eval()
    x = torch.randn(2, 4, 16, 16)
    torch.testing.assert_close(part(x), part.body(x) + part.shortcut(x))
    assert part.shortcut.conv.kernel_size == (1, 1) and part.shortcut.conv.stride == (
        stride,
        stride,
    )
    assert isinstance(Residual(conv_norm(4, 4, 3)).shortcut, nn.Identity)


def test_building_a_part_touches_neither_statistics_nor_generator():
    body = conv_norm(4, 8, 3, 2)
    torch.manual_seed(5)
    Residual(body, shortcut=conv_norm(4, 8, 1, 2))
    torch.manual_seed(5)
    nn.Sequential(conv_norm(4, 8, 1, 2))
    after_plain = torch.rand(1)
    torch.manual_seed(5)
    Residual(body)
    assert torch.equal(torch.rand(1), after_plain)
    assert body.norm.num_batches_tracked == 0 and torch.equal(
        body.norm.running_mean, torch.zeros(8)
    )


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    part, x = StochasticDepth(0.25), torch.ones(20_000, 2, 1, 1)
    y = part.train()(x)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(y[:, 0], y[:, 1])
    assert abs(y.mean() - 1) < 4 * (0.25 / 0.75 / 20_000) ** 0.5
    assert part.eval()(x) is x


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        ("sum", lambda a, b: a + b),
        ("mean", lambda a, b: (a + b) / 2),
        ("concat", lambda a, b: torch.cat([a, b], 1)),
        ("gate", lambda a, b: (a + b) / 2),
    ],
)
def test_branches_merge_as_they_say(merge, expected):
    a, b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(Parallel({"a": a, "b": b}, merge)(x), expected(a(x), b(x)))


def test_gate_and_attention_weigh_the_branches():
    outputs = [torch.randn(2, 3, 4, 4) for _ in range(2)]
    gate = Gate(2, 3)
    nn.init.normal_(gate.logits)
    weights = gate.logits.softmax(0)
    expected = sum(w.view(1, 3, 1, 1) * x for w, x in zip(weights, outputs, strict=True))
    torch.testing.assert_close(gate(outputs), expected)
    attention = Attention(2, 3)
    pooled = (outputs[0] + outputs[1]).mean((2, 3))
    logits = attention.select(torch.relu(attention.squeeze(pooled))).reshape(2, 2, 3)
    weights = logits.softmax(1)  # [B, branches, C]
    expected = sum(weights[:, i].view(2, 3, 1, 1) * outputs[i] for i in range(2))
    torch.testing.assert_close(attention(outputs), expected)


def test_long_skips_pair_the_last_map_with_the_first_decoder():
    class Take(nn.Module):
        def forward(self, below, skipped):
            return below * 10 + skipped

    def plus(n):
        layer = nn.Conv2d(1, 1, 1)
        nn.init.ones_(layer.weight)
        nn.init.constant_(layer.bias, n)
        return layer

    part = LongSkips([plus(1), plus(2)], plus(4), [Take(), Take()])
    # maps 1 and 3, bottom 7; 7 * 10 + 3 = 73; 73 * 10 + 1 = 731
    assert part(torch.zeros(1, 1, 1, 1)).item() == 731


def test_stage_and_repeat_build_rows():
    stage = Stage(basic_block, 3, 8, 16, 2)
    assert len(stage) == 3 and stage(torch.zeros(1, 8, 8, 8)).shape == (1, 16, 4, 4)
    row = Repeat(3, lambda number: nn.Linear(number + 1, number + 2))
    assert row(torch.zeros(1, 1)).shape == (1, 4)


def test_several_heads_have_their_own_losses():
    torch.manual_seed(0)
    model = MultiHead(nn.Linear(3, 4), {"kind": nn.Linear(4, 5), "age": nn.Linear(4, 1)})
    losses = HeadLosses({"kind": nn.CrossEntropyLoss(), "age": nn.L1Loss()}, {"age": 0.1})
    x, targets = torch.randn(6, 3), {"kind": torch.arange(6) % 5, "age": torch.randn(6, 1)}
    outputs = model(x)
    features = model.trunk(x)
    expected = nn.functional.cross_entropy(model.heads["kind"](features), targets["kind"])
    expected = expected + 0.1 * (model.heads["age"](features) - targets["age"]).abs().mean()
    torch.testing.assert_close(losses(outputs, targets), expected)
    with pytest.raises(ValueError, match="Give every head an output, a target and a loss"):
        losses(outputs, {"kind": targets["kind"]})


def test_siamese_weights_are_shared_and_counted_once():
    model = Siamese(nn.Linear(3, 4), nn.CosineSimilarity())
    x, y = torch.randn(2, 5, 3)
    torch.testing.assert_close(model(x, y), torch.cosine_similarity(model.body(x), model.body(y)))
    assert models.parameters.count(model) == 16
    one, two = Siamese(nn.Linear(3, 4))(x, y)
    assert one.shape == two.shape == (5, 4)


def test_checkpointed_gives_the_same_gradients_and_counts_statistics_once():
    torch.manual_seed(0)
    plain = nn.Sequential(*conv_norm(3, 4, 3, activation=nn.ReLU()), *conv_norm(4, 4, 3))
    twin = Checkpointed(copy.deepcopy(plain))
    x = torch.randn(4, 3, 8, 8)
    for model in (plain, twin):
        model.train()(x).square().sum().backward()
    for a, b in zip(plain.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(plain.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        twin(x)
    assert all(t.data_ptr() == x.data_ptr() for t in saved if t.numel() > 1)
    assert twin.body[1].momentum == 0.1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_rest_of_pytorch_takes_networks_of_parts(layout):
    torch.manual_seed(0)
    model = three_branches().to(memory_format=layout).eval()
    x = torch.randn(2, 3, 12, 12).to(memory_format=layout)
    answer = model(x)
    assert answer.is_contiguous(memory_format=layout)
    torch.testing.assert_close(copy.deepcopy(model)(x), answer)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), answer)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("B")},))
    torch.testing.assert_close(
        exported.module()(x[:1].repeat(3, 1, 1, 1)), answer[:1].repeat(3, 1, 1, 1)
    )
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = three_branches().eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other(x), answer)
    grown = model.train()(x)
    grown.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet10_small", "unet_small", "vit_tiny", "fpn_resnet18"])
def test_whole_models_compile_export_and_take_channels_last(name):
    model = models.create(name, num_classes=5, image_size=32).train()
    images = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    compiled(images).sum().backward()
    model.eval()
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("B")},))
    more = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(exported.module()(more), model(more), rtol=1e-4, atol=1e-4)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    answer = last(more.to(memory_format=torch.channels_last))
    torch.testing.assert_close(answer, model(more), rtol=1e-3, atol=1e-4)


def test_parts_work_on_other_dtypes():
    model = three_branches().eval()
    assert model.double()(torch.zeros(1, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64
    assert model.bfloat16()(torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Parallel({}), "branches must be one or more; got none"),
        (lambda: Parallel([("a", nn.Identity()), ("a", nn.Identity())]), "used once; got 'a'"),
        (lambda: Parallel({"a.b": nn.Identity()}), "without dots"),
        (lambda: Parallel({"keys": nn.Identity()}), "methods of a dict"),
        (lambda: Parallel({"a": nn.Identity()}, "cat"), "got 'cat'"),
        (lambda: Parallel({"a": nn.Identity()}, "gate"), r"Give merge=Gate\(branches, channels\)"),
        (lambda: Parallel({"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(5, 4, 1)}), "same input"),
        (lambda: Parallel({"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 5, 1)}), "channels 4 against 5. Give 'b' 4 output channels"),
        (lambda: Parallel({"a": nn.Conv2d(3, 4, 1, 2), "b": nn.Conv2d(3, 4, 1)}), "height 32 against 64. Give 'b' the stride 2"),
        (lambda: Parallel({"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(3, 4, 1)}, "concat"), "62 against 64. Pad both alike"),
        (lambda: Residual(nn.Conv2d(4, 4, 3)), "Pad its convolutions by kernel_size // 2"),
        (lambda: StochasticDepth(1.0), "0 <= p < 1"),
        (lambda: Repeat(0, lambda n: nn.Identity()), "times must be >= 1"),
        (lambda: Stage(lambda i, o, s: conv_norm(i, o, 3), 2, 4, 8, 2), "the stride that build is given"),
        (lambda: LongSkips([nn.Identity()], nn.Identity(), []), "one decoder module for each"),
        (lambda: MultiHead(nn.Identity(), {}), "Give it a module"),
        (lambda: HeadLosses({"a": nn.L1Loss()}, {"b": 1.0}), "heads that have a loss"),
        (lambda: Siamese(nn.Identity())(), "Give it images"),
    ],
)  # fmt: skip
def test_parts_say_what_is_wrong(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_a_mismatch_deep_inside_names_both_branches_by_path():
    part = Parallel({"fine": nn.Identity(), "coarse": nn.AvgPool2d(2)})
    model = nn.Sequential(conv_norm(3, 8, 3), nn.Sequential(part))
    with pytest.raises(BranchMismatch) as caught:
        shapes.check(model, [2, 3, 32, 32])
    assert str(caught.value) == (
        "Parallel at 1.0: branches '1.0.fine' and '1.0.coarse' must be of one shape; "
        "got [2, 8, 32, 32] and [2, 8, 16, 16]: height 32 against 16. "
        "Give 'fine' the stride 2 more, or upsample the other."
    )
    with pytest.raises(BranchMismatch, match="height 32 against 16"):
        model(torch.zeros(2, 3, 32, 32))


def test_a_layer_that_cannot_take_its_input_is_named_by_its_path():
    model = nn.Sequential(conv_norm(3, 8, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(16, 4, 1)))
    with pytest.raises(ValueError, match=r"the input of 1\.1 \(Conv2d\).*got \[2, 8, 32, 32\]"):
        shapes.check(model, [2, 3, 32, 32])


def test_a_decoder_that_misses_its_map_by_a_pixel_says_so():
    part = LongSkips(
        [nn.Conv2d(1, 4, 3, padding=1)], nn.Conv2d(4, 4, 3, 2, 1), [Up(nn.Conv2d(8, 1, 1))]
    )
    assert part(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 8, 8)
    with pytest.raises(
        BranchMismatch, match=r"branches 'skipped' and 'below'.*height 9 against 10"
    ):
        part(torch.zeros(1, 1, 9, 9))
