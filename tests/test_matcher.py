from __future__ import annotations

import itertools
import math

import pytest
import torch

from models.criterion import Criterion
from models.matcher import InstanceMatcher, assign
from models.outputs import LayerOutput

WEIGHTS = {"class_weight": 2.0, "l1_weight": 5.0, "giou_weight": 2.0, "mask_weight": 2.0, "dice_weight": 5.0}


def giou(a: list[float], b: list[float]) -> float:
    """Generalised IoU of two cxcywh boxes (Rezatofighi et al. 2019, algorithm 1)."""
    ax, ay, bx, by = ([c - s / 2, c + s / 2] for c, s in ((a[0], a[2]), (a[1], a[3]), (b[0], b[2]), (b[1], b[3])))
    inter = max(0, min(ax[1], bx[1]) - max(ax[0], bx[0])) * max(0, min(ay[1], by[1]) - max(ay[0], by[0]))
    union = a[2] * a[3] + b[2] * b[3] - inter
    hull = (max(ax[1], bx[1]) - min(ax[0], bx[0])) * (max(ay[1], by[1]) - min(ay[0], by[0]))
    return (inter / union if union else 0) - ((hull - union) / hull if hull else 0)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _cost(output: LayerOutput, masks, boxes, visible, labels, b: int, n: int) -> dict[str, float]:
    """The five costs of a query with plain loops."""
    num_frames, height, width = masks.shape[1:]
    class_cost, seen, l1, overlap = 0.0, 0, 0.0, 0.0
    for t in range(num_frames):
        if visible[b, t]:
            p = _sigmoid(float(output.class_logits[b, t, n, labels[b, t]]))
            class_cost += 0.25 * (1 - p) ** 2 * -math.log(p + 1e-8) - 0.75 * p**2 * -math.log(1 - p + 1e-8)
            seen += 1
        box, target = output.boxes[b, t, n].tolist(), boxes[b, t].tolist()
        l1 += sum(abs(u - v) for u, v in zip(box, target, strict=True))
        overlap += giou(box, target)
    focal, intersection, sum_p, sum_target = 0.0, 0.0, 0.0, 0.0
    for t, y, x in itertools.product(range(num_frames), range(height), range(width)):
        p, g = _sigmoid(float(output.mask_logits[b, t, n, y, x])), float(masks[b, t, y, x])
        focal += 0.25 * (1 - p) ** 2 * -math.log(p) if g else 0.75 * p**2 * -math.log(1 - p)
        intersection, sum_p, sum_target = intersection + p * g, sum_p + p, sum_target + g
    return {
        "class_weight": class_cost / max(seen, 1),
        "l1_weight": l1 / num_frames,
        "giou_weight": -overlap / num_frames,
        "mask_weight": focal / (num_frames * height * width),
        "dice_weight": -(2 * intersection + 1) / (sum_p + sum_target + 1),
    }


def _random_case(num_classes: int, seed: int = 0, num_clips: int = 3) -> tuple[LayerOutput, tuple[torch.Tensor, ...]]:
    """Three clips of three frames and four queries. The object is absent from a frame of the second, and from all of
    the third."""
    g = torch.Generator().manual_seed(seed)
    b, t, n, h, w = num_clips, 3, 4, 4, 5
    output = LayerOutput(
        class_logits=torch.randn(b, t, n, num_classes, generator=g) * 2,
        boxes=torch.rand(b, t, n, 4, generator=g) * 0.5 + 0.1,
        mask_logits=torch.randn(b, t, n, h, w, generator=g) * 3,
        reference_points=torch.rand(b, t, n, 2, generator=g),
    )
    visible = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])[:b]
    masks = (torch.rand(b, t, h, w, generator=g) > 0.6) & visible[..., None, None]
    boxes = (torch.rand(b, t, 4, generator=g) * 0.5 + 0.1) * visible[..., None]
    labels = torch.randint(0, num_classes, (b, 1), generator=g).expand(b, t)
    return output, (masks.float(), boxes, visible, labels)


@pytest.mark.parametrize("num_classes", [1, 5])
@pytest.mark.parametrize("name", [*WEIGHTS, "all"])
def test_each_cost_is_the_formula(num_classes: int, name: str) -> None:
    output, target = _random_case(num_classes)
    weights = WEIGHTS if name == "all" else dict.fromkeys(WEIGHTS, 0.0) | {name: 1.0}
    matcher = InstanceMatcher(**weights)
    expected = [
        [sum(weights[k] * v for k, v in _cost(output, *target, b, n).items()) for n in range(4)] for b in range(3)
    ]
    torch.testing.assert_close(matcher.cost(output, *target), torch.tensor(expected), atol=1e-4, rtol=1e-4)
    best = [min(range(4), key=row.__getitem__) for row in expected]
    assert matcher(output, *target).tolist() == best


@pytest.mark.parametrize(("left_out", "names"), [("boxes", ("l1", "giou")), ("masks", ("mask", "dice"))])
def test_without_a_kind_of_cost(left_out: str, names: tuple[str, str]) -> None:
    output, target = _random_case(num_classes=1)
    zero = {f"{name}_weight": 0.0 for name in names}
    expected = InstanceMatcher(**zero).cost(output, *target)
    assert torch.equal(InstanceMatcher(**{left_out: False}).cost(output, *target), expected)
    assert not torch.equal(InstanceMatcher().cost(output, *target), expected)
    criterion = Criterion(**{f"match_{left_out}": False})
    assert torch.equal(criterion.matcher.cost(output, *target), expected)
    assert criterion.weights == Criterion().weights, "the losses stay"


def test_the_perfect_query_is_matched() -> None:
    output, target = _random_case(num_classes=5, seed=3)
    masks, boxes, visible, labels = target
    for b, query in enumerate((2, 0, 3)):
        output.class_logits[b, :, query] = -5
        output.class_logits[b, :, query, labels[b, 0]] = torch.where(visible[b], 5.0, -5.0)
        output.boxes[b, :, query] = boxes[b]
        output.mask_logits[b, :, query] = masks[b] * 20 - 10
    assert InstanceMatcher()(output, *target).tolist() == [2, 0, 3]


def test_extreme_logits_give_finite_costs() -> None:
    output, target = _random_case(num_classes=1)
    output.mask_logits.mul_(1e4)
    output.class_logits.mul_(1e4)
    assert InstanceMatcher().cost(output, *target).isfinite().all()


def test_the_least_cost_equals_the_hungarian_solver() -> None:
    """For one object the choice is an argmin; the solver that is kept for several must say the same."""
    torch.manual_seed(0)
    cost = torch.randn(20, 5, 1)
    one = assign(cost)
    with_a_dummy = torch.cat((cost, torch.zeros(20, 5, 1)), dim=-1)  # costs nothing wherever it goes
    assert one.shape == (20, 1) and one.dtype == torch.int64
    assert torch.equal(assign(with_a_dummy)[:, 0], one[:, 0])


def test_several_objects_get_queries_of_their_own_at_the_least_total_cost() -> None:
    torch.manual_seed(0)
    cost = torch.randn(6, 4, 3)
    assigned = assign(cost)
    for b in range(6):
        totals = {q: sum(float(cost[b, q[m], m]) for m in range(3)) for q in itertools.permutations(range(4), 3)}
        assert tuple(assigned[b].tolist()) == min(totals, key=totals.__getitem__)
