from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from models.build import build_criterion, build_model
from models.position_encoding import sine_position_2d
from models.referformer import ReferFormer
from models.visual_features import CONTENT_TEMPERATURE
from tests.small_model import (
    CAPTIONS,
    assert_gradients_close,
    assert_outputs_close,
    gradients,
    select_clips,
    small_clips,
    small_config,
    small_model,
    small_targets,
)
from util.config import LossConfig

SAME = [(64, 96)] * 3
MIXED = [(64, 96), (50, 73), (41, 96)]


@pytest.fixture(scope="module")
def model() -> ReferFormer:
    return small_model()


def _loss(model: ReferFormer, clips: dict[str, Any], targets: list) -> Tensor:
    return sum(build_criterion(LossConfig())(model(**clips), targets).values())


@pytest.mark.parametrize("num_frames", [1, 3])
@torch.no_grad()
def test_shapes_of_the_contract(num_frames: int) -> None:
    model = small_model(num_classes=65, num_queries=4, num_decoder_layers=3)
    outputs = model(**small_clips(MIXED, num_frames))
    assert len(outputs) == 3
    for output in outputs:
        assert output.class_logits.shape == (3, num_frames, 4, 65)
        assert output.boxes.shape == (3, num_frames, 4, 4)
        assert output.mask_logits.shape == (3, num_frames, 4, 16, 24)
        assert output.reference_points.shape == (3, num_frames, 4, 2)
        assert ((output.boxes >= 0) & (output.boxes <= 1)).all()
        assert all(t.dtype == torch.float32 and t.isfinite().all() for t in vars(output).values())
    for earlier, later in itertools.pairwise(outputs):  # refined boxes are the next layer's references
        assert torch.equal(later.reference_points, earlier.boxes[..., :2])


