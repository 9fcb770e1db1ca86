"""Builds the C kernel of augment when toque is installed; everything else stands in pyproject.toml.

The kernel is optional: without a C compiler toque installs and runs all the same, and augments in
plain torch. It is loaded with ctypes and uses nothing of Python or torch, so one wheel serves every
Python.
"""

import hashlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FLAGS = [
    "-std=gnu11",
    "-O3",
    "-g0",
    # Loops marked "omp simd" may be reordered; nothing of OpenMP is linked.
    "-fopenmp-simd",
    # What the compiler must know to vectorise comparisons and roundings. Not -ffast-math: linked
    # into a library it would switch the whole process to flushing subnormal numbers.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-ffinite-math-only",
    "-ffp-contract=fast",
    "-Wno-unknown-pragmas",
    "-Wno-unknown-warning-option",
]


SOURCES = "src/toque/augment/kernels/c"
# The library says what it was built from: cpu.py refuses one that is older than the tree around it.
FILES = sorted((Path(__file__).parent / SOURCES).glob("*.[ch]"))
DIGEST = hashlib.sha256(b"".join(file.read_bytes() for file in FILES))


class BuildKernel(build_ext):
    """A plain shared library: no Python module, so no tag of a Python version in its name."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return list(ext.export_symbols)


class WheelForAnyPython(bdist_wheel):
    """Tagged for the platform alone."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            "toque.augment.kernels._cpu",
            sources=[f"{SOURCES}/kernel.c"],
            depends=[f"{SOURCES}/{file.name}" for file in FILES],
            define_macros=[("TOQUE_SOURCE_SHA256", f'"{DIGEST.hexdigest()}"')],
            extra_compile_args=FLAGS,
            libraries=["m"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernel, "bdist_wheel": WheelForAnyPython},
)
