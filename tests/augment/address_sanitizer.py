"""The kernel's tests under AddressSanitizer and UndefinedBehaviorSanitizer; not part of the suite.

    python tests/augment/address_sanitizer.py

Builds the C sources with both sanitizers (gcc with libasan), then runs test_kernels.py and test_compose.py in
a process that loads it. Any read or write outside an allocation, of tensors as well as of the kernel's
own scratch, ends the run with a report. Takes some minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from toque.augment.kernels import cpu

HERE = Path(__file__).parent
SOURCE = cpu.SOURCES / "kernel.c"
# At -O1 gcc fuses no products with sums, and bits differ between what is written by hand and what is not.
FLAGS = ["-g", "-O2", "-std=gnu11", "-fopenmp-simd", "-fPIC", "-shared"]
FLAGS.append(f'-DTOQUE_SOURCE_SHA256="{cpu.digest()}"')
SANITIZERS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
]
RUN = """
import sys, pytest
from pathlib import Path
from toque.augment.kernels import cpu
cpu.LIBRARY = Path(sys.argv[1])
assert cpu.levels(), "the library did not load"
sys.exit(pytest.main(["-q", "-x", "-s", *sys.argv[2:]]))
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "_cpu.so"
        subprocess.run(
            ["gcc", *FLAGS, *SANITIZERS, str(SOURCE), "-o", str(library), "-lm"], check=True
        )
        preload = subprocess.run(
            ["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
        ).stdout.strip()
        environment = {
            **os.environ,
            "LD_PRELOAD": preload,
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
            "PYTHONMALLOC": "malloc",
        }
        tests = [str(HERE / "test_kernels.py"), str(HERE / "test_compose.py"), *sys.argv[1:]]
        return subprocess.run(
            [sys.executable, "-c", RUN, str(library), *tests], env=environment
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