@pytest.mark.parametrize("size", [(61, 94), (90, 33)])
@torch.no_grad()
def test_frames_of_any_size(model: ReferFormer, size: tuple[int, int]) -> None:
    clips = small_clips([size], multiple=1)
    output = model(**clips)[-1]
    assert output.mask_logits.shape[-2:] == (-(-size[0] // 4), -(-size[1] // 4))
    assert output.mask_logits.isfinite().all()


@torch.no_grad()
def test_a_batch_of_equal_sized_clips_equals_the_clips_alone(model: ReferFormer) -> None:
    clips = small_clips(SAME)
    together = model(**clips)
    for i in range(3):
        for a, b in zip(together, model(**select_clips(clips, [i])), strict=True):
            part = type(a)(**{name: value[i : i + 1] for name, value in vars(a).items()})
            assert_outputs_close(part, b)


@torch.no_grad()
def test_the_order_of_clips_changes_nothing(model: ReferFormer) -> None:
    clips, order = small_clips(MIXED), [2, 0, 1]
    for a, b in zip(model(**clips), model(**select_clips(clips, order)), strict=True):
        assert_outputs_close(b, type(a)(**{name: value[order] for name, value in vars(a).items()}))


@torch.no_grad()
def test_no_mask_equals_a_mask_without_padding(model: ReferFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = small_clips(SAME)
    assert not clips["padding_mask"].any()
    without = model(**(clips | {"padding_mask": None}))
    assert model.look(clips["frames"], clips["padding_mask"]).masks is None  # a CPU has looked
    shortcut = model(**clips)
    # On a GPU looking would cost a synchronisation, so there the mask goes all the way.
    monkeypatch.setattr(Tensor, "any", lambda self, *args: torch.tensor(True))
    assert model.look(clips["frames"], clips["padding_mask"]).masks is not None
    masked = model(**clips)
    for a, b, c in zip(without, shortcut, masked, strict=True):
        assert_outputs_close(b, a)
        assert_outputs_close(c, a)


@torch.no_grad()
def test_queries_do_not_see_padding(model: ReferFormer) -> None:
    """Whatever the projected maps hold where there is no frame."""
    clips = small_clips([(30, 40), (64, 96)])
    visual, text = model.look(clips["frames"], clips["padding_mask"]), model.text_encoder(clips["text"])
    assert [float(mask[0].float().mean()) > 0.4 for mask in visual.masks[1:4]] == [True] * 3
    maps = [
        torch.where(mask[:, None, ..., None], 9.0, m) for m, mask in zip(visual.maps, visual.masks[1:], strict=True)
    ]
    changed = dataclasses.replace(visual, maps=maps)
    for a, b in zip(model.locate(visual, text)[1], model.locate(changed, text)[1], strict=True):
        torch.testing.assert_close(a.queries, b.queries, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(a.boxes, b.boxes)


@torch.no_grad()
def test_what_the_model_knows_before_the_sentence(model: ReferFormer) -> None:
    """Projected maps, and masks, positions and the pyramid's finest level, each of its own stride."""
    clips = small_clips(MIXED)
    visual, maps = model.look(clips["frames"], clips["padding_mask"]), model.backbone(clips["frames"])
    sources = [*maps[1:], maps[3]]  # the fourth level is made of the raw stride-32 map too
    for level, source, projection in zip(visual.maps, sources, model.input_proj, strict=True):
        torch.testing.assert_close(level.flatten(0, 1).permute(0, 3, 1, 2), projection(source))
    for stride, mask, position in zip((4, 8, 16, 32, 64), visual.masks, visual.positions, strict=True):
        assert mask.shape == (3, -(-64 // stride), -(-96 // stride))
        rows, columns = (torch.arange(n) * full // n for n, full in zip(mask.shape[1:], (64, 96), strict=True))
        assert torch.equal(mask, clips["padding_mask"][:, 0][:, rows][:, :, columns])
        assert torch.equal(position, sine_position_2d(mask, 32))
    finest = model.pixel_decoder.levels[0].look(
        maps[0].permute(0, 2, 3, 1).unflatten(0, (3, 2)), visual.positions[0], visual.masks[0]
    )
    torch.testing.assert_close(visual.finest, finest)


@torch.no_grad()
def test_positions_in_the_content(model: ReferFormer) -> None:
    """They are added to every projected map, by their amplitude, over what is not padding."""
    clips = small_clips(MIXED)
    amplified = copy.deepcopy(model)
    amplified.position_in_content = 0.5
    plain, positioned = (m.look(clips["frames"], clips["padding_mask"]) for m in (model, amplified))
    assert torch.equal(positioned.finest, plain.finest)
    for i, (a, b) in enumerate(zip(positioned.maps, plain.maps, strict=True)):
        added = a - b
        torch.testing.assert_close(added[:, 0], added[:, 1], atol=1e-5, rtol=0)  # the same in each frame
        expected = 0.5 * sine_position_2d(plain.masks[1 + i], 32, CONTENT_TEMPERATURE)
        torch.testing.assert_close(added[:, 0], expected, atol=1e-5, rtol=0)
    still = amplified.look(clips["frames"][:1], None)
    torch.testing.assert_close(still.maps[0], positioned.maps[0][:1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(amplified(**clips)[-1].boxes, model(**clips)[-1].boxes, atol=1e-4)


@torch.no_grad()
def test_the_sentence_matters(model: ReferFormer) -> None:
    clips = small_clips([(64, 96)])
    a = model(**clips)[-1]
    b = model(**(clips | {"text": [CAPTIONS[1]]}))[-1]
    for name in ("class_logits", "boxes", "mask_logits"):
        assert not torch.allclose(getattr(a, name), getattr(b, name), atol=1e-4)
    tokens = model.text_encoder.tokenize(clips["text"])
    assert_outputs_close(model(**(clips | {"text": tokens}))[-1], a)


@torch.no_grad()
def test_only_the_annotated_frame_goes_on() -> None:
    """With a backbone that keeps frames apart, that equals the frame alone; others are seen by one that does not."""
    clips = small_clips(MIXED, num_frames=3)
    annotated = torch.tensor([2, 0, 1])
    alone = {
        "frames": clips["frames"][torch.arange(3), annotated][:, None],
        "padding_mask": clips["padding_mask"][:, :1],
    }
    still = small_model()
    outputs = still(**clips, annotated_frame=annotated)
    assert outputs[-1].mask_logits.shape[:2] == (3, 1)
    for a, b in zip(outputs, still(**(clips | alone)), strict=True):
        assert_outputs_close(a, b)
    moving = small_model(temporal_shift=0.25)
    a, b = moving(**clips, annotated_frame=annotated)[-1], moving(**(clips | alone))[-1]
    assert not torch.allclose(a.mask_logits, b.mask_logits, atol=1e-3)


@pytest.mark.parametrize("num_frames", [1, 2])
@torch.no_grad()
def test_maps_smaller_than_eight_pixels(num_frames: int) -> None:
    model = small_model(hidden_dim=64)
    output = model(**small_clips([(20, 28)], num_frames))[-1]
    assert output.mask_logits.shape == (1, num_frames, 3, 8, 8) and output.mask_logits.isfinite().all()


@pytest.mark.parametrize("num_feature_levels", [3, 5])
@torch.no_grad()
def test_numbers_of_levels(num_feature_levels: int) -> None:
    model = small_model(num_feature_levels=num_feature_levels)
    sizes = [m.shape[2:4] for m in model.look(small_clips(SAME)["frames"]).maps]
    assert [tuple(s) for s in sizes] == [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)][:num_feature_levels]
    assert model(**small_clips(MIXED))[-1].boxes.isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"box_refine": False},
        {"relative_coordinates": False},
        {"box_refine": False, "relative_coordinates": False, "num_classes": 65},
        {"num_classes": 65},
        {"num_decoder_layers": 1},
        {"num_decoder_layers": 1, "box_refine": False},
        {"freeze_text_encoder": True, "num_feature_levels": 5},
        {"activation_checkpointing": True, "temporal_shift": 0.25},
        {"backbone": "timm/convnext_atto", "backbone_options": {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}},
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()) or "default",
)
def test_every_trainable_parameter_gets_a_gradient(options: dict[str, Any]) -> None:
    """And not one of zeros."""
    model = small_model(**options).train()
    _loss(model, small_clips(MIXED), small_targets(MIXED, invisible=(1,))).backward()
    # The bias of an attention's keys moves all logits alike, so its gradient is rounding noise, or nothing.
    idle = [name for name, g in gradients(model).items() if g is None or not (g.any() or "key.bias" in name)]
    assert not idle
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert all(name.startswith("text_encoder.encoder.") for name in frozen)
    assert bool(frozen) == options.get("freeze_text_encoder", False)


def test_a_fresh_model_reaches_all_its_parameters() -> None:
    """Some weights start at zero, which stops gradients in front of them but not the parameters from taking part."""
    torch.manual_seed(0)
    model = build_model(small_config()).train()
    _loss(model, small_clips(MIXED), small_targets(MIXED)).backward()
    assert [name for name, gradient in gradients(model).items() if gradient is None] == []


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    clips, targets = small_clips(MIXED), small_targets(MIXED)
    results = []
    for recompute in (False, True):
        # Stochastic parts must repeat themselves; running statistics of norms would not, and are not gradients.
        model = small_model(activation_checkpointing=recompute, dropout=0.1).train()
        torch.manual_seed(4)
        loss = _loss(model, clips, targets)
        loss.backward()
        results.append((loss.detach(), gradients(model)))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert_gradients_close(results[1][1], results[0][1], rtol=1e-3)


def test_a_batch_has_the_gradient_of_its_clips() -> None:
    """Clips with as many boxes each: the batch's gradient is the mean of the clips'. Norms must not mix clips."""
    model = small_model()  # evaluation mode: the backbone's batch norms do mix clips when they train
    clips, targets = small_clips(SAME[:2]), small_targets(SAME[:2])
    _loss(model, clips, targets).backward()
    together = gradients(model)
    model.zero_grad()
    for i in range(2):
        (_loss(model, select_clips(clips, [i]), targets[i : i + 1]) / 2).backward()
    assert_gradients_close(gradients(model), together, rtol=1e-2)


def test_inputs_stay_as_they_are(model: ReferFormer) -> None:
    clips = small_clips(MIXED)
    before = copy.deepcopy(clips)
    model(**clips)
    for name, value in clips.items():
        same = torch.equal(value, before[name]) if isinstance(value, Tensor) else value == before[name]
        assert same, name


@torch.no_grad()
def test_bfloat16_is_close_and_gives_float32(model: ReferFormer) -> None:
    clips = small_clips(MIXED)
    expected = model(**clips)[-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(**clips)[-1]
    assert all(value.dtype == torch.float32 for value in vars(half).values())
    assert (half.boxes - expected.boxes).abs().max() < 0.02
    a, b = half.mask_logits > 0, expected.mask_logits > 0
    assert (a == b).float().mean() > 0.95


def test_one_clip_can_be_learned() -> None:
    """A dozen steps on one clip lower the loss a lot: every part is wired to the one after it."""
    model = small_model().train()
    clips, targets = small_clips([(64, 96)]), small_targets([(64, 96)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        loss = _loss(model, clips, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
