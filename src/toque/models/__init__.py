"""Architectures of many branches and skip connections, and the management of their parameters."""

from toque.models import parameters, shapes, surgery
from toque.models.blocks import LayerScale, Residual, StochasticDepth, conv_norm
from toque.models.catalog import create, names
from toque.models.classifier import Classifier
from toque.models.ema import EMA

__all__ = [
    "EMA",
    "Classifier",
    "LayerScale",
    "Residual",
    "StochasticDepth",
    "conv_norm",
    "create",
    "names",
    "parameters",
    "shapes",
    "surgery",
]
