"""Which query is responsible for the referred object (section 3.4, equations 4 and 5).

B clips, T frames, N queries, K classes, h x w the masks (stride 4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.outputs import LayerOutput
from util.boxes import box_cxcywh_to_xyxy, generalized_box_iou


class InstanceMatcher:
    """Matching cost of every query with the clip's object, and the assignment that minimises it.

    Args:
        class_weight, l1_weight, giou_weight, mask_weight, dice_weight: weights of the costs.
        alpha, gamma: of the focal costs.
        boxes: whether boxes have a part in the cost; the class always has.
        masks: whether masks have.
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
        boxes: bool = True,
        masks: bool = True,
    ):
        self.weights = (class_weight, l1_weight * boxes, giou_weight * boxes, mask_weight * masks, dice_weight * masks)
        self.alpha, self.gamma = alpha, gamma

    @torch.no_grad()
    def __call__(self, output: LayerOutput, masks: Tensor, boxes: Tensor, visible: Tensor, labels: Tensor) -> Tensor:
        """Matched query of each clip, (B,) int64.

        Args:
            output: of one decoder layer.
            masks: (B, T, h, w) float, ground truth at stride 4.
            boxes: (B, T, 4) cxcywh.
            visible: (B, T) bool.
            labels: (B, T) int64.
        """
        return assign(self.cost(output, masks, boxes, visible, labels)[..., None])[:, 0]

    @torch.no_grad()
    def cost(self, output: LayerOutput, masks: Tensor, boxes: Tensor, visible: Tensor, labels: Tensor) -> Tensor:
        """(B, N) weighted sum of the five costs; arguments as above."""
        costs = (
            self._class_cost(output.class_logits, visible, labels),
            (output.boxes - boxes[:, :, None]).abs().sum(-1).mean(1),
            -generalized_box_iou(box_cxcywh_to_xyxy(output.boxes), box_cxcywh_to_xyxy(boxes)[:, :, None]).mean(1),
            *self._mask_costs(output.mask_logits, masks),
        )
        return sum(weight * cost for weight, cost in zip(self.weights, costs, strict=True))

    def _class_cost(self, logits: Tensor, visible: Tensor, labels: Tensor) -> Tensor:
        """Focal cost of the object's class, mean over the frames in which it is visible, (B, N)."""
        index = labels[:, :, None, None].expand(-1, -1, logits.shape[2], 1)
        p = logits.sigmoid().gather(-1, index)[..., 0]  # (B, T, N)
        positive = self.alpha * (1 - p) ** self.gamma * -(p + 1e-8).log()
        negative = (1 - self.alpha) * p**self.gamma * -(1 - p + 1e-8).log()
        seen = visible[..., None].to(p.dtype)
        return ((positive - negative) * seen).sum(1) / seen.sum(1).clamp(min=1)

    def _mask_costs(self, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Focal cost, mean over T h w, and DICE cost, each (B, N)."""
        logits = logits.transpose(1, 2).flatten(2)  # (B, N, T h w)
        target = masks.flatten(1)[..., None]  # (B, T h w, 1)
        p = logits.sigmoid()
        positive = self.alpha * (1 - p) ** self.gamma * F.softplus(-logits)
        negative = (1 - self.alpha) * p**self.gamma * F.softplus(logits)
        focal = (negative.sum(-1) + torch.matmul(positive - negative, target)[..., 0]) / logits.shape[-1]
        intersection = torch.matmul(p, target)[..., 0]
        dice = -(2 * intersection + 1) / (p.sum(-1) + target.sum(1) + 1)
        return focal, dice


def assign(cost: Tensor) -> Tensor:
    """One query for each object at the least total cost.

    Args:
        cost: (B, N, M), M objects in each clip, M <= N. With one object, as here, that is an argmin.

    Returns:
        (B, M) int64 query of each object.
    """
    if cost.shape[-1] == 1:
        return cost.argmin(1)
    queries = [torch.as_tensor(linear_sum_assignment(clip.T)[1]) for clip in cost.cpu().numpy()]
    return torch.stack(queries).to(cost.device)
