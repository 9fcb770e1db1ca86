"""Layers that save memory or time, the pattern to write one, and the proof that it is right."""

from toque.layers.channels import BlurPool, GeM, RMSNorm2d
from toque.layers.depth import SubsetDepth
from toque.layers.estimators import LearnedStepQuantiser, reverse_gradient, straight_through
from toque.layers.frozen import freeze_for_input_grad
from toque.layers.fused import Fused, fused
from toque.layers.memory import is_saving_memory, keep_activations, save_memory, saved_bytes
from toque.layers.prologue import ActLinearMlp, act_linear, norm_act_conv, norm_linear
from toque.layers.recompute import recomputing
from toque.layers.rounding import GradientErrors, compare_gradients
from toque.layers.saved import Trace, trace_saved
from toque.layers.verification import Report, verify

__all__ = [
    "ActLinearMlp",
    "BlurPool",
    "Fused",
    "GeM",
    "GradientErrors",
    "LearnedStepQuantiser",
    "RMSNorm2d",
    "Report",
    "SubsetDepth",
    "Trace",
    "act_linear",
    "compare_gradients",
    "freeze_for_input_grad",
    "fused",
    "is_saving_memory",
    "keep_activations",
    "norm_act_conv",
    "norm_linear",
    "recomputing",
    "reverse_gradient",
    "save_memory",
    "saved_bytes",
    "straight_through",
    "trace_saved",
    "verify",
]
