# ruff: noqa: T201
"""Build the compiled attention kernels in place: `python ops/setup.py build_ext --inplace`.

CUDA kernels are built where PyTorch has CUDA, a GPU is present and nvcc is found; `FORCE_CUDA=1` builds them on a
machine without a GPU (then set `TORCH_CUDA_ARCH_LIST`, as in "8.0;9.0"), and `FORCE_CPU=1` never does. `CUDA_HOME` is
the folder of the CUDA toolkit where it is not found, `CXX` the C++ compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from setuptools import setup

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "ops/csrc"
# Whether a comparison may raise a floating-point exception, and errno, interest nobody here; both keep loops from being
# vectorised. Instructions are not chosen here but when running, so a build serves machines of all kinds.
CXX_FLAGS = ["-O3", "-fno-trapping-math", "-fno-math-errno", "-Wno-psabi", "-g0"]


def find_toolkit() -> Path | None:
    """Folder of the CUDA toolkit: where compiler and headers lie together, which a wrapper of nvcc does not tell."""
    named = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    nvcc = shutil.which("nvcc")
    beside_nvcc = [Path(nvcc).resolve().parent.parent] if nvcc else []
    usual = [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    for folder in named + beside_nvcc + usual:
        if (folder / "bin/nvcc").is_file() and (folder / "include/cuda_runtime_api.h").is_file():
            return folder
    return None


TOOLKIT = find_toolkit()
if TOOLKIT is not None:
    os.environ["CUDA_HOME"] = str(TOOLKIT)  # read when the next line is

from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402


def openmp_flags() -> tuple[list[str], list[str]]:
    """For compiling and for linking: without OpenMP, `at::parallel_for` uses one thread, whatever PyTorch has."""
    compiler = os.environ.get("CXX", "c++").split()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("#include <omp.h>\nint main() { return omp_get_max_threads() == 0; }\n")
        probe = subprocess.run([*compiler, "-fopenmp", source, "-o", source.with_suffix("")], capture_output=True)
    if probe.returncode:
        print(f"{compiler[0]} has no OpenMP: the CPU kernels will use one thread only")
        return [], []
    # PyTorch's own copy of the GNU runtime, where it brings one, has the threads that `torch.set_num_threads` counts.
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout
    own = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return ["-fopenmp"], [str(own[0])] if own and "clang" not in version else ["-fopenmp"]


def wants_cuda() -> bool:
    """Whether CUDA kernels are to be built here."""
    if os.environ.get("FORCE_CPU") == "1":
        return False
    if os.environ.get("FORCE_CUDA") == "1":
        if TOOLKIT is None or torch.version.cuda is None:
            raise SystemExit(
                "FORCE_CUDA=1, but no CUDA toolkit was found (set CUDA_HOME to its folder) "
                f"or this PyTorch is built without CUDA (torch.version.cuda is {torch.version.cuda})"
            )
        return True
    return TOOLKIT is not None and torch.version.cuda is not None and torch.cuda.is_available()


def extension() -> CppExtension:
    """The one shared library, which PyTorch loads as operators rather than Python as a module."""
    sources = files("cpu*.cpp")
    openmp, link_args = openmp_flags()
    compile_args = {"cxx": CXX_FLAGS + openmp}
    if not wants_cuda():
        return CppExtension("ops._kernels", sources, extra_compile_args=compile_args, extra_link_args=link_args)
    sources += files("cuda*.cpp") + files("cuda*.cu")
    compile_args["nvcc"] = ["-O3"]
    return CUDAExtension("ops._kernels", sources, extra_compile_args=compile_args, extra_link_args=link_args)


def files(pattern: str) -> list[str]:
    """Source files that match, seen from the project's folder."""
    return sorted(str(path.relative_to(ROOT)) for path in SOURCES.glob(pattern))


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
