"""Layers that save memory or time, the pattern to write one, and the proof that it is right."""

from toque.layers.fused import Fused, fused
from toque.layers.memory import is_saving_memory, keep_activations, save_memory, saved_bytes
from toque.layers.saved import Trace, trace_saved
from toque.layers.verification import Report, verify

__all__ = [
    "Fused",
    "Report",
    "Trace",
    "fused",
    "is_saving_memory",
    "keep_activations",
    "save_memory",
    "saved_bytes",
    "trace_saved",
    "verify",
]
