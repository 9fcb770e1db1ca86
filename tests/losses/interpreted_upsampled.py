"""Run by test_upsampled_cuda.py in a process of its own, where Triton interprets its kernels.

Triton reads TRITON_INTERPRET when it is first imported, which other tests may have done already.
"""

import sys

import torch
import torch.nn.functional as F

from toque.losses.upsampled_cuda import total_and_slopes

CASES = [
    # B, K, small size, large size, channels_last
    (2, 5, (3, 4), (12, 16), False),
    (1, 11, (5, 7), (9, 40), True),  # two blocks of classes; no whole factor
    (2, 3, (8, 8), (3, 5), False),  # smaller, not larger
    (1, 2, (1, 1), (4, 4), False),
    (1, 1, (2, 3), (5, 6), True),
    (1, 2, (2, 40), (2, 150), False),  # two blocks of columns, of the small and of the large image
]


def compare(batch, classes, small, large, channels_last):
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(batch, classes, *small, generator=generator)
    if channels_last:
        logits = logits.to(memory_format=torch.channels_last)
    numbers = torch.randint(classes, (batch, *large), generator=generator)
    valid = torch.rand(numbers.shape, generator=generator) > 0.2
    exact = logits.double().requires_grad_()
    enlarged = F.interpolate(exact, size=large, mode="bilinear", align_corners=False)
    expected = (F.cross_entropy(enlarged, numbers, reduction="none") * valid).sum()
    (slopes,) = torch.autograd.grad(expected, exact)
    total, found = total_and_slopes(logits, numbers, valid, slopes=True)
    torch.testing.assert_close(total, expected.detach().float(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found, slopes.float(), rtol=1e-4, atol=1e-5)
    assert found.stride() == logits.stride()
    alone, none = total_and_slopes(logits, numbers, valid, slopes=False)
    assert torch.equal(alone, total) and none is None


def infinite_logits_of_pixels_that_do_not_count():
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, :, 0, 0] = torch.inf
    valid = torch.tensor([[[False, False, False], [False, False, False], [False, False, True]]])
    total, slopes = total_and_slopes(
        logits, torch.zeros(1, 3, 3, dtype=torch.long), valid, slopes=True
    )
    assert torch.isfinite(total) and torch.isfinite(slopes).all() and slopes[0, 0, 1, 1] < 0


for case in CASES:
    compare(*case)
infinite_logits_of_pixels_that_do_not_count()
empty = torch.zeros(0, 3, 2, 2)
total, slopes = total_and_slopes(
    empty,
    torch.zeros(0, 4, 4, dtype=torch.long),
    torch.zeros(0, 4, 4, dtype=torch.bool),
    slopes=True,
)
assert total == 0 and slopes.shape == empty.shape
sys.stdout.write(f"{len(CASES)} cases agree\n")
