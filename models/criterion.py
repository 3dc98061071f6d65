"""The losses (section 3.4 of the paper).

B clips, T frames, N queries, K classes, L decoder layers, h x w the masks (stride 4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mask_head import STRIDE
from models.matcher import InstanceMatcher
from models.outputs import LayerOutput
from util.batch import ClipTargets
from util.boxes import box_cxcywh_to_xyxy, generalized_box_iou
from util.distributed import all_reduce_mean


class Criterion(nn.Module):
    """Weighted losses of every decoder layer, each with a matching of its own.

    Args:
        class_weight, l1_weight, giou_weight, mask_weight, dice_weight: weights of losses and matching costs.
        alpha, gamma: of the focal losses.
        aux_loss: supervise every layer, not only the last.
        match_boxes, match_masks: whether boxes, masks have a part in the matching cost.
    """

    def __init__(
        self,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        mask_weight: float = 2.0,
        dice_weight: float = 5.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        aux_loss: bool = True,
        match_boxes: bool = True,
        match_masks: bool = True,
    ):
        super().__init__()
        self.weights = {
            "class": class_weight,
            "l1": l1_weight,
            "giou": giou_weight,
            "mask": mask_weight,
            "dice": dice_weight,
        }
        self.alpha, self.gamma, self.aux_loss = alpha, gamma, aux_loss
        weights = (class_weight, l1_weight, giou_weight, mask_weight, dice_weight)
        self.matcher = InstanceMatcher(*weights, alpha, gamma, boxes=match_boxes, masks=match_masks)

    def forward(self, outputs: list[LayerOutput], targets: list[ClipTargets]) -> dict[str, Tensor]:
        """Weighted losses; their sum is the loss to minimise.

        Returns:
            `class`, `l1`, `giou`, `mask`, `dice` of the last layer, and the same with `_0`, `_1`, ... behind them of
            the earlier layers.
        """
        height, width = outputs[-1].mask_logits.shape[-2:]
        masks = torch.stack([mask_target(target.masks, height, width) for target in targets])
        boxes = torch.stack([target.boxes for target in targets])
        visible = torch.stack([target.visible for target in targets]).bool()
        labels = torch.stack([target.labels for target in targets])
        num_boxes = all_reduce_mean(visible.sum().float()).clamp(min=1)

        losses = {}
        layers = enumerate(outputs) if self.aux_loss else [(len(outputs) - 1, outputs[-1])]
        for i, output in layers:
            suffix = "" if i == len(outputs) - 1 else f"_{i}"
            matched = self.matcher(output, masks, boxes, visible, labels)
            for name, value in self.layer_losses(output, matched, masks, boxes, visible, labels).items():
                losses[name + suffix] = self.weights[name] * value / num_boxes
        return losses

    def layer_losses(
        self, output: LayerOutput, matched: Tensor, masks: Tensor, boxes: Tensor, visible: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Unweighted losses of one layer, before the division by the number of visible boxes.

        A clip without its object has the class loss alone: all its queries are background, and none is to be given a
        box or a mask.

        Args:
            output: of the layer.
            matched: (B,) query of each clip's object.
            masks: (B, T, h, w) float; boxes (B, T, 4) cxcywh; visible (B, T) bool; labels (B, T).
        """
        clips = torch.arange(len(matched), device=matched.device)
        logits = output.class_logits.float()
        positive = torch.zeros_like(logits)
        one_hot = F.one_hot(labels, logits.shape[-1]).to(logits.dtype) * visible[..., None]  # (B, T, K)
        positive[clips, :, matched] = one_hot
        present = visible.any(1).to(logits.dtype)  # (B,)
        predicted_boxes = output.boxes[clips, :, matched].float()  # (B, T, 4)
        predicted_masks = output.mask_logits[clips, :, matched].float().flatten(1)  # (B, T h w)
        target = masks.flatten(1)
        probability = predicted_masks.sigmoid()
        intersection = (probability * target).sum(1)
        giou = generalized_box_iou(box_cxcywh_to_xyxy(predicted_boxes), box_cxcywh_to_xyxy(boxes))
        return {
            "class": focal_loss(logits, positive, self.alpha, self.gamma).sum(),
            "l1": ((predicted_boxes - boxes).abs().sum((1, 2)) * present).sum(),
            "giou": ((1 - giou).sum(1) * present).sum(),
            "mask": (focal_loss(predicted_masks, target, self.alpha, self.gamma).mean(1) * present).sum(),
            "dice": ((1 - (2 * intersection + 1) / (probability.sum(1) + target.sum(1) + 1)) * present).sum(),
        }


def focal_loss(logits: Tensor, target: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss of each element: alpha_t (1 - p_t)^gamma cross-entropy (Lin et al., ICCV 2017, eq. 5)."""
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_t = p * target + (1 - p) * (1 - target)
    alpha_t = alpha * target + (1 - alpha) * (1 - target)
    return alpha_t * (1 - p_t) ** gamma * cross_entropy


def mask_target(masks: Tensor, height: int, width: int) -> Tensor:
    """Ground truth at the size of the mask logits: zero-padded, then every fourth pixel from index 2.

    Args:
        masks: (T, H, W) bool at the clip's own size.
        height, width: of the mask logits.

    Returns:
        (T, height, width) float32.
    """
    h, w = masks.shape[-2:]
    padded = F.pad(masks.float(), (0, STRIDE * width - w, 0, STRIDE * height - h))
    return padded[..., STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
