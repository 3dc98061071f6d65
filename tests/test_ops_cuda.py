"""The CUDA kernels: their source run on the CPU, the extension compiled and linked, and the same cases on a GPU."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ops import library, ms_deform_attn
from ops.selftest import CASES, TOLERANCES, Case, differences, random_inputs, relative_error

ROOT = Path(__file__).resolve().parent.parent
DTYPES = list(TOLERANCES)
C_TYPES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
MANY_LEVELS = Case(queries=3, heads=1, channels=4, points=1, spatial_shapes=((2, 3),) * 40)
needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and library.has_kernels("cuda")), reason="no GPU, or no kernels built for it"
)

# --- the kernels' source on the CPU ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """`cuda_kernels.cuh` compiled by the C++ compiler, with threads of a warp that take turns."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    here = Path(__file__).parent / "cuda_on_cpu"
    target = tmp_path_factory.mktemp("cuda_on_cpu") / "kernels.so"
    include = [f"-I{path}" for path in (here, ROOT / "ops/csrc", Path(torch.__file__).parent / "include")]
    flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
    subprocess.run([compiler, *flags, *include, str(here / "run_kernels.cpp"), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


def pointers(tensors: list[Tensor]) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def call_arguments(case: Case, inputs: list[Tensor]) -> tuple:
    """Type and location type, then sizes and pointers, as `run_kernels.cpp` takes them."""
    value, locations, _ = inputs
    sizes = [*value.shape, locations.shape[1], locations.shape[4], *(size for s in case.spatial_shapes for size in s)]
    numbers = (ctypes.c_int64 * len(sizes))(*sizes)
    return (C_TYPES[value.dtype], locations.dtype == value.dtype), (numbers, len(case.spatial_shapes), pointers(inputs))


def run_forward(kernels: ctypes.CDLL, case: Case, inputs: list[Tensor], wide: bool) -> Tensor:
    value, locations, _ = inputs
    output = torch.full((value.shape[0], locations.shape[1], value.shape[2] * value.shape[3]), torch.nan).to(value)
    (dtype, as_value), rest = call_arguments(case, inputs)
    kernels.run_forward(dtype, wide, as_value, *rest, ctypes.c_void_p(output.data_ptr()))
    return output


def run_backward(
    kernels: ctypes.CDLL, case: Case, inputs: list[Tensor], grad_output: Tensor, wide: bool, deterministic: bool
) -> list[Tensor]:
    value, locations, weights = inputs
    sums = torch.zeros(value.shape, dtype=torch.promote_types(value.dtype, torch.float32))
    gradients = [sums, torch.full_like(locations, torch.nan), torch.full_like(weights, torch.nan)]
    channels_at_once = 16 // value.element_size() if wide else 1
    threads_of_row = 1
    while threads_of_row < 32 and threads_of_row * channels_at_once < case.channels:
        threads_of_row *= 2
    (dtype, as_value), rest = call_arguments(case, inputs)
    kernels.run_backward(
        dtype, wide, as_value, deterministic, threads_of_row, *rest,
        ctypes.c_void_p(grad_output.data_ptr()), pointers(gradients),
    )  # fmt: skip
    return gradients


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [*CASES[:5], MANY_LEVELS], ids=range(6))
def test_source_computes_what_pytorch_does(kernels: ctypes.CDLL, case: Case, dtype: torch.dtype) -> None:
    channels_at_once = 128 // torch.finfo(dtype).bits
    for wide in {False, case.channels % channels_at_once == 0}:
        for location_dtype in {dtype, torch.promote_types(dtype, torch.float32)}:
            inputs = [tensor.detach() for tensor in random_inputs(case, dtype, location_dtype=location_dtype)]
            exact_inputs = [tensor.double().requires_grad_() for tensor in inputs]
            exact = ms_deform_attn(exact_inputs[0], case.spatial_shapes, *exact_inputs[1:], backend="torch")
            output = run_forward(kernels, case, inputs, wide)
            assert relative_error(output, exact.detach()) <= TOLERANCES[dtype]

            grad_output = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
            expected = torch.autograd.grad(exact, exact_inputs, grad_output.double())
            for deterministic in (False, True):
                gradients = run_backward(kernels, case, inputs, grad_output, wide, deterministic)
                for gradient, other in zip(gradients, expected, strict=True):
                    assert relative_error(gradient, other) <= TOLERANCES[dtype]


# --- compiled and linked --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_extension_compiles_links_and_loads() -> None:
    """What continuous integration does, with no GPU; it builds only what has changed since it last did."""
    environment = {**os.environ, "VENV": sys.prefix}
    check = subprocess.run([ROOT / ".ci/cuda"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout[-5000:] + check.stderr[-5000:]
    if "not compiled here" in check.stdout:
        pytest.skip(check.stdout.strip())
    assert "registers its CUDA kernels" in check.stdout


# --- on a GPU -------------------------------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [*CASES, MANY_LEVELS], ids=range(len(CASES) + 1))
@pytest.mark.parametrize("deterministic", [False, True])
def test_gpu_equals_pytorch(case: Case, dtype: torch.dtype, deterministic: bool) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        errors = differences(case, dtype, device="cuda")
    finally:
        torch.use_deterministic_algorithms(before)
    assert max(errors.values()) <= TOLERANCES[dtype], errors


@needs_gpu
@pytest.mark.gpu
def test_gpu_repeats_itself_when_asked_to() -> None:
    case = Case(batch=2, queries=2000, heads=8)
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(3):
            inputs = random_inputs(case, torch.float32, "cuda")
            output = ms_deform_attn(inputs[0], case.spatial_shapes, *inputs[1:], backend="compiled")
            runs.append(torch.autograd.grad(output.square().sum(), inputs))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


@needs_gpu
@pytest.mark.gpu
def test_gpu_keeps_to_its_stream() -> None:
    case = Case(batch=4, queries=500, heads=8)
    inputs = [tensor.detach() for tensor in random_inputs(case, torch.float32, "cuda")]
    expected = ms_deform_attn(inputs[0], case.spatial_shapes, *inputs[1:], backend="compiled")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        value = torch.zeros_like(inputs[0])
        torch.cuda._sleep(10_000_000)
        value.copy_(inputs[0])  # only a kernel behind it on this stream reads these values
        output = ms_deform_attn(value, case.spatial_shapes, *inputs[1:], backend="compiled")
    stream.synchronize()
    assert torch.equal(output, expected)


@needs_gpu
@pytest.mark.gpu
def test_gpu_ignores_points_that_are_nowhere() -> None:
    case = Case()
    inputs = random_inputs(case, torch.float32, "cuda")
    with torch.no_grad():
        inputs[1][:, ::2] = torch.nan
        inputs[1][:, 1::4] = torch.inf
        inputs[1][:, 3::4] = -1e30
    output = ms_deform_attn(inputs[0], case.spatial_shapes, *inputs[1:], backend="compiled")
    assert not output.any()
    assert not any(gradient.any() for gradient in torch.autograd.grad(output.sum(), inputs))
