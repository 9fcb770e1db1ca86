"""Architectures of many branches and skip connections, and the management of their parameters."""

from toque.models import initialise, memory, parameters, shapes, surgery, weights
from toque.models.blocks import (
    Checkpointed,
    LayerScale,
    Repeat,
    Residual,
    Stage,
    StochasticDepth,
    conv_norm,
)
from toque.models.branches import (
    Attention,
    Concat,
    Gate,
    HeadLosses,
    Mean,
    MultiHead,
    Parallel,
    Siamese,
    Sum,
)
from toque.models.catalog import create, names
from toque.models.classifier import Classifier
from toque.models.description import describe
from toque.models.ema import EMA
from toque.models.fusion import fuse, fusion_plan
from toque.models.pruning import prune
from toque.models.signal import signal
from toque.models.skips import AttentionGate, LongSkips, Skip, Up

__all__ = [
    "EMA",
    "Attention",
    "AttentionGate",
    "Checkpointed",
    "Classifier",
    "Concat",
    "Gate",
    "HeadLosses",
    "LayerScale",
    "LongSkips",
    "Mean",
    "MultiHead",
    "Parallel",
    "Repeat",
    "Residual",
    "Siamese",
    "Skip",
    "Stage",
    "StochasticDepth",
    "Sum",
    "Up",
    "conv_norm",
    "create",
    "describe",
    "fuse",
    "fusion_plan",
    "initialise",
    "memory",
    "names",
    "parameters",
    "prune",
    "shapes",
    "signal",
    "surgery",
    "weights",
]
