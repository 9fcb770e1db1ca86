"""The losses with a fast pass: equal to their plain composition, and to torch's own where it exists."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from toque import losses
from toque.layers import saved_bytes, trace_saved
from toque.losses import linear
from toque.losses import targets as labels

from .proof import classes, numbers, prove


def gradients(loss, *inputs):
    leaves = [i for i in inputs if i.requires_grad]
    return torch.autograd.grad(loss, leaves)


# ---- MixUp ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, torch.tensor([0.0, 0.2, 0.5, 1.0])])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_mixup_is_two_cross_entropies(share, smoothing, reduction):
    z, a, b = numbers(4, 5).requires_grad_(), classes(5, 4), classes(5, 4, seed=1)
    found = losses.mixup_cross_entropy(
        z, a, b, share, label_smoothing=smoothing, reduction=reduction
    )
    each = [F.cross_entropy(z, t, label_smoothing=smoothing, reduction="none") for t in (a, b)]
    expected = share * each[0] + (1 - share) * each[1]
    expected = {"none": lambda e: e, "sum": torch.sum, "mean": torch.mean}[reduction](expected)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found.sum(), z), gradients(expected.sum(), z))


def test_mixup_of_one_label_is_cross_entropy():
    z, a = numbers(4, 5), classes(5, 4)
    torch.testing.assert_close(losses.mixup_cross_entropy(z, a, a, 0.4), F.cross_entropy(z, a))
    soft = 0.4 * F.one_hot(a, 5) + 0.6 * F.one_hot(a.flip(0), 5)
    found = losses.mixup_cross_entropy(z, a, a.flip(0), 0.4, label_smoothing=0.2)
    torch.testing.assert_close(found, losses.cross_entropy(z, soft, label_smoothing=0.2))


def test_mixup_is_proved():
    a, b = classes(5, 4), classes(5, 4, seed=1)
    prove(
        lambda z, a, b: losses.mixup_cross_entropy(z, a, b, 0.3, label_smoothing=0.1),
        numbers(4, 5),
        a,
        b,
        compiles=True,
    )
    prove(
        lambda z, a, b: losses.mixup_cross_entropy(z, a, b, 0.3, reduction="none"),
        numbers(4, 5),
        a,
        b,
    )


# ---- upsample -------------------------------------------------------------------------------------


def plain_upsampled(z, t, ignore_index=-100, reduction="mean"):
    large = F.interpolate(z, size=t.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(large, t, ignore_index=ignore_index, reduction=reduction)


@settings(max_examples=80)
@given(
    small=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    large=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    band=st.sampled_from([1, 40, 2**20]),
    block=st.sampled_from([1, 4, 64]),
)
def test_upsampled_equals_the_two_steps_at_any_size(small, large, band, block):
    from toque.losses import upsampled

    kept = upsampled._BAND_ELEMENTS, upsampled._BLOCK_COLUMNS
    upsampled._BAND_ELEMENTS, upsampled._BLOCK_COLUMNS = band, block
    try:
        z = numbers(2, 3, *small).requires_grad_()
        t = classes(3, 2, *large)
        t[0, 0, 0] = 255
        found = losses.upsample_cross_entropy(z, t, ignore_index=255, reduction="sum")
        expected = plain_upsampled(z, t, 255, "sum")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            gradients(found, z), gradients(expected, z), rtol=1e-4, atol=1e-4
        )
    finally:
        upsampled._BAND_ELEMENTS, upsampled._BLOCK_COLUMNS = kept


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_upsampled_under_the_other_reductions(reduction):
    z, t = numbers(2, 3, 4, 5), classes(3, 2, 8, 9)
    t[:, 2:4] = -100
    found = losses.upsample_cross_entropy(z, t, reduction=reduction)
    torch.testing.assert_close(found, plain_upsampled(z, t, reduction=reduction))
    assert losses.upsample_cross_entropy(z, torch.full_like(t, -100)) == 0


def test_upsampled_at_the_same_size_is_cross_entropy():
    z, t = numbers(2, 3, 4, 5), classes(3, 2, 4, 5)
    torch.testing.assert_close(losses.upsample_cross_entropy(z, t), F.cross_entropy(z, t))


@pytest.mark.parametrize("size", [30.0, 1000.0])
def test_upsampled_where_neighbours_are_sure_of_other_classes(size):
    z = torch.zeros(2, 3, 4, 4)
    z[:, 0, ::2], z[:, 1, 1::2], z[:, 2] = size, size, -size
    z, t = z.requires_grad_(), classes(3, 2, 16, 16)
    found, expected = losses.upsample_cross_entropy(z, t), plain_upsampled(z.double(), t)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    slopes = (torch.autograd.grad(value, z)[0] for value in (found, expected))
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)


def test_upsampled_is_proved_and_saves_the_small_size_only():
    t = classes(3, 2, 6, 6)
    prove(losses.upsample_cross_entropy, numbers(2, 3, 3, 3), t, compiles=True)
    z = numbers(2, 30, 3, 3).requires_grad_()
    ours = trace_saved(losses.upsample_cross_entropy, z, t).saved_bytes
    assert ours < 0.5 * trace_saved(plain_upsampled, z, t).saved_bytes


# ---- linear -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [7, 2**20])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("in_forward", [True, False])
def test_linear_equals_linear_and_cross_entropy(chunk, bias, smoothing, in_forward, monkeypatch):
    monkeypatch.setattr(linear, "_CHUNK_ELEMENTS", chunk)
    width = 2 if in_forward else 4
    x, w = numbers(9, width).requires_grad_(), numbers(30, width, seed=1).requires_grad_()
    b = numbers(30, seed=2).requires_grad_() if bias else None
    t = classes(30, 9)
    assert linear._keeps_gradients(x, w) == in_forward
    t[3] = -100
    found = losses.linear_cross_entropy(x, w, t, b, label_smoothing=smoothing)
    expected = F.cross_entropy(F.linear(x, w, b), t, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)
    leaves = [x, w, *([b] if bias else [])]
    torch.testing.assert_close(gradients(found, *leaves), gradients(expected, *leaves))


def test_linear_keeps_no_logits_and_is_plain_where_they_are_smaller_than_the_weight():
    w, t = numbers(50, 4), classes(50, 40)

    def saved(rows):
        x = numbers(rows, 4).requires_grad_()
        return trace_saved(losses.linear_cross_entropy, x, w, t[:rows]).saved_bytes

    assert saved(40) < 0.5 * 40 * 50 * 4 and saved(2) > 2 * 50 * 4


def test_linear_is_proved():
    w, t = numbers(6, 4, seed=1), classes(6, 9)
    prove(losses.linear_cross_entropy, numbers(9, 4), w.requires_grad_(), t, compiles=True)
    w, t = numbers(20, 1, seed=1), classes(20, 9)
    prove(losses.linear_cross_entropy, numbers(9, 1), w.requires_grad_(), t)


@pytest.mark.parametrize("kept", [0, 2**24])
@pytest.mark.parametrize("chunk", [1, 13, 2**20])
def test_contrastive_is_clips(kept, chunk, monkeypatch):
    from toque.losses import contrastive

    monkeypatch.setattr(contrastive, "_KEPT_ELEMENTS", kept)
    monkeypatch.setattr(contrastive, "_CHUNK_ELEMENTS", chunk)
    a, b = (F.normalize(numbers(6, 4, seed=s)).requires_grad_() for s in (0, 1))
    scale = torch.tensor(5.0, requires_grad=True)
    logits = scale * a @ b.t()
    t = torch.arange(6)
    expected = (F.cross_entropy(logits, t) + F.cross_entropy(logits.t(), t)) / 2
    found = losses.contrastive_loss(a, b, scale)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, a, b, scale), gradients(expected, a, b, scale))
    one = F.normalize(numbers(1, 4))
    assert losses.contrastive_loss(one, one, 3.0).abs() < 1e-6
    with torch.no_grad():
        torch.testing.assert_close(losses.contrastive_loss(a, b, scale), expected)


def test_contrastive_far_apart_and_in_half():
    a, b = (100 * numbers(7, 5, seed=s) for s in (0, 1))
    for dtype in (torch.float32, torch.bfloat16):
        pair = [t.to(dtype).requires_grad_() for t in (a, b)]
        found = losses.contrastive_loss(*pair, 2.0)
        logits = (2.0 * pair[0] @ pair[1].t()).float()
        t = torch.arange(7)
        expected = (F.cross_entropy(logits, t) + F.cross_entropy(logits.t(), t)) / 2
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients(found, *pair), gradients(expected, *pair))


def test_contrastive_is_proved_and_keeps_no_similarities():
    b = numbers(5, 3, seed=1).requires_grad_()
    prove(lambda a, b: losses.contrastive_loss(a, b, 2.0), numbers(5, 3), b, compiles=True)
    a, b = (numbers(40, 2, seed=s).requires_grad_() for s in (0, 1))
    kept = trace_saved(lambda a, b: losses.contrastive_loss(a, b, 2.0), a, b)
    assert kept.saved_bytes < 40 * 40 * 4


# ---- focal ------------------------------------------------------------------------------------------


def test_sigmoid_focal_is_torchvisions_on_a_one_hot():
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is an extra")
    z, t = numbers(7, 5).requires_grad_(), classes(5, 7)
    t[2] = -1
    hot = F.one_hot(t.clamp(min=0), 5).float() * (t >= 0)[:, None]
    for gamma in (0.0, 1.5, 2.0):
        for reduction in ("none", "sum", "mean"):
            found = losses.sigmoid_focal(z, t, alpha=0.3, gamma=gamma, reduction=reduction)
            expected = ops.sigmoid_focal_loss(z, hot, 0.3, gamma, reduction)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(gradients(found.sum(), z), gradients(expected.sum(), z))


def test_focal_without_focus_is_the_known_loss():
    z, t = numbers(7, 5), classes(5, 7)
    t[0] = -100
    assert torch.equal(losses.focal(z, t, gamma=0.0), losses.cross_entropy(z, t))
    w = torch.rand(5)
    torch.testing.assert_close(
        losses.focal(z, t, gamma=0.0, class_weights=w), losses.cross_entropy(z, t, class_weights=w)
    )
    hot = F.one_hot(t.clamp(min=0), 5).float()
    half = losses.sigmoid_focal(z, t.clamp(min=0), alpha=0.5, gamma=0.0)
    torch.testing.assert_close(2 * half, F.binary_cross_entropy_with_logits(z, hot))


def test_focal_is_its_definition():
    z, t = numbers(7, 5), classes(5, 7)
    p = z.softmax(1).gather(1, t[:, None])[:, 0]
    torch.testing.assert_close(losses.focal(z, t, reduction="none"), -((1 - p) ** 2) * p.log())


def test_focal_losses_are_proved():
    prove(losses.sigmoid_focal, numbers(7, 5), classes(6, 7) - 1, compiles=True)
    prove(losses.focal, numbers(7, 5), classes(5, 7))


def test_asymmetric_without_settings_is_binary_cross_entropy():
    z, y = numbers(4, 6), classes(2, 4, 6).float()
    plain = {"gamma_positive": 0, "gamma_negative": 0, "clip": 0}
    found = losses.asymmetric(z, y, **plain)
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(z, y))
    torch.testing.assert_close(
        losses.asymmetric(z, y, gamma_positive=2, gamma_negative=2, clip=0, reduction="none"),
        2 * losses.sigmoid_focal(z, y, alpha=0.5, reduction="none"),
    )
    prove(losses.asymmetric, z, y)


# ---- what every one of them says --------------------------------------------------------------------


Z, T = numbers(4, 5), classes(5, 4)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: losses.mixup_cross_entropy(Z, T, T + 5, 0.5), ValueError, r"in 0 \.\. 4; got [5-9]"),
        (lambda: losses.mixup_cross_entropy(Z, T, T, torch.ones(3)), ValueError, r"one number or of shape \[4\]"),
        (lambda: losses.mixup_cross_entropy(Z, Z, T, 0.5), TypeError, "Give probabilities to cross_entropy"),
        (lambda: losses.upsample_cross_entropy(Z, T), ValueError, r"\[B, K, h, w\] and \[B, H, W\]"),
        (lambda: losses.upsample_cross_entropy(Z.view(2, 2, 5, 1), classes(3, 2, 4, 4) + 7), ValueError, r"in 0 \.\. 1"),
        (lambda: losses.linear_cross_entropy(Z, numbers(3, 4), T), ValueError, r"\[N, D\] and \[K, D\]"),
        (lambda: losses.linear_cross_entropy(Z, numbers(3, 5), T + 9), ValueError, r"in 0 \.\. 2"),
        (lambda: losses.contrastive_loss(Z, Z, 0.0), ValueError, "scale must be > 0; got 0.0"),
        (lambda: losses.contrastive_loss(Z[:0], Z[:0], 1.0), ValueError, "N >= 1"),
        (lambda: losses.sigmoid_focal(Z, T, gamma=-1), ValueError, "gamma must be >= 0; got -1"),
        (lambda: losses.sigmoid_focal(Z, T + 5), ValueError, r"in 0 \.\. 4, or -1 to ignore"),
        (lambda: losses.focal(Z, Z), TypeError, "Use cross_entropy"),
        (lambda: losses.asymmetric(Z, Z, clip=2), ValueError, r"clip must be in 0 \.\. 1"),
    ],
)  # fmt: skip
def test_bad_input_is_said_in_one_sentence(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda z, t: losses.mixup_cross_entropy(z, t, t, 0.5),
        lambda z, t: losses.sigmoid_focal(z, t),
        lambda z, t: losses.linear_cross_entropy(z, torch.eye(5), t),
        lambda z, t: losses.upsample_cross_entropy(z[..., None, None], t[:, None, None]),
    ],
)
def test_where_values_cannot_be_read_a_class_out_of_range_is_nan(call, monkeypatch):
    good = call(Z, T)
    monkeypatch.setattr(labels, "is_readable", lambda tensor: False)
    torch.testing.assert_close(call(Z, T), good)
    assert call(Z, T.index_fill(0, torch.tensor([1]), 77)).isnan()


def test_saved_bytes_helper_takes_a_loss():
    assert (
        saved_bytes(
            losses.create("mixup_cross_entropy", {"share": 0.5}), Z.clone().requires_grad_(), T, T
        )
        > 0
    )


def test_exponentials_are_exact_to_float32():
    from toque.losses import exponentials

    x = torch.cat([torch.linspace(-90, 80, 20_001), torch.tensor([0.0, -0.0, 1e-30, -1e-7])])
    exact = x.double()
    torch.testing.assert_close(
        exponentials.exp_(x.clone()).double(), exact.exp(), rtol=1e-5, atol=1e-37
    )
    near = x.abs() < 4
    torch.testing.assert_close(
        exponentials.exp_(x[near]).double(), exact[near].exp(), rtol=6e-7, atol=0
    )
    torch.testing.assert_close(
        exponentials.softplus(x)[x > -80].double(), F.softplus(exact)[x > -80], rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        exponentials.softplus(x[near]).double(), F.softplus(exact[near]), rtol=6e-7, atol=0
    )
    edges = torch.tensor([torch.inf, -torch.inf, torch.nan])
    assert (
        exponentials.softplus(edges).tolist()[:2] == [torch.inf, 0]
        and exponentials.softplus(edges)[2].isnan()
    )
