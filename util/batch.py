"""What the data loader hands to the model and the criterion.

B clips, T frames, H x W the padded frame size. Padding masks are True on padding; sizes are (h, w).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClipTargets:
    """The referred object in one clip.

    Attributes:
        masks: (T, h, w) bool, at the clip's own size before padding. T is 1 for clips with one annotated frame.
        boxes: (T, 4) cxcywh as shares of the clip's own (w, h); zeros where the object is not visible.
        visible: (T,) bool, whether the object is in the frame.
        labels: (T,) int64, class of the object, 0 for class-agnostic models.
    """

    masks: Tensor
    boxes: Tensor
    visible: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> ClipTargets:
        return ClipTargets(*(getattr(self, f.name).to(device, non_blocking=True) for f in dataclasses.fields(self)))


@dataclass(frozen=True)
class Batch:
    """Clips of one step, padded bottom-right to a common size.

    Attributes:
        frames: (B, T, 3, H, W) float32, RGB normalised with ImageNet's mean and std; zeros on padding.
        padding_mask: (B, T, H, W) bool, True on padding.
        frame_sizes: (B, 2) int64, (h, w) of each clip before padding.
        captions: one per clip.
        targets: one per clip.
        names: one per clip, `<video>/<expression id>`, for messages.
        annotated_frame: (B,) int64, the only frame that goes on after the backbone, or None for all of them.
    """

    frames: Tensor
    padding_mask: Tensor
    frame_sizes: Tensor
    captions: list[str]
    targets: list[ClipTargets]
    names: list[str]
    annotated_frame: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """A copy whose tensors are on `device`."""
        moved: dict[str, Any] = {"targets": [target.to(device) for target in self.targets]}
        for name in ("frames", "padding_mask", "frame_sizes", "annotated_frame"):
            if (value := getattr(self, name)) is not None:
                moved[name] = value.to(device, non_blocking=True)
        return dataclasses.replace(self, **moved)

    def pin_memory(self) -> Batch:
        """Called by a DataLoader with `pin_memory=True`."""
        names = ("frames", "padding_mask", "frame_sizes", "annotated_frame")
        pinned = {name: value.pin_memory() for name in names if (value := getattr(self, name)) is not None}
        return dataclasses.replace(self, **pinned)
