from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from models import criterion as criterion_module
from models.criterion import Criterion, mask_target
from models.outputs import LayerOutput
from tests.test_matcher import giou
from util.batch import ClipTargets

WEIGHTS = {"class": 2.0, "l1": 5.0, "giou": 2.0, "mask": 2.0, "dice": 5.0}
QUERIES = 4


def _focal(logit: float, target: bool) -> float:
    """Lin et al. 2017, equation 5, alpha 0.25, gamma 2."""
    p = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if target else -0.75 * p**2 * math.log(1 - p)


def _expected(output: LayerOutput, targets: list[ClipTargets], matched: list[int]) -> dict[str, float]:
    """The losses of a layer, clip by clip, frame by frame, pixel by pixel; weighted."""
    output = LayerOutput(**{f.name: getattr(output, f.name).detach() for f in dataclasses.fields(output)})
    num_frames, num_queries, num_classes = output.class_logits.shape[1:]
    num_boxes = max(sum(int(t.visible.sum()) for t in targets), 1)
    losses = dict.fromkeys(WEIGHTS, 0.0)
    for b, (target, query) in enumerate(zip(targets, matched, strict=True)):
        pixels, focal, intersection, sums = 0, 0.0, 0.0, 0.0
        for t in range(num_frames):
            for n in range(num_queries):
                for k in range(num_classes):
                    positive = n == query and bool(target.visible[t]) and k == int(target.labels[t])
                    losses["class"] += _focal(float(output.class_logits[b, t, n, k]), positive)
            if not target.visible.any():
                continue
            box, truth = output.boxes[b, t, query].tolist(), target.boxes[t].tolist()
            losses["l1"] += sum(abs(u - v) for u, v in zip(box, truth, strict=True))
            losses["giou"] += 1 - giou(box, truth)
            for y, row in enumerate(output.mask_logits[b, t, query].tolist()):
                for x, logit in enumerate(row):
                    inside = 4 * y + 2 < target.masks.shape[1] and 4 * x + 2 < target.masks.shape[2]
                    g = inside and bool(target.masks[t, 4 * y + 2, 4 * x + 2])
                    p = 1 / (1 + math.exp(-logit))
                    focal += _focal(logit, g)
                    intersection, sums, pixels = intersection + p * g, sums + p + g, pixels + 1
        if not target.visible.any():
            continue
        losses["mask"] += focal / pixels
        losses["dice"] += 1 - (2 * intersection + 1) / (sums + 1)
    return {name: WEIGHTS[name] * value / num_boxes for name, value in losses.items()}


def _output(num_clips: int, num_frames: int, num_classes: int, seed: int) -> LayerOutput:
    g = torch.Generator().manual_seed(seed)
    shape = (num_clips, num_frames, QUERIES)
    return LayerOutput(
        class_logits=(torch.randn(*shape, num_classes, generator=g) * 2).requires_grad_(),
        boxes=(torch.rand(*shape, 4, generator=g) * 0.4 + 0.2).requires_grad_(),
        mask_logits=(torch.randn(*shape, 8, 8, generator=g) * 2).requires_grad_(),
        reference_points=torch.rand(*shape, 2, generator=g),
    )


def _targets(visible: list[list[bool]], num_classes: int, size: tuple[int, int] = (30, 27)) -> list[ClipTargets]:
    """Random masks and boxes; nothing where the object is not visible."""
    g = torch.Generator().manual_seed(7)
    targets = []
    for clip in visible:
        seen = torch.tensor(clip)
        masks = (torch.rand(len(clip), *size, generator=g) > 0.5) & seen[:, None, None]
        boxes = (torch.rand(len(clip), 4, generator=g) * 0.4 + 0.2) * seen[:, None]
        label = int(torch.randint(0, num_classes, (1,), generator=g))
        targets.append(ClipTargets(masks, boxes, seen, torch.full((len(clip),), label)))
    return targets


def _matched(criterion: Criterion, output: LayerOutput, targets: list[ClipTargets]) -> list[int]:
    masks = torch.stack([mask_target(t.masks, 8, 8) for t in targets])
    stacked = [torch.stack([getattr(t, name) for t in targets]) for name in ("boxes", "visible", "labels")]
    return criterion.matcher(output, masks, *stacked).tolist()


VISIBLE = {
    "all": [[True, True, True], [True, True, True]],
    "some": [[True, False, True], [False, False, True]],
    "one clip never": [[False, False, False], [True, True, False]],
    "never": [[False, False, False], [False, False, False]],
}


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("visible", VISIBLE.values(), ids=VISIBLE)
def test_losses_are_the_formulas(visible: list[list[bool]], num_classes: int) -> None:
    outputs, targets = [_output(2, 3, num_classes, seed) for seed in (0, 1)], _targets(visible, num_classes)
    criterion = Criterion()
    losses = criterion(outputs, targets)
    assert set(losses) == set(WEIGHTS) | {f"{name}_0" for name in WEIGHTS}
    for suffix, output in (("_0", outputs[0]), ("", outputs[1])):
        expected = _expected(output, targets, _matched(criterion, output, targets))
        for name, value in expected.items():
            assert losses[name + suffix].item() == pytest.approx(value, rel=1e-4), name + suffix
    sum(losses.values()).backward()
    for output in outputs:
        for tensor in (output.class_logits, output.boxes, output.mask_logits):
            assert tensor.grad.isfinite().all()


