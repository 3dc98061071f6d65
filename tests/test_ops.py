"""Multi-scale deformable attention: every backend against the definition, and as an operator PyTorch can work with."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ops import dispatch, library, ms_deform_attn
from ops.selftest import CASES, TOLERANCES, Case, differences, random_inputs, relative_error

ROOT = Path(__file__).resolve().parent.parent
needs_kernels = pytest.mark.skipif(not library.has_kernels("cpu"), reason=f"compiled kernels: {library.LOAD_FAILURE}")
BACKENDS = ["torch", pytest.param("compiled", marks=needs_kernels)]
DTYPES = list(TOLERANCES)
HALF_DTYPES = [torch.float16, torch.bfloat16]


def by_the_definition(value: Tensor, spatial_shapes: list, locations: Tensor, weights: Tensor) -> list:
    """Nested loops over (N, Lq, heads, levels, points) and the four corners, for one channel; plain numbers."""
    batch, queries, heads = weights.shape[:3]
    output = [[[0.0] * heads for _ in range(queries)] for _ in range(batch)]
    for n, q, m, l, p in torch.cartesian_prod(*map(torch.arange, weights.shape)).tolist():
        height, width = spatial_shapes[l]
        start = sum(h * w for h, w in spatial_shapes[:l])
        x = locations[n, q, m, l, p, 0].item() * width - 0.5
        y = locations[n, q, m, l, p, 1].item() * height - 0.5
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                    pixel = value[n, start + row * width + column, m, 0].item()
                    output[n][q][m] += weights[n, q, m, l, p].item() * share * pixel
    return output


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_the_definition(backend: str) -> None:
    case = Case(queries=3, heads=2, channels=1, points=2, spatial_shapes=[(3, 5), (1, 2)])
    inputs = [tensor.detach() for tensor in random_inputs(case, torch.float64)]
    output = ms_deform_attn(inputs[0], case.spatial_shapes, *inputs[1:], backend=backend)
    expected = torch.tensor(by_the_definition(inputs[0], case.spatial_shapes, *inputs[1:]), dtype=torch.float64)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pixel_centre_gives_the_pixel(backend: str) -> None:
    value = torch.arange(6.0).view(1, 6, 1, 1)  # a map of 2 x 3
    locations = torch.tensor([[0.5 / 3, 0.25], [2.5 / 3, 0.75], [-0.5, 0.5]]).view(1, 3, 1, 1, 1, 2)
    output = ms_deform_attn(value, [(2, 3)], locations, torch.ones(1, 3, 1, 1, 1), backend=backend)
    torch.testing.assert_close(output.flatten(), torch.tensor([0.0, 5.0, 0.0]))


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_kernels_equal_pytorch(case: Case, dtype: torch.dtype) -> None:
    for name, error in differences(case, dtype).items():
        assert error <= TOLERANCES[dtype], f"{name} is off by {error}"


@needs_kernels
@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_half_precision_values_take_float32_locations(dtype: torch.dtype) -> None:
    errors = differences(Case(), dtype, location_dtype=torch.float32)
    assert errors["output"] <= TOLERANCES[dtype] and errors["grad_value"] <= TOLERANCES[dtype]
    assert errors["grad_locations"] <= 1e-5 and errors["grad_weights"] <= 1e-5  # not rounded to the value's type


@needs_kernels
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    case=st.builds(
        Case,
        batch=st.integers(0, 3),
        queries=st.integers(0, 40),
        heads=st.integers(1, 5),
        channels=st.integers(1, 70),
        points=st.integers(1, 9),
        spatial_shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5),
    ),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_kernels_equal_pytorch_at_any_size(case: Case, dtype: torch.dtype, seed: int) -> None:
    for name, error in differences(case, dtype, seed=seed).items():
        # Few-pixel maps leave bfloat16 locations too coarse to say which cell a point is in.
        if dtype != torch.bfloat16 or name in ("output", "grad_value"):
            assert error <= 2 * TOLERANCES[dtype], f"{name} is off by {error}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [3, 8])
def test_gradients_are_those_of_the_output(backend: str, channels: int) -> None:
    case = Case(batch=2, queries=3, heads=2, channels=channels, points=2, spatial_shapes=[(3, 4), (2, 2)])
    inputs = random_inputs(case, torch.float64)
    assert torch.autograd.gradcheck(
        lambda value, locations, weights: ms_deform_attn(
            value, case.spatial_shapes, locations, weights, backend=backend
        ),
        inputs,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("place", [math.nan, math.inf, -math.inf, 1e30, -1e30, 3e9, -1e5])
def test_points_off_the_maps_count_for_nothing(backend: str, place: float) -> None:
    case = Case(batch=1, queries=5, heads=2, channels=8)
    value, locations, weights = (tensor.detach() for tensor in random_inputs(case, torch.float32))
    lost = torch.rand(weights.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    x_or_y = torch.randint(2, lost.shape, generator=torch.Generator().manual_seed(1))[..., None]
    moved = torch.where(lost[..., None], locations.scatter(-1, x_or_y, place), locations)
    inputs = [tensor.requires_grad_() for tensor in (value, moved, weights)]
    output = ms_deform_attn(inputs[0], case.spatial_shapes, *inputs[1:], backend=backend)
    without = ms_deform_attn(
        value.detach(), case.spatial_shapes, locations, weights.detach().masked_fill(lost, 0), backend=backend
    )
    torch.testing.assert_close(output.detach(), without)
    gradients = torch.autograd.grad(output.sum(), inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[1][lost].any() and not gradients[2][lost].any()


@needs_kernels
def test_pixels_beside_a_point_do_not_leak_in() -> None:
    """A corner outside the map must not read some other pixel, whatever its weight: 0 times infinity is not 0."""
    value = torch.full((1, 4, 1, 32), math.inf)
    value[0, 3] = 1.0
    locations = torch.full((1, 1, 1, 1, 1, 2), 1.05)  # beyond the last pixel of a map of 2 x 2
    output = ms_deform_attn(value, [(2, 2)], locations, torch.ones(1, 1, 1, 1, 1), backend="compiled")
    torch.testing.assert_close(output, torch.full((1, 1, 32), 0.4**2))


@needs_kernels
def test_few_queries_on_large_maps_have_gradients_only_where_they_look() -> None:
    case = Case(batch=2, queries=2, heads=8, spatial_shapes=((90, 160), (45, 80)))  # gradient in pages of zeros
    errors = differences(case, torch.float32)
    assert max(errors.values()) <= 1e-5


@needs_kernels
def test_gradients_do_not_share_memory_that_is_used_again() -> None:
    """A large gradient that nobody holds any longer gives its memory to the next one, whatever was written there."""
    case = Case(batch=2, queries=2, heads=8, spatial_shapes=((90, 160), (45, 80)))

    def gradient(seed: int, backend: str = "compiled") -> Tensor:
        inputs = random_inputs(case, torch.float32, seed=seed)
        output = ms_deform_attn(inputs[0], case.spatial_shapes, *inputs[1:], backend=backend)
        return torch.autograd.grad(output.sum(), inputs[0])[0]

    expected = [gradient(seed, "torch") for seed in range(3)]
    first, second = gradient(0), gradient(1)
    assert first.data_ptr() != second.data_ptr()
    torch.testing.assert_close(first, expected[0])
    address = second.data_ptr()
    second.fill_(math.nan)
    del second
    third = gradient(2)
    torch.testing.assert_close(third, expected[2])
    torch.testing.assert_close(first, expected[0])
    if sys.platform == "linux":
        assert third.data_ptr() == address


@needs_kernels
def test_any_memory_layout() -> None:
    case = Case()
    inputs = [tensor.detach() for tensor in random_inputs(case, torch.float32)]
    strided = [torch.stack([tensor, tensor], dim=-1)[..., 0] for tensor in inputs]
    strided[0] = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)
    assert not any(tensor.is_contiguous() for tensor in strided)
    results = []
    for leaves in (inputs, strided):
        value, locations, weights = (leaf.requires_grad_() for leaf in leaves)
        output = ms_deform_attn(value, case.spatial_shapes, locations, weights, backend="compiled")
        grad_output = torch.ones(1).expand(output.shape)  # no memory of its own
        results.append([output, *torch.autograd.grad(output, leaves, grad_output)])
    for plain, other in zip(*results, strict=True):
        assert torch.equal(plain, other)


@needs_kernels
def test_threads_change_nothing() -> None:
    case = Case(batch=1, queries=300, heads=2)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 7):  # 7 is more than there are heads, so levels are shared out
            torch.set_num_threads(threads)
            inputs = random_inputs(case, torch.float32)
            output = ms_deform_attn(inputs[0], case.spatial_shapes, *inputs[1:], backend="compiled")
            results.append([output, *torch.autograd.grad(output.square().sum(), inputs)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_kernels
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_every_instruction_set(capability: str) -> None:
    """In a process of its own, since PyTorch looks at the variable once; it lowers what the processor has."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-m", "ops"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "self-test: passed on cpu" in run.stdout


