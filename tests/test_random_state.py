from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from util.checkpoint_io import read_tensors, save_checkpoint
from util.random_state import get_random_state, preserved_random_state, seed_everything, set_random_state


def _draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item()]


def test_a_seed_repeats_and_another_differs() -> None:
    seed_everything(3)
    first = _draw()
    seed_everything(3)
    assert _draw() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(_draw(), first, strict=True))


def test_state_survives_a_file(tmp_path: Path) -> None:
    seed_everything(5)
    _draw()  # leaves half a pair of normal numbers cached
    save_checkpoint(tmp_path / "state.pth", {"rng": get_random_state()})
    expected = [_draw(), _draw()]
    seed_everything(6)
    set_random_state(read_tensors(tmp_path / "state.pth")["rng"])
    assert [_draw(), _draw()] == expected


def test_preserved_state_leaves_no_trace() -> None:
    seed_everything(7)
    expected = _draw()
    seed_everything(7)
    with preserved_random_state():
        _draw()
    assert _draw() == expected