def test_layers_are_matched_each_for_itself() -> None:
    targets = _targets(VISIBLE["all"], 1)
    criterion = Criterion()
    outputs = [_output(2, 3, 1, seed) for seed in range(6)]
    queries = [_matched(criterion, output, targets) for output in outputs]
    assert len({tuple(q) for q in queries}) > 1  # or else this test would see nothing
    losses = criterion(outputs, targets)
    for i in range(5):
        alone = criterion([outputs[i]], targets)
        for name, value in alone.items():
            torch.testing.assert_close(losses[f"{name}_{i}"], value)


def test_only_the_matched_query_is_pulled() -> None:
    output, targets = _output(2, 3, 1, seed=0), _targets(VISIBLE["some"], 1)
    criterion = Criterion()
    matched = _matched(criterion, output, targets)
    losses = criterion([output], targets)
    sum(losses.values()).backward()
    for b, query in enumerate(matched):
        others = [n for n in range(QUERIES) if n != query]
        assert (output.boxes.grad[b][:, others] == 0).all() and (output.mask_logits.grad[b][:, others] == 0).all()
        assert (output.boxes.grad[b][:, query] != 0).any() and (output.mask_logits.grad[b][:, query] != 0).all()
        assert (output.class_logits.grad[b][:, others] > 0).all()  # down
        assert ((output.class_logits.grad[b][:, query, 0] < 0) == targets[b].visible).all()  # up where it is visible


@pytest.mark.parametrize("visible", [VISIBLE["never"], VISIBLE["one clip never"]], ids=["alone", "beside another"])
def test_a_clip_without_its_object_pulls_every_score_down_and_nothing_else(visible: list[list[bool]]) -> None:
    outputs, targets = [_output(2, 3, 1, seed) for seed in (0, 1)], _targets(visible, 1)
    losses = Criterion()(outputs, targets)
    total = sum(losses.values())
    assert total.isfinite() and total > 0
    total.backward()
    for output in outputs:
        assert (output.class_logits.grad[0] > 0).all()
        assert (output.boxes.grad[0] == 0).all() and (output.mask_logits.grad[0] == 0).all()
    if not any(map(any, visible)):
        assert all((value == 0) == (not name.startswith("class")) for name, value in losses.items())


def _one_query(output: LayerOutput) -> LayerOutput:
    return LayerOutput(**{f.name: getattr(output, f.name)[:, :, :1] for f in dataclasses.fields(output)})


def test_weights_and_layers_are_settings() -> None:
    outputs, targets = [_one_query(_output(1, 2, 1, seed)) for seed in (0, 1)], _targets([[True, True]], 1)
    base = Criterion()(outputs, targets)
    changed = Criterion(dice_weight=10.0, l1_weight=0.0, gamma=0.0, alpha=0.5, aux_loss=False)(outputs, targets)
    assert set(changed) == set(WEIGHTS)
    torch.testing.assert_close(changed["dice"], 2 * base["dice"])
    torch.testing.assert_close(changed["giou"], base["giou"])
    assert changed["l1"] == 0
    plain = torch.nn.functional.binary_cross_entropy_with_logits(  # which focal loss is for these alpha and gamma
        outputs[1].mask_logits[0, :, 0], mask_target(targets[0].masks, 8, 8)
    )
    torch.testing.assert_close(changed["mask"], 2 * 0.5 * plain / 2)


def test_boxes_are_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that sees few objects counts the mean of all, so that the processes' mean gradient is that of one."""
    output, targets = [_output(2, 3, 1, 0)], _targets(VISIBLE["some"], 1)  # three visible frames
    alone = Criterion()(output, targets)
    seen = []

    def mean_of_processes(value: Tensor) -> Tensor:
        seen.append(value.item())
        return (value + 9) / 2  # another process has nine

    monkeypatch.setattr(criterion_module, "all_reduce_mean", mean_of_processes)
    together = Criterion()(output, targets)
    assert seen == [3]
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value / 2)


def test_a_batch_is_the_sum_of_its_clips_over_all_their_boxes() -> None:
    output, targets = _output(2, 3, 1, 0), _targets(VISIBLE["some"], 1)
    losses = Criterion()([output], targets)
    parts = []
    for b in range(2):
        fields = {f.name: getattr(output, f.name)[b : b + 1] for f in dataclasses.fields(output)}
        parts.append(Criterion()([LayerOutput(**fields)], targets[b : b + 1]))
    counts = [int(t.visible.sum()) for t in targets]
    for name, value in losses.items():
        mean = sum(p[name] * n for p, n in zip(parts, counts, strict=True)) / sum(counts)
        torch.testing.assert_close(value, mean)


@pytest.mark.parametrize("size", [(32, 32), (30, 27), (29, 32), (3, 2)])
def test_mask_targets_are_every_fourth_pixel_of_the_padded_mask(size: tuple[int, int]) -> None:
    h, w = size
    masks = torch.rand(2, h, w, generator=torch.Generator().manual_seed(0)) > 0.5
    target = mask_target(masks, 8, 8)
    assert target.shape == (2, 8, 8) and target.dtype == torch.float32
    for y in range(8):
        for x in range(8):
            inside = 4 * y + 2 < h and 4 * x + 2 < w
            expected = masks[:, 4 * y + 2, 4 * x + 2].float() if inside else torch.zeros(2)
            assert torch.equal(target[:, y, x], expected)


def test_inputs_stay_as_they_are() -> None:
    output, targets = _output(2, 3, 1, 0), _targets(VISIBLE["some"], 1)
    before = [t.masks.clone() for t in targets], output.mask_logits.detach().clone(), output.boxes.detach().clone()
    Criterion()([output], targets)
    assert all(torch.equal(a, t.masks) for a, t in zip(before[0], targets, strict=True))
    assert torch.equal(before[1], output.mask_logits) and torch.equal(before[2], output.boxes)
