from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from util.config import OptimConfig
from util.optim import (
    GroupPattern,
    Schedule,
    build_optimizer,
    build_schedule,
    clip_gradients,
    learning_rates,
    restore_optimizer,
    split_parameters,
)


def _model() -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.backbone[0].requires_grad_(False)  # a stem never trains
    model.text_encoder = nn.ModuleDict({"encoder": nn.Linear(2, 2), "resizer": nn.Linear(2, 2)})
    model.decoder = nn.ModuleDict({"sampling_offsets": nn.Linear(2, 2), "reference_points": nn.Linear(2, 2)})
    model.head = nn.Linear(2, 2)
    return model


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()


def test_each_trainable_parameter_is_in_one_group_at_its_rate() -> None:
    model = _model()
    config = OptimConfig(lr=1.0, backbone_lr=0.5, text_encoder_lr=0.1, offsets_lr_factor=0.25, weight_decay=0.01)
    optimizer = build_optimizer(model, config)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(rates)
    expected = {
        "backbone.1": 0.5,
        "text_encoder.encoder": 0.1,
        "text_encoder.resizer": 1.0,
        "decoder": 0.25,
        "head": 1.0,
    }
    for name, parameter in model.named_parameters():
        prefix = next((p for p in expected if name.startswith(p)), None)
        assert rates.get(id(parameter)) == expected.get(prefix), name
    assert all(group["weight_decay"] == 0.01 for group in optimizer.param_groups)


def test_frozen_parts_have_no_group() -> None:
    model = _model()
    model.text_encoder["encoder"].requires_grad_(False)
    assert set(learning_rates(build_optimizer(model, OptimConfig()))) == {"backbone", "offsets", "rest"}
    with pytest.raises(ValueError, match="no parameter"):
        build_optimizer(model.requires_grad_(False), OptimConfig())


def test_a_parameter_in_two_groups_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"head\.weight.*first, second"):
        split_parameters(_model(), [GroupPattern("first", "head", 1.0), GroupPattern("second", "weight", 1.0)])


@pytest.mark.parametrize(
    ("step", "epoch", "factor"),
    [
        (0, 0, 0.25),
        (1, 0, 0.5),
        (3, 0, 1.0),
        (400, 2, 1.0),
        (500, 3, 0.1),
        (900, 4, 0.1),
        (999, 5, 0.01),
        (0, 5, 0.0025),
    ],
)
def test_schedule(step: int, epoch: int, factor: float) -> None:
    schedule = build_schedule(OptimConfig(lr_drops=(3, 5), warmup_steps=4))
    assert math.isclose(schedule.factor(step, epoch), factor)


def test_schedule_agrees_with_multi_step_lr() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([parameter], lr=0.3)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(reference, [2, 3, 6])
    optimizer = build_optimizer(_model(), OptimConfig(lr=0.3))
    schedule = Schedule((2, 3, 6), 0.1, 0)
    for epoch in range(8):
        schedule.apply(optimizer, 100 * epoch, epoch)
        assert math.isclose(learning_rates(optimizer)["rest"], scheduler.get_last_lr()[0])
        reference.step()
        scheduler.step()


def test_restored_moments_with_current_rates() -> None:
    model = _model()
    optimizer = build_optimizer(model, OptimConfig(lr=1.0, weight_decay=0.5))
    _step(model, optimizer)
    other = build_optimizer(model, OptimConfig(lr=0.125, weight_decay=0.25))
    restore_optimizer(other, optimizer.state_dict())
    for group, restored in zip(optimizer.param_groups, other.param_groups, strict=True):
        assert restored["weight_decay"] == 0.25
        for parameter in group["params"]:
            assert torch.equal(optimizer.state[parameter]["exp_avg"], other.state[parameter]["exp_avg"])
            assert other.state[parameter]["step"] == 1
    assert learning_rates(other)["rest"] == 0.125


def test_state_of_other_parameters_is_refused() -> None:
    model = _model()
    frozen = _model()
    frozen.head.bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"head\.bias$"):
        restore_optimizer(build_optimizer(model, OptimConfig()), build_optimizer(frozen, OptimConfig()).state_dict())
    frozen.head.requires_grad_(False)
    with pytest.raises(ValueError, match=r"head\.bias, head\.weight"):
        restore_optimizer(build_optimizer(model, OptimConfig()), build_optimizer(frozen, OptimConfig()).state_dict())


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (torch.zeros(7), r"exp_avg of .* is \(7,\), the parameter \("),
        (None, "exp_avg of .* is not finite"),
    ],
)
def test_damaged_moments_are_refused(moment: torch.Tensor | None, words: str) -> None:
    model = _model()
    optimizer = build_optimizer(model, OptimConfig())
    _step(model, optimizer)
    state = copy.deepcopy(optimizer.state_dict())
    values = state["state"][1]
    values["exp_avg"] = values["exp_avg"] * torch.nan if moment is None else moment
    with pytest.raises(ValueError, match=words):
        restore_optimizer(optimizer, state)


@pytest.mark.parametrize(("max_norm", "expected"), [(0.0, 5.0), (1.0, 1.0), (10.0, 5.0)])
def test_gradients_are_clipped_over_all_groups(max_norm: float, expected: float) -> None:
    model = _model()
    optimizer = build_optimizer(model, OptimConfig())
    model.head.bias.grad = torch.tensor([3.0, 0.0])
    model.text_encoder["encoder"].bias.grad = torch.tensor([0.0, 4.0])
    assert math.isclose(clip_gradients(optimizer, max_norm).item(), 5.0, rel_tol=1e-6)
    gradients = torch.cat([model.head.bias.grad, model.text_encoder["encoder"].bias.grad])
    assert math.isclose(gradients.norm().item(), expected, rel_tol=1e-5)


def test_norm_shows_gradients_that_are_not_finite() -> None:
    model = _model()
    model.head.bias.grad = torch.tensor([3.0, math.nan])
    assert not clip_gradients(build_optimizer(model, OptimConfig()), 1.0).isfinite()
