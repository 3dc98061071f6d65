from __future__ import annotations

import copy

import pytest
import torch

from models.backbones import build_backbone
from models.backbones.resnet import FrozenResNet
from models.build import build_criterion
from models.reference import (
    ReferenceAttention,
    ReferenceFeedForward,
    ReferenceMaskHead,
    ReferencePyramidLevel,
    ReferenceResNet,
    ReferenceWordAttention,
    to_reference,
)
from models.referformer import ReferFormer
from ops.module import MSDeformAttn
from tests.small_model import (
    assert_gradients_close,
    assert_outputs_close,
    disturb,
    gradients,
    small_clips,
    small_model,
    small_targets,
)
from util.config import LossConfig

SIZES = [(64, 96), (50, 73)]


def _reference(model: ReferFormer) -> ReferFormer:
    return to_reference(copy.deepcopy(model))


def test_every_part_is_switched_and_keeps_its_weights() -> None:
    model = small_model()
    reference = _reference(model)
    kinds = {type(m) for m in reference.modules()}
    parts = {ReferenceAttention, ReferenceWordAttention, ReferenceFeedForward, ReferencePyramidLevel, ReferenceMaskHead}
    assert parts <= kinds
    assert not any(base in kinds for part in parts for base in part.__mro__[1:2])
    assert all(m.backend == "torch" for m in reference.modules() if isinstance(m, MSDeformAttn))
    assert not any(type(m) in parts for m in model.modules())
    ours, theirs = model.state_dict(), reference.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize("box_refine", [True, False])
@pytest.mark.parametrize("relative_coordinates", [True, False])
@torch.no_grad()
def test_outputs_agree(box_refine: bool, relative_coordinates: bool) -> None:
    model = small_model(box_refine=box_refine, relative_coordinates=relative_coordinates)
    clips = small_clips(SIZES)
    for ours, theirs in zip(model(**clips), _reference(model)(**clips), strict=True):
        assert_outputs_close(ours, theirs)


@pytest.mark.parametrize("recompute", [False, True])
def test_training_gradients_agree(recompute: bool) -> None:
    model = small_model(activation_checkpointing=recompute).train()
    reference = _reference(model)
    clips, targets = small_clips(SIZES), small_targets(SIZES, invisible=(1,))
    criterion = build_criterion(LossConfig())
    losses = []
    for each in (model, reference):
        each.zero_grad()
        loss = sum(criterion(each(**clips), targets).values())
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[0], losses[1], atol=0, rtol=1e-4)
    assert_gradients_close(gradients(model), gradients(reference), rtol=1e-2)


def test_the_frozen_resnet_agrees() -> None:
    torch.manual_seed(0)
    backbone: FrozenResNet = disturb(build_backbone("resnet50"), scale=0.01).double()
    reference = to_reference(copy.deepcopy(backbone))
    assert isinstance(reference, ReferenceResNet)
    frames = torch.randn(1, 1, 3, 50, 70, dtype=torch.float64)
    ours, theirs = backbone(frames), reference(frames)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-10 * b.abs().max()
    for maps in (ours, theirs):
        maps[-1].square().mean().backward()
    assert_gradients_close(gradients(backbone), gradients(reference), rtol=1e-8)
