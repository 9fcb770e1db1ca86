"""Builds the C of toque when it is installed; everything else stands in pyproject.toml.

Two libraries: the kernel of augment, and the decoding of a part of a JPEG, which needs the headers
of libjpeg-turbo besides. Each is optional: without a C compiler toque installs and runs all the
same, and augments in plain torch; without the headers it decodes whole files. They are loaded with
ctypes and use nothing of Python or torch, so one wheel serves every Python.
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


KERNEL = "src/toque/augment/kernels/c"
REGION = "src/toque/data/c"


def plain_library(name: str, sources: str, main: str, libraries: list[str]) -> Extension:
    """A library that says what it was built from: one older than the tree around it is refused."""
    files = sorted((Path(__file__).parent / sources).glob("*.[ch]"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return Extension(
        name,
        sources=[f"{sources}/{main}"],
        depends=[f"{sources}/{file.name}" for file in files],
        define_macros=[("TOQUE_SOURCE_SHA256", f'"{digest}"')],
        extra_compile_args=FLAGS,
        libraries=libraries,
        optional=True,
    )


class BuildLibrary(build_ext):
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
        plain_library("toque.augment.kernels._cpu", KERNEL, "kernel.c", ["m"]),
        plain_library("toque.data._region", REGION, "region.c", ["jpeg"]),
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": WheelForAnyPython},
)
