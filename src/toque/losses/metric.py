"""Losses on features: supervised contrastive, triplet, ArcFace; and distillation from a teacher.

Shape letters: N images, D features, K classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toque import checks
from toque.losses import reduction as reductions
from toque.losses import targets as labels
from toque.losses.cross_entropy import cross_entropy


def supervised_contrastive(
    features: Tensor, targets: Tensor, *, temperature: float = 0.1
) -> Tensor:
    """Pulls features of one class together, against all others of the batch.

    An image alone in its class counts nothing; with two views of each image as classes of two it is
    SimCLR's loss (NT-Xent).

    Shape:  features [N, D], targets [N] -> []
    Args:   features: normalised here; temperature: > 0
    Raises: ValueError: shapes disagree, temperature <= 0
    Source: Khosla 2020, arXiv:2004.11362, eq. 2 (the sum outside the logarithm)
    """
    where = "supervised_contrastive"
    _check_positive(where, "temperature", temperature)
    _check_features(where, features, targets)
    unit = F.normalize(reductions.full_precision(features), dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    similar = (unit @ unit.t() / temperature).masked_fill(itself, float("-inf"))
    log_p = similar - similar.logsumexp(1, keepdim=True) if len(unit) > 1 else similar * 0
    partner = (targets[:, None] == targets[None, :]) & ~itself
    partners = partner.sum(1)
    each = log_p.masked_fill(~partner, 0).sum(1) / partners.clamp(min=1)
    return reductions.share(-each.sum(), (partners > 0).sum().to(each.dtype))


def triplet(features: Tensor, targets: Tensor, *, margin: float = 0.2) -> Tensor:
    """Batch-hard triplets: the farthest of the same class against the nearest of another.

    An image without a partner, or without a stranger, in the batch counts nothing.

    Shape:  features [N, D], targets [N] -> []
    Args:   features: used as they are (normalise before if wanted); margin: > 0
    Raises: ValueError: shapes disagree, margin <= 0
    Source: Hermans 2017, arXiv:1703.07737, eq. 5
    """
    _check_positive("triplet", "margin", margin)
    _check_features("triplet", features, targets)
    points = reductions.full_precision(features)
    # The squares of the differences: exact near 0, where cdist's expansion is not.
    apart = (points[:, None] - points[None, :]).square().sum(-1)
    distance = apart.clamp(min=1e-12).sqrt()
    same = targets[:, None] == targets[None, :]
    itself = torch.eye(len(points), dtype=torch.bool, device=points.device)
    if len(points) == 0:
        return points.sum()
    farthest = distance.masked_fill(~same | itself, float("-inf")).amax(1)
    nearest = distance.masked_fill(same, float("inf")).amin(1)
    counts = torch.isfinite(farthest) & torch.isfinite(nearest)
    gap = torch.where(counts, farthest, 0) - torch.where(counts, nearest, 0)
    values = torch.where(counts, F.relu(gap + margin), 0)
    return reductions.share(values.sum(), counts.sum().to(values.dtype))


class ArcFace(nn.Module):
    """A classification head with an angular margin: its loss from features and class numbers.

    Shape:  features [N, D], targets [N] -> []
    Args:   num_features, num_classes: sizes of the weight [K, D]
            margin: radians added to the angle of the right class, 0 to pi/2; 0 is cross-entropy of
            scaled cosines
            scale: of the cosines, > 0
    Raises: ValueError: a setting outside its range, shapes disagree
    Source: Deng 2019, arXiv:1801.07698, eq. 3
    """

    def __init__(
        self, num_features: int, num_classes: int, margin: float = 0.5, scale: float = 64.0
    ) -> None:
        super().__init__()
        if not 0 <= margin <= math.pi / 2:
            raise checks.invalid("ArcFace", "margin", "in 0 .. pi/2", margin, "0.5 is usual.")
        _check_positive("ArcFace", "scale", scale)
        self.margin, self.scale = margin, scale
        self.weight = nn.Parameter(torch.empty(num_classes, num_features))
        nn.init.xavier_normal_(self.weight)

    def forward(self, features: Tensor, targets: Tensor) -> Tensor:
        _check_features("ArcFace", features, targets)
        cosine = self.cosines(features)
        labels.check_targets("ArcFace", cosine, targets, None)
        numbers, _, poison = labels.split(targets, cosine.shape[1], None)
        at = numbers[:, None]
        right = cosine.gather(1, at)
        sine = (1 - right.square()).clamp(min=1e-12).sqrt()
        turned = right * math.cos(self.margin) - sine * math.sin(self.margin)
        # Past pi the cosine would rise again: go on falling in a straight line.
        straight = right - math.sin(self.margin) * self.margin
        turned = torch.where(right > -math.cos(self.margin), turned, straight)
        if self.margin == 0:
            turned = right
        if poison is not None:
            turned = turned + poison[:, None]
        return cross_entropy(self.scale * cosine.scatter(1, at, turned), numbers)

    def cosines(self, features: Tensor) -> Tensor:
        """Cosines of features and classes, for predictions: [N, K]."""
        unit = F.normalize(reductions.full_precision(features), dim=1)
        return F.linear(unit, F.normalize(self.weight.to(unit.dtype), dim=1))

    def extra_repr(self) -> str:
        classes, features = self.weight.shape
        return f"{features}, {classes}, margin={self.margin}, scale={self.scale}"


def distillation(logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Kullback-Leibler divergence from a teacher's softened classes, times temperature squared.

    Shape:    logits, teacher_logits [B, K, ...] -> [], the mean over positions
    Gradient: logits only
    Args:     temperature: > 0
    Raises:   ValueError: shapes disagree, temperature <= 0
    Source:   Hinton 2015, arXiv:1503.02531, section 2
    """
    _check_positive("distillation", "temperature", temperature)
    labels.check_logits("distillation", logits)
    labels.check_targets("distillation", logits, teacher_logits, None)
    student = F.log_softmax(reductions.full_precision(logits) / temperature, 1)
    teacher = F.log_softmax(teacher_logits.detach().to(student.dtype) / temperature, 1)
    values = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    return temperature**2 * reductions.reduce(values, "mean")


