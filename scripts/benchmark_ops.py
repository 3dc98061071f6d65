"""Speed of multi-scale deformable attention: plain PyTorch, the compiled kernel, and torch-ms-deform-attn side by side.

    python scripts/benchmark_ops.py
    python scripts/benchmark_ops.py --device cuda --repeats 50

All take turns in one process, so that a busy machine slows all of them alike; times are medians, and the ratio is what
to trust. The package takes part where it can be imported (it need not be installed for anything else):

    pip install --no-build-isolation --no-deps --target /tmp/other torch-ms-deform-attn==0.1.1
    PYTHONPATH=/tmp/other python scripts/benchmark_ops.py

Two rates are printed with their limits, which are measured here too. `read` is what the four corners of all points hold
(and in the backward pass what is added to their gradients), all from caches, against summing up what lies in a cache.
`move` is what has to come from memory and go there at least once, against copying.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ops import library, ms_deform_attn

SHAPES = ((45, 80), (23, 40), (12, 20), (6, 10))  # of a frame of 360 x 640
HEADS, CHANNELS, POINTS = 8, 32, 4
PIXELS_OFF = 2.0  # standard deviation of a point's distance from its reference
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Size:
    """A call's size: N batch items, Lq queries (None: every position of the maps is one)."""

    name: str
    batch: int
    queries: int | None


SIZES = (Size("encoder", 5, None), Size("decoder", 36, 5))


def make_inputs(size: Size, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Value, locations near each query's place, and weights, float32."""
    generator = torch.Generator().manual_seed(0)
    if size.queries is None:
        references = torch.cat([_pixel_centres(height, width) for height, width in SHAPES])
    else:
        references = torch.rand(size.queries, 2, generator=generator)
    sizes_wh = torch.tensor([(width, height) for height, width in SHAPES], dtype=torch.float32)
    shape = (size.batch, len(references), HEADS, len(SHAPES), POINTS)
    offsets = torch.randn(*shape, 2, generator=generator) * PIXELS_OFF / sizes_wh[:, None]
    locations = references[:, None, None, None] + offsets
    weights = torch.rand(*shape[:3], len(SHAPES) * POINTS, generator=generator).softmax(-1).view(shape)
    positions = sum(height * width for height, width in SHAPES)
    value = torch.randn(size.batch, positions, HEADS, CHANNELS, generator=generator)
    return value.to(device), locations.to(device), weights.to(device)


def _pixel_centres(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def contestants(device: torch.device) -> dict[str, Attention]:
    """Whoever can compute on the device."""
    found: dict[str, Attention] = {"torch": _ours("torch")}
    if library.has_kernels(device.type):
        found["compiled"] = _ours("compiled")
    try:
        package = importlib.import_module("torch_ms_deform_attn")
    except ImportError:
        return found
    shapes = torch.tensor(SHAPES, device=device)
    starts = torch.tensor([0, *(height * width for height, width in SHAPES[:-1])], device=device).cumsum(0)
    found["package"] = lambda value, locations, weights: package.ms_deform_attn(
        value, shapes, starts, locations, weights, len(value)
    )
    return found


def _ours(backend: str) -> Attention:
    return lambda value, locations, weights: ms_deform_attn(value, SHAPES, locations, weights, backend=backend)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    del result  # giving memory back is not part of it
    return seconds


def cache_limit(device: torch.device) -> float:
    """GB/s of summing up a megabyte for each thread again and again."""
    numbers = torch.ones(2**18 * torch.get_num_threads(), device=device)
    return numbers.nbytes / min(seconds_of(numbers.sum, device) for _ in range(300)) / 1e9


def memory_limit(device: torch.device) -> float:
    """GB/s of copying 256 MB, counting what is read and what is written."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds_of(lambda: target.copy_(source), device) for _ in range(8)) / 1e9


def bytes_of(inputs: tuple[Tensor, Tensor, Tensor], backward: bool) -> tuple[int, int]:
    """What is read from caches (and added there), and what moves from and to memory at least once."""
    value, _, weights = inputs
    size = value.element_size()
    output = weights[..., 0, 0].numel() * CHANNELS * size
    corners = weights.numel() * 4 * CHANNELS
    read = corners * size
    once = min(value.nbytes, read) + 3 * weights.nbytes  # few queries look at part of the values only
    move = once + output
    if backward:  # all of it again, the gradients, and each gradient's sum read and written
        read += corners * (size + 2 * 4)
        move += once + output + once
    return read, move


def measure(size: Size, dtype: torch.dtype, device: torch.device, repeats: int) -> dict[tuple[str, bool], float]:
    """Median seconds of each contestant, without and with the backward pass."""
    value, locations, weights = make_inputs(size, device)
    times: dict[tuple[str, bool], list[float]] = {}
    for repeat in range(repeats + 1):
        for name, attention in contestants(device).items():
            # The package has no half precision on CPUs: it computes in float32 there, to compare with.
            own_dtype = torch.float32 if name == "package" else dtype
            inputs = [t.clone().requires_grad_() for t in (value.to(own_dtype), locations, weights)]
            grad_output = torch.ones(*locations.shape[:2], HEADS * CHANNELS, dtype=own_dtype, device=device)
            with torch.no_grad():
                forward = seconds_of(lambda a=attention, i=inputs: a(*i), device)
            both = seconds_of(lambda a=attention, i=inputs, g=grad_output: torch.autograd.grad(a(*i), i, g), device)
            if repeat:  # the first one warms up
                times.setdefault((name, False), []).append(forward)
                times.setdefault((name, True), []).append(both)
    return {key: statistics.median(seconds) for key, seconds in times.items()}


def print_table(
    size: Size, dtype: torch.dtype, device: torch.device, repeats: int, limits: tuple[float, float]
) -> None:
    value, locations, weights = make_inputs(size, device)
    inputs = (value.to(dtype), locations, weights)
    print(f"\n{size.name}: N = {size.batch}, Lq = {locations.shape[1]}, {str(dtype).removeprefix('torch.')} values")
    times = measure(size, dtype, device, repeats)
    for backward in (False, True):
        for name in sorted({name for name, _ in times}):
            seconds = times[name, backward]
            line = f"  {'forward + backward' if backward else 'forward':18}  {name:8}  {seconds * 1e3:9.2f} ms"
            for rival in ("torch", "package"):
                if (rival, backward) in times:
                    line += f"  {times[rival, backward] / seconds:6.2f} x {rival}"
            if name == "compiled":
                rates = [count / seconds / 1e9 for count in bytes_of(inputs, backward)]
                for kind, rate, limit in zip(("read", "move"), rates, limits, strict=True):
                    line += f"  {kind} {rate:6.1f} GB/s ({rate / limit:4.0%})"
            print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads on the CPU")
    parser.add_argument("--repeats", type=int, default=7, help="calls of each, of which the median counts")
    parser.add_argument("--sizes", nargs="+", default=[size.name for size in SIZES], help="encoder, decoder")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="of the values")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    limits = (cache_limit(device), memory_limit(device))
    instructions = torch.backends.cpu.get_cpu_capability()
    print(f"PyTorch {torch.__version__}, {device}, {options.threads} CPU threads, {instructions}")
    print(f"limits: cache {limits[0]:.1f} GB/s, memory {limits[1]:.1f} GB/s")
    if "package" not in contestants(device):
        print("torch-ms-deform-attn is not importable: no comparison with it")
    for size in SIZES:
        if size.name in options.sizes:
            for dtype in options.dtypes:
                print_table(size, getattr(torch, dtype), device, options.repeats, limits)


if __name__ == "__main__":
    main()
