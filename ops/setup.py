"""Build the compiled attention kernels in place: `python ops/setup.py build_ext --inplace`.

CUDA kernels are built where PyTorch has CUDA, a GPU is present and nvcc is found; `FORCE_CUDA=1` builds them on a
machine without a GPU (then set `TORCH_CUDA_ARCH_LIST`, as in "8.0;9.0"), and `FORCE_CPU=1` never does. `CUDA_HOME` is
the folder of the CUDA toolkit, `CXX` the C++ compiler.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from setuptools import setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

ROOT = Path(__file__).resolve().parent.parent
SOURCES = "ops/csrc"
# The kernels' choice between two numbers may be computed both ways, and errno is never read: both let loops vectorise.
# The processor's own instructions are chosen when running, so a build serves machines of all kinds.
CXX_FLAGS = ["-O3", "-fno-trapping-math", "-fno-math-errno", "-Wno-psabi", "-g0"]


def wants_cuda() -> bool:
    """Whether CUDA kernels are to be built here."""
    if os.environ.get("FORCE_CPU") == "1":
        return False
    if os.environ.get("FORCE_CUDA") == "1":
        if CUDA_HOME is None or torch.version.cuda is None:
            raise SystemExit(
                "FORCE_CUDA=1, but no CUDA toolkit was found (set CUDA_HOME to its folder) "
                f"or this PyTorch is built without CUDA (torch.version.cuda is {torch.version.cuda})"
            )
        return True
    return CUDA_HOME is not None and torch.version.cuda is not None and torch.cuda.is_available()


def extension() -> CppExtension:
    """The one shared library, which PyTorch loads as operators rather than Python as a module."""
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / SOURCES).glob("*.cpp"))
    compile_args = {"cxx": CXX_FLAGS}
    if not wants_cuda():
        return CppExtension("ops._kernels", sources, extra_compile_args=compile_args)
    sources += sorted(str(path.relative_to(ROOT)) for path in (ROOT / SOURCES).glob("*.cu"))
    compile_args["nvcc"] = ["-O3", "--expt-relaxed-constexpr"]
    return CUDAExtension("ops._kernels", sources, extra_compile_args=compile_args)


def main() -> None:
    os.chdir(ROOT)  # "in place" and the sources are relative to it
    setup(
        name="referformer-ops",
        packages=[],
        ext_modules=[extension()],
        cmdclass={"build_ext": BuildExtension.with_options(no_python_abi_suffix=True)},
    )


if __name__ == "__main__":
    main()