class UncertaintyWeights(nn.Module):
    """Weighs several losses by a learned variance of each: sum of exp(-s) loss + s.

    Its parameter must be given to the optimizer. At its start (s = 0) it is the plain sum.

    Shape:  losses: a sequence of `count` scalars, or [count] -> []
    Args:   count: number of losses
    Raises: ValueError: another number of losses
    Source: Kendall 2018, arXiv:1705.07115, section 3.2, with s = log of the variance and without
            the factor 1/2, which is the same up to a constant
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(count))

    def forward(self, losses: list[Tensor] | tuple[Tensor, ...] | Tensor) -> Tensor:
        stacked = losses if isinstance(losses, Tensor) else torch.stack(list(losses))
        if stacked.shape != self.log_variance.shape:
            raise checks.invalid(
                "UncertaintyWeights", "losses", f"{len(self.log_variance)} scalars",
                list(stacked.shape), "Give as many as it was made for.",
            )  # fmt: skip
        return (torch.exp(-self.log_variance) * stacked + self.log_variance).sum()


def _check_positive(where: str, name: str, value: float) -> None:
    if not value > 0:
        raise checks.invalid(where, name, "> 0", value, "Give a positive number.")


def _check_features(where: str, features: Tensor, targets: Tensor) -> None:
    labels.check_logits(where, features)
    if features.dim() != 2 or targets.shape != features.shape[:1] or targets.is_floating_point():
        raise checks.invalid(
            where, "features and targets", "of shapes [N, D] and [N] (class numbers)",
            f"{list(features.shape)} and {list(targets.shape)}", "Give one class per row.",
        )  # fmt: skip
