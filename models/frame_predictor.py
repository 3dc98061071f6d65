"""From clips with one annotated frame to the masks of all queries in that frame (A2D-Sentences, JHMDB-Sentences).

N queries, H x W the padded frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.baseline import Baseline
from models.mask_head import STRIDE
from models.referformer import ReferFormer
from util.batch import Batch


@dataclass(frozen=True)
class FramePrediction:
    """What each query says about an annotated frame.

    Attributes:
        scores: (N,) reference probability of each query.
        masks: (N, h, w) bool, at the frame's original size.
    """

    scores: Tensor
    masks: Tensor


class FramePredictor:
    """Runs a model on windows of which one frame is asked for.

    The whole window passes the backbone, only the annotated frame goes on. Mask logits grow by 4 bilinearly, are cut to
    the frame without its padding, and the binary mask is brought to the original size by its nearest pixels.

    Args:
        model: a ReferFormer, or the baseline; it is moved to the device and put in evaluation mode.
        threshold: a pixel is in the mask where its probability is above this.
        precision: `float32` or `bfloat16`.
        device: `cpu` or `cuda`.
    """

    def __init__(
        self,
        model: ReferFormer | Baseline,
        *,
        threshold: float = 0.5,
        precision: str = "float32",
        device: torch.device | str = "cpu",
    ):
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.half = precision == "bfloat16"
        self.logit_threshold = torch.logit(torch.tensor(threshold, dtype=torch.float64)).item()

    @torch.inference_mode()
    def predict(self, batch: Batch, original_sizes: list[tuple[int, int]]) -> list[FramePrediction]:
        """Predictions for each clip.

        Args:
            batch: clips with an annotated frame.
            original_sizes: (h, w) of the annotated frames.
        """
        assert batch.annotated_frame is not None
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            output = self.model(
                batch.frames, batch.padding_mask, batch.captions, batch.frame_sizes, batch.annotated_frame
            )[-1]
        scores = output.class_logits[:, 0].float().sigmoid().amax(-1).cpu()  # (B, N)
        logits = output.mask_logits[:, 0].float()  # (B, N, H / 4, W / 4)
        size = [STRIDE * side for side in logits.shape[-2:]]
        masks = F.interpolate(logits, size=size, mode="bilinear", align_corners=False) > self.logit_threshold
        predictions = []
        for clip, (h, w) in enumerate(batch.frame_sizes.tolist()):
            cut = masks[clip : clip + 1, :, :h, :w].float()
            resized = F.interpolate(cut, size=original_sizes[clip], mode="nearest")[0].bool()
            predictions.append(FramePrediction(scores[clip], resized.cpu()))
        return predictions
