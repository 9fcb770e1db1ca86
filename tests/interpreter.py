"""What Triton's interpreter of kernels can do here."""

import importlib.metadata
import importlib.util
import re


def _passes_loop_bounds() -> bool:
    """Triton 3.6, which torch 2.11 brings, makes a number of an array of one: NumPy 2.4 refuses."""
    if importlib.util.find_spec("triton") is None:
        return True  # said by the tests themselves
    triton, numpy = (
        tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version(name))[:2])
        for name in ("triton", "numpy")
    )
    return triton >= (3, 7) or numpy < (2, 4)


NO_LOOPS = {
    "condition": not _passes_loop_bounds(),
    "reason": "the interpreter of Triton 3.6 cannot run loops with NumPy 2.4 or newer",
}
