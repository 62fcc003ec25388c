"""The compiled part of the package; all else is in pyproject.toml."""

import platform

from setuptools import Extension, setup

# Optional: where it cannot be built, attention runs through torch's own kernels. OpenMP is not
# linked: the runtime that torch brings serves both.
NATIVE = Extension(
    "batchpipe.kernels._native",
    ["kernels/csrc/native.cpp"],
    depends=["kernels/csrc/tile.h", "kernels/csrc/attend.h", "kernels/csrc/rows.h"],
    extra_compile_args=[
        "-O3",
        "-std=c++17",
        "-fopenmp",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fvisibility=hidden",
    ],
    optional=True,
)

BUILT_HERE = platform.system() == "Linux" and platform.machine() == "x86_64"

setup(ext_modules=[NATIVE] if BUILT_HERE else [])
