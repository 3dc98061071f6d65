import pytest
import torch
import torchvision.ops as tv
from hypothesis import given, settings
from hypothesis import strategies as st

from util.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, generalized_box_iou, masks_to_boxes


def random_boxes(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator)
    return torch.cat((corner, corner + 0.05 + torch.rand(*shape, 2, generator=generator)), -1)


def test_notations_by_hand() -> None:
    xyxy = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    assert box_xyxy_to_cxcywh(xyxy).tolist() == [[20, 40, 20, 40]]
    assert box_cxcywh_to_xyxy(torch.tensor([[20.0, 40.0, 20.0, 40.0]])).tolist() == xyxy.tolist()


def test_notations_undo_each_other_for_any_leading_shape() -> None:
    boxes = random_boxes(2, 3, 5)
    assert torch.allclose(box_cxcywh_to_xyxy(box_xyxy_to_cxcywh(boxes)), boxes, atol=1e-6)


def test_generalized_iou_by_hand() -> None:
    left, right = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([2.0, 0.0, 3.0, 1.0])
    assert generalized_box_iou(left, left).item() == pytest.approx(1)
    assert generalized_box_iou(left, right).item() == pytest.approx(-1 / 3)  # hull 3, union 2


def test_generalized_iou_agrees_with_torchvision_pairs() -> None:
    first, second = random_boxes(7, seed=1), random_boxes(9, seed=2)
    ours = generalized_box_iou(first[:, None], second[None])
    assert torch.allclose(ours, tv.generalized_box_iou(first, second), atol=1e-6)


def test_generalized_iou_of_boxes_without_area_is_finite_with_finite_gradients() -> None:
    point = torch.zeros(3, 4, requires_grad=True)
    other = torch.stack((torch.zeros(4), torch.tensor([0.2, 0.2, 0.4, 0.4]), torch.tensor([0.0, 0.0, 0.0, 0.5])))
    value = generalized_box_iou(point, other)
    value.sum().backward()
    assert value.isfinite().all()
    assert point.grad.isfinite().all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_box_of_a_mask_is_the_extent_of_its_pixels(height: int, width: int, seed: int) -> None:
    masks = torch.rand(4, height, width, generator=torch.Generator().manual_seed(seed)) > 0.9
    for mask, box in zip(masks, masks_to_boxes(masks), strict=True):
        if not mask.any():
            assert box.tolist() == [0, 0, 0, 0]
            continue
        y, x = mask.nonzero().unbind(1)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_box_of_masks_keeps_leading_dimensions() -> None:
    masks = torch.zeros(2, 3, 8, 9, dtype=torch.bool)
    masks[1, 2, 7, 8] = True
    boxes = masks_to_boxes(masks)
    assert boxes.shape == (2, 3, 4)
    assert boxes[1, 2].tolist() == [8, 7, 9, 8]
    assert boxes.sum() == boxes[1, 2].sum()
