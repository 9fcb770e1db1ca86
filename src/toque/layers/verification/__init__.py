"""verify: a proof for anyone's layer."""

from toque.layers.verification.report import Finding, Report, SavedTensor
from toque.layers.verification.verify import CHECKS, verify

__all__ = ["CHECKS", "Finding", "Report", "SavedTensor", "verify"]