# --- as an operator -------------------------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_operator_is_registered_as_pytorch_wants_it(dtype: torch.dtype) -> None:
    case = Case(queries=3, heads=2, channels=8, points=2)
    value, locations, weights = random_inputs(case, dtype)
    sizes = [size for shape in case.spatial_shapes for size in shape]
    torch.library.opcheck(torch.ops.ms_deform_attn.forward, (value, sizes, locations, weights))
    grad_output = torch.randn(2, 3, 16).to(dtype)
    detached = [tensor.detach() for tensor in (value, locations, weights)]
    torch.library.opcheck(torch.ops.ms_deform_attn.backward, (grad_output, detached[0], sizes, *detached[1:]))


class Attention(torch.nn.Module):
    """The function as a module whose maps are always the same."""

    def __init__(self, case: Case, backend: str) -> None:
        super().__init__()
        self.case, self.backend = case, backend

    def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, self.case.spatial_shapes, locations, weights, backend=self.backend) * 2


def results_of(function: torch.nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    output = function(*inputs)
    return [output, *torch.autograd.grad(output.square().sum(), inputs)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(backend: str, dynamic: bool) -> None:
    torch.compiler.reset()
    case = Case(queries=7, heads=2, channels=8)
    attention = Attention(case, backend)
    compiled = torch.compile(attention, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for queries in (7, 9):
        inputs = random_inputs(dataclasses.replace(case, queries=queries), torch.float32)
        for result, expected in zip(results_of(compiled, inputs), results_of(attention, inputs), strict=True):
            torch.testing.assert_close(result, expected)


@needs_kernels
def test_exports_with_any_number_of_queries() -> None:
    case = Case(queries=7, heads=2, channels=8)
    attention = Attention(case, "compiled")
    queries = torch.export.Dim("queries", min=2, max=100)
    inputs = tuple(tensor.detach() for tensor in random_inputs(case, torch.float32))
    shapes = {"value": None, "locations": {1: queries}, "weights": {1: queries}}
    program = torch.export.export(attention, inputs, dynamic_shapes=shapes)
    assert "ms_deform_attn.forward" in str(program.graph)
    more = random_inputs(dataclasses.replace(case, queries=11), torch.float32)
    torch.testing.assert_close(program.module()(*more), attention(*more))


@needs_kernels
def test_activation_checkpointing_gives_the_same_gradients() -> None:
    case = Case(queries=7, heads=2, channels=8)
    attention = Attention(case, "compiled")
    inputs = random_inputs(case, torch.float32)
    output = checkpoint(attention, *inputs, use_reentrant=False)
    gradients = torch.autograd.grad(output.square().sum(), inputs)
    for gradient, expected in zip(gradients, results_of(attention, inputs)[1:], strict=True):
        assert torch.equal(gradient, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_halves_the_values_and_keeps_the_places(backend: str) -> None:
    case = Case()
    inputs = random_inputs(case, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = ms_deform_attn(inputs[0], case.spatial_shapes, *inputs[1:], backend=backend)
        rough_places = ms_deform_attn(
            inputs[0], case.spatial_shapes, *(tensor.bfloat16() for tensor in inputs[1:]), backend=backend
        )
    assert output.dtype == rough_places.dtype == torch.bfloat16
    gradients = torch.autograd.grad(output.float().sum(), inputs)
    assert [gradient.dtype for gradient in gradients] == [torch.float32] * 3
    half = ms_deform_attn(inputs[0].bfloat16(), case.spatial_shapes, *inputs[1:], backend="torch")
    torch.testing.assert_close(output, half, rtol=2**-7, atol=2**-7)


@needs_kernels
def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    case = Case(queries=3, heads=1, channels=8)
    value, locations, weights = random_inputs(case, torch.float64)
    output = ms_deform_attn(value, case.spatial_shapes, locations, weights, backend="compiled")
    (gradient,) = torch.autograd.grad(output.square().sum(), value, create_graph=True)
    with pytest.raises(NotImplementedError, match='backend="torch"'):
        gradient.sum().backward()


# --- the choice -----------------------------------------------------------------------------------------------------


def test_wrong_shapes_are_named() -> None:
    case = Case(queries=3)
    value, locations, weights = random_inputs(case, torch.float32)
    shapes = case.spatial_shapes
    with pytest.raises(ValueError, match="value has shape"):
        ms_deform_attn(value[0], shapes, locations, weights)
    with pytest.raises(ValueError, match="sampling_locations has shape"):
        ms_deform_attn(value, shapes, locations[:, :, :, :1], weights)
    with pytest.raises(ValueError, match="attention_weights has shape"):
        ms_deform_attn(value, shapes, locations, weights[..., :1])
    with pytest.raises(ValueError, match="hold 165 positions"):
        ms_deform_attn(value, [(9, 14), (5, 7), (2, 2)], locations, weights)
    with pytest.raises(ValueError, match="backend is 'cuda'"):
        ms_deform_attn(value, shapes, locations, weights, backend="cuda")


@needs_kernels
def test_the_operator_checks_what_it_is_given_itself() -> None:
    case = Case(queries=3, heads=2, channels=8)
    value, locations, weights = (tensor.detach() for tensor in random_inputs(case, torch.float32))
    sizes = [size for shape in case.spatial_shapes for size in shape]
    forward = torch.ops.ms_deform_attn.forward
    with pytest.raises(ValueError, match="positions"):
        forward(value[:, 1:], sizes, locations, weights)
    with pytest.raises(ValueError, match="sampling_locations has shape"):
        forward(value, sizes, locations[:1], weights)
    with pytest.raises(ValueError, match="expected one type"):
        forward(value, sizes, locations.double(), weights.double())
    with pytest.raises(ValueError, match="pixels are possible"):
        forward(value, [2**31, 1], locations, weights)
    with pytest.raises(ValueError, match="grad_output"):
        torch.ops.ms_deform_attn.backward(torch.zeros(2, 3, 8), value, sizes, locations, weights)


@pytest.mark.parametrize("location_dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_other_location_types_are_converted(backend: str, location_dtype: torch.dtype) -> None:
    case = Case()
    value, locations, weights = random_inputs(case, torch.float32, location_dtype=location_dtype)
    output = ms_deform_attn(value, case.spatial_shapes, locations, weights, backend=backend)
    expected = ms_deform_attn(
        value.double(), case.spatial_shapes, locations.double(), weights.double(), backend="torch"
    )
    assert output.dtype == torch.float32
    assert relative_error(output.detach(), expected.detach()) < 1e-5


def test_the_environment_says_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "torch")
    assert dispatch.choose_backend("cpu") == "torch"
    monkeypatch.setattr(library, "has_kernels", lambda device: True)
    assert dispatch.choose_backend("cpu", "compiled") == "compiled"  # an argument counts for more
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "fast")
    with pytest.raises(ValueError, match=f"{dispatch.BACKEND_VARIABLE} is 'fast'"):
        dispatch.choose_backend("cpu")


def test_a_missing_build_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv(dispatch.BACKEND_VARIABLE, raising=False)
    monkeypatch.setattr(library, "has_kernels", lambda device: False)
    monkeypatch.setattr(library, "LOAD_FAILURE", "they are not built")
    dispatch._warn_once.cache_clear()
    assert [dispatch.choose_backend("cpu") for _ in range(3)] == ["torch"] * 3
    assert len(caplog.records) == 1
    assert "they are not built" in caplog.text and "ops/setup.py" in caplog.text
    with pytest.raises(RuntimeError, match=r"ops/setup\.py"):
        dispatch.choose_backend("cpu", "compiled")
    dispatch._warn_once.cache_clear()
