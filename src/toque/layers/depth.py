"""Stochastic depth that computes only the images it keeps."""

from __future__ import annotations

from torch import Tensor, nn

from toque import checks, random


class SubsetDepth(nn.Module):
    """x + branch(x), where in training a share of the images skips the branch and costs nothing.

    A fixed number of images is kept, chosen at random by torch's generator, and their branch is
    scaled so that the expectation is that of the whole. In eval it is x + branch(x). The branch
    must treat images alone (no BatchNorm, which would see fewer images).

    Shape:    [B, ...] -> [B, ...]
    Args:     branch: any module that keeps the shape; drop: share of images that skip, 0 to 1
    Raises:   ValueError: drop outside 0 .. 1, or 1
    Source:   Huang 2016, arXiv:1603.09382; the subset of Oquab 2023, arXiv:2304.07193, section 5
    Measured: about (1 - drop) of the branch's time and memory; benchmarks/RESULTS.md, "layers"
    """

    def __init__(self, branch: nn.Module, drop: float) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise checks.invalid("SubsetDepth", "drop", "in 0 .. 1, below 1", drop, "0.1 is usual.")
        self.branch, self.drop = branch, drop

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        kept = max(1, round(batch * (1 - self.drop)))
        if not self.training or kept >= batch:
            out: Tensor = x + self.branch(x)
            return out
        chosen = random.torch_permutation(batch, x.device)[:kept]
        added = self.branch(x[chosen]) * (batch / kept)
        return x.index_add(0, chosen, added.to(x.dtype))

    def extra_repr(self) -> str:
        return f"drop={self.drop}"
