"""AdamW over parameter groups that patterns define, and its schedule: a pure function of step and epoch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from util.config import OptimConfig

REST = "rest"


@dataclass(frozen=True)
class GroupPattern:
    """Parameters that share a learning rate: those whose name the pattern finds.

    Attributes:
        name: of the group, in logs.
        pattern: regular expression, searched for in a parameter's name.
        lr: learning rate before the schedule.
    """

    name: str
    pattern: str
    lr: float


def split_parameters(model: nn.Module, patterns: Sequence[GroupPattern]) -> dict[str, dict[str, nn.Parameter]]:
    """Trainable parameters by group: each in the one group whose pattern finds its name, the others in `rest`.

    Returns:
        from the groups' names, in the order of `patterns` and `rest` last, to parameters by name; no empty groups.

    Raises:
        ValueError: several patterns find the same parameter, or no parameter trains.
    """
    groups: dict[str, dict[str, nn.Parameter]] = {pattern.name: {} for pattern in patterns}
    groups[REST] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        found = [pattern.name for pattern in patterns if re.search(pattern.pattern, name)]
        if len(found) > 1:
            raise ValueError(f"parameter {name} belongs to several groups: {', '.join(found)}")
        groups[found[0] if found else REST][name] = parameter
    groups = {name: members for name, members in groups.items() if members}
    if not groups:
        raise ValueError("no parameter of the model trains")
    return groups


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the model's trainable parameters; each group also carries its `name` and its `base_lr`."""
    patterns = [
        GroupPattern("backbone", r"^backbone\.", config.backbone_lr),
        GroupPattern("text_encoder", r"^text_encoder\.encoder\.", config.text_encoder_lr),
        GroupPattern("offsets", r"reference_points|sampling_offsets", config.lr * config.offsets_lr_factor),
    ]
    rates = {pattern.name: pattern.lr for pattern in patterns} | {REST: config.lr}
    groups = [
        {"params": list(members.items()), "name": name, "lr": rates[name], "base_lr": rates[name]}
        for name, members in split_parameters(model, patterns).items()
    ]
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the moments of an optimizer's `state_dict`; rates and decay stay those of `optimizer`.

    Raises:
        ValueError: `state` belongs to other parameters or other groups, or a moment does not fit its parameter or is
            not finite; the message lists them.
    """
    current = optimizer.state_dict()
    own, loaded = (
        [(group["name"], name) for group in s["param_groups"] for name in group["param_names"]]
        for s in (current, state)
    )
    if own != loaded:
        differing = sorted({name for _, name in set(own) ^ set(loaded)}) or ["their order"]
        raise ValueError(f"the checkpoint's optimizer trains other parameters, or by other groups: {_some(differing)}")
    _check_moments(optimizer, state["state"], [name for _, name in own])
    optimizer.load_state_dict({"state": state["state"], "param_groups": current["param_groups"]})


def _check_moments(optimizer: torch.optim.Optimizer, moments: dict[int, dict[str, Any]], names: Sequence[str]) -> None:
    """PyTorch takes moments of any shape and any numbers, and fails in the first step or never."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in moments.items():
        for key, value in values.items():
            where = f"the checkpoint's optimizer is damaged: {key} of {names[index]}"
            if key != "step" and value.shape != parameters[index].shape:
                raise ValueError(f"{where} is {tuple(value.shape)}, the parameter {tuple(parameters[index].shape)}")
            if not torch.isfinite(value).all():
                raise ValueError(f"{where} is not finite")


def _some(names: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up by optimizer steps, and drops by epochs.

    Attributes:
        lr_drops: epochs, counted from 0, from which every rate is multiplied by `lr_drop_factor` once more.
        lr_drop_factor: see `lr_drops`.
        warmup_steps: steps over which the rates rise.
    """

    lr_drops: tuple[int, ...]
    lr_drop_factor: float
    warmup_steps: int

    def factor(self, step: int, epoch: int) -> float:
        """What the base rates are multiplied by in optimizer step `step` (from 0) of epoch `epoch` (from 0)."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warmup * self.lr_drop_factor ** sum(epoch >= drop for drop in self.lr_drops)

    def apply(self, optimizer: torch.optim.Optimizer, step: int, epoch: int) -> None:
        """Set the rates that the coming step uses."""
        factor = self.factor(step, epoch)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor


def build_schedule(config: OptimConfig) -> Schedule:
    """The schedule that the configuration describes."""
    return Schedule(config.lr_drops, config.lr_drop_factor, config.warmup_steps)


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The rate of each group by the group's name."""
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups}


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    """Scale the gradients of all groups down to a common norm of `max_norm`; 0 leaves them.

    Returns:
        () the norm before, on the parameters' device; not finite when any gradient is not.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters])
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
