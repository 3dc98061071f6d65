"""A model of a few layers and channels, clips and targets for it: forward and backward take a fraction of a second."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.build import build_model
from models.outputs import LayerOutput
from models.referformer import ReferFormer
from util.batch import ClipTargets
from util.boxes import box_xyxy_to_cxcywh, masks_to_boxes
from util.checkpoint_io import save_checkpoint
from util.config import Config, ModelConfig, TestConfig

CAPTIONS = ["the small red square moving left", "a blue circle", "the large green triangle on the right of the circle"]


def small_config(**changes: Any) -> ModelConfig:
    """Settings of the small model; `changes` are fields of `ModelConfig`."""
    settings: dict[str, Any] = {
        "backbone": "timm/resnet10t",
        "backbone_options": {"channels": [32, 32, 64, 64]},
        "hidden_dim": 32,
        "num_queries": 3,
        "num_heads": 4,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
        "num_points": 2,
        "feedforward_dim": 48,
        "dropout": 0.0,
        "mask_dim": 16,
        "mask_head_channels": 8,
        "text_encoder": "configs/text_encoder_small",
        "text_encoder_pretrained": False,
        "freeze_text_encoder": False,
    }
    return ModelConfig(**(settings | changes))


def small_model(seed: int = 0, **changes: Any) -> ReferFormer:
    """The small model in evaluation mode, with no weight at the zero that some of them start from."""
    torch.manual_seed(seed)
    return disturb(build_model(small_config(**changes)), seed).eval()


def disturb(module: nn.Module, seed: int = 0, scale: float = 0.05) -> Any:
    """Add noise to all parameters in place, so that none is zero and hides what depends on it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return module


def small_clips(sizes: list[tuple[int, int]], num_frames: int = 2, multiple: int = 32, seed: int = 0) -> dict[str, Any]:
    """Clips of the given (h, w), padded together: `frames`, `padding_mask`, `text` and `frame_sizes` of a model."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (-(-max(side) // multiple) * multiple for side in zip(*sizes, strict=True))
    frames = torch.zeros(len(sizes), num_frames, 3, height, width)
    padding_mask = torch.ones(len(sizes), num_frames, height, width, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        frames[i, ..., :h, :w] = torch.randn(num_frames, 3, h, w, generator=generator)
        padding_mask[i, :, :h, :w] = False
    captions = [CAPTIONS[i % len(CAPTIONS)] for i in range(len(sizes))]
    return {"frames": frames, "padding_mask": padding_mask, "text": captions, "frame_sizes": torch.tensor(sizes)}


def select_clips(clips: dict[str, Any], chosen: list[int]) -> dict[str, Any]:
    """The clips of the given indices, in that order."""
    index = torch.tensor(chosen)
    return {
        name: [value[i] for i in chosen] if isinstance(value, list) else value[index] for name, value in clips.items()
    }


def small_targets(
    sizes: list[tuple[int, int]], num_frames: int = 2, invisible: tuple[int, ...] = (), label: int = 0, seed: int = 0
) -> list[ClipTargets]:
    """A random rectangle in each frame of each clip; nothing in the frames that are `invisible`."""
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for h, w in sizes:
        masks = torch.zeros(num_frames, h, w, dtype=torch.bool)
        for t in range(num_frames):
            top, left = (int(torch.randint(0, side // 2, (1,), generator=generator)) for side in (h, w))
            if t not in invisible:
                masks[t, top : top + h // 3, left : left + w // 3] = True
        boxes = box_xyxy_to_cxcywh(masks_to_boxes(masks)) / torch.tensor([w, h, w, h])
        targets.append(ClipTargets(masks, boxes, masks.flatten(1).any(1), torch.full((num_frames,), label)))
    return targets


def assert_outputs_close(actual: LayerOutput, expected: LayerOutput, atol: float = 2e-5) -> None:
    """All fields agree; mask logits to `atol` of their size, since they are sums of many terms."""
    for field in dataclasses.fields(LayerOutput):
        ours, theirs = getattr(actual, field.name), getattr(expected, field.name)
        assert ours.shape == theirs.shape, field.name
        error = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)
        assert error <= atol, f"{field.name} differs by {error:.2e}"


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    """Copies of the gradients of all trainable parameters."""
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_gradients_close(actual: dict[str, Tensor | None], expected: dict[str, Tensor | None], rtol: float) -> None:
    """Each gradient agrees to `rtol` of the largest element of its own, or of a thousandth of the largest of all."""
    assert actual.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values() if g is not None)
    for name, theirs in expected.items():
        ours = actual[name]
        assert (ours is None) == (theirs is None), name
        if theirs is not None:
            error = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3 * largest)
            assert error <= rtol, f"the gradient of {name} differs by {error:.2e}"


def write_small_checkpoint(path: Path, seed: int = 0, **changes: Any) -> Path:
    """A checkpoint of the small model, to be used on frames of about 48 pixels; `changes` as in `small_config`."""
    model = small_model(seed, **changes)
    config = Config(model=small_config(**changes), test=TestConfig(short_side=48, window=4))
    state = {"model": model.state_dict(), "config": config.to_dict(), "extras": model.checkpoint_extras()}
    save_checkpoint(path, state)
    return path
