"""What a model costs: parameters of its parts, operations, memory and time of a clip.

T frames of a clip, h x w a frame.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.predictor import Predictor
from util.memory import PeakMemory

CAPTION = "a person on the left riding a brown horse"


@dataclass(frozen=True)
class Part:
    """Parameters of a part of the model: those that training changes, and those that it keeps."""

    name: str
    trained: int
    frozen: int


@dataclass(frozen=True)
class ClipCost:
    """Of one sentence about one clip, from its frames to its masks.

    Attributes:
        seconds: median of the repeats.
        gflop: 1e9 floating point operations of matrix products and convolutions (a multiply-add is two).
        peak_gb: memory above the loaded model, in 1e9 bytes.
    """

    seconds: float
    gflop: float
    peak_gb: float


def count_parameters(model: nn.Module) -> list[Part]:
    """Of every part of a model, and of the whole. What two parts share is counted once."""
    parts, seen = [], set()
    for name, child in model.named_children():
        own = [p for p in child.parameters() if id(p) not in seen]
        seen |= {id(p) for p in own}
        trained = sum(p.numel() for p in own if p.requires_grad)
        parts.append(Part(name, trained, sum(p.numel() for p in own) - trained))
    return [*parts, Part("all", sum(part.trained for part in parts), sum(part.frozen for part in parts))]


def measure_clip(
    predictor: Predictor, num_frames: int, size: tuple[int, int], repeats: int = 3, caption: str = CAPTION
) -> ClipCost:
    """Run a clip of noise through a predictor.

    Args:
        predictor: its short side should be that of `size`, so that nothing is resized.
        num_frames: T.
        size: (h, w).
        repeats: timed runs, after two that are not: one counts operations, one memory.
        caption: the sentence.
    """
    frames = torch.randint(
        0, 256, (num_frames, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with PeakMemory(predictor.device) as memory:
        _run(predictor, frames, caption)
    # The counter's hooks ask weights that want gradients for their graph, and inference has none.
    with _without_gradients(predictor.model), FlopCounterMode(display=False) as counter:
        _run(predictor, frames, caption)
    seconds = [_run(predictor, frames, caption) for _ in range(repeats)]
    return ClipCost(statistics.median(seconds), counter.get_total_flops() / 1e9, memory.gb)


@contextlib.contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    trained = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _run(predictor: Predictor, frames: torch.Tensor, caption: str) -> float:
    """Seconds of one clip; the masks arrive on the CPU, so a GPU has finished."""
    start = time.perf_counter()
    predictor.predict(predictor.encode(frames), [caption])
    return time.perf_counter() - start
