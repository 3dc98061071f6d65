"""Random states of Python, NumPy and PyTorch: seeded per process, saved, restored."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def get_random_state(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The random states of this process and of its GPU, as tensors and plain containers."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if torch.device(device).type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device | str = "cpu") -> None:
    """Put back what `get_random_state` returned; a state without a GPU leaves the GPU's alone."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if torch.device(device).type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


@contextlib.contextmanager
def preserved_random_state(device: torch.device | str = "cpu") -> Iterator[None]:
    """Whatever draws random numbers inside leaves no trace afterwards."""
    state = get_random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)
