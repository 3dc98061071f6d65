"""What a checkpoint has to hold: a file may be whole and yet hold something else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# From each key of a checkpoint of a run to its type; a dict lists the keys within.
_OF_A_RUN: dict[str, Any] = {
    "model": {},
    "config": {"model": {}},
    "optimizer": {"state": {}, "param_groups": list},
    "scheduler": {},
    "step": int,
    "epoch": int,
    "rng": list,
    "sampler": {"batches_done": int, "batches_per_epoch": int},
    "progress": {"means": {"means": {}, "count": int}, "seconds": float, "record": dict | None},
}
RESUME_KEYS = tuple(_OF_A_RUN)
_OF_ANY: dict[str, Any] = {"model": {}, "config": {}, "extras": {}}  # where they are there


def find_fault(state: Mapping[str, Any], resumable: bool) -> str | None:
    """What is wrong with the contents of a checkpoint, in words that follow its name, or None.

    Args:
        state: with `model`, a mapping to tensors.
        resumable: a run is to go on from it, so all its keys are looked at.
    """
    present = {key: kind for key, kind in _OF_ANY.items() if state.get(key) is not None}
    if fault := _structure_fault(state, present | (_OF_A_RUN if resumable else {})):
        return fault
    if resumable and (fault := _position_fault(state)):
        return fault
    return _weights_fault(state["model"])


def differing_keys(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], most: int = 10) -> str | None:
    """How weights differ from those that a module wants, in words that follow a colon, or None.

    Args:
        state: the weights that are there.
        wanted: keys and shapes.
        most: keys that are listed.
    """
    problems = [f"missing {key}" for key in wanted if key not in state]
    problems += [f"left over {key}" for key in state if key not in wanted]
    problems += [
        f"{key} is {tuple(value.shape)}, not {tuple(wanted[key].shape)}"
        for key, value in state.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    if not problems:
        return None
    return f"{len(problems)} keys differ: {'; '.join(problems[:most])}{'; ...' if len(problems) > most else ''}"


def model_digest(weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """SHA-256 of a model as it is in memory, in hexadecimal; how its file was written makes no difference.

    Args:
        weights: of the model.
        settings: that its weights do not tell.
    """
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for name, value in weights.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _structure_fault(values: Any, kinds: Mapping[str, Any], within: str = "") -> str | None:
    for key, kind in kinds.items():
        name = f"{within}{key}"
        if key not in values:
            return f"it has no `{name}`"
        value, is_nested = values[key], isinstance(kind, dict)
        wanted = Mapping if is_nested else kind
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind is int):
            names = "a dict" if is_nested else getattr(kind, "__name__", str(kind))
            return f"its `{name}` is of type {type(value).__name__}, not {names}"
        if is_nested and (fault := _structure_fault(value, kind, f"{name}.")):
            return fault
    return None


def _position_fault(state: Mapping[str, Any]) -> str | None:
    sampler = state["sampler"]
    if state["step"] < 0 or state["epoch"] < 0 or not 0 <= sampler["batches_done"] <= sampler["batches_per_epoch"]:
        done = f"{sampler['batches_done']} of {sampler['batches_per_epoch']} batches"
        return f"its position is impossible: step {state['step']}, epoch {state['epoch']}, {done} done"
    return None


def _weights_fault(weights: Mapping[str, Tensor]) -> str | None:
    if not weights:
        return "its `model` holds no weights"
    bad = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        return f"its weights are not finite numbers: {bad[0]}{more}"
    return None
