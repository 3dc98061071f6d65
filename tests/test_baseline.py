from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.baseline import Baseline, PlainEncoderLayer, describe_masks
from models.criterion import Criterion
from models.predictor import Predictor
from tests.small_model import (
    assert_gradients_close,
    disturb,
    gradients,
    select_clips,
    small_clips,
    small_model,
    small_targets,
)

SIZES = [(64, 96), (64, 96)]


def _model(**changes: Any) -> Baseline:
    model = small_model(architecture="baseline", **changes)
    assert isinstance(model, Baseline)
    return model


def test_the_encoder_layer_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    ours = disturb(PlainEncoderLayer(16, 2, 24, dropout=0.0), scale=0.1).eval()
    theirs = torch.nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True)
    names = {"self_attn": "self_attn", "norm": "norm1", "ffn.linear1": "linear1", "ffn.linear2": "linear2"}
    names["ffn.norm"] = "norm2"
    for mine, other in names.items():
        theirs.get_submodule(other).load_state_dict(ours.get_submodule(mine).state_dict())
    tokens, padding = torch.randn(2, 7, 16), torch.arange(7) >= torch.tensor([[7], [4]])
    expected = theirs.train()(tokens, src_key_padding_mask=padding)  # in training mode it takes no shortcut
    torch.testing.assert_close(ours(tokens, torch.zeros(2, 7, 16), padding), expected, atol=1e-5, rtol=1e-5)


def test_every_parameter_is_trained_by_the_masks_alone() -> None:
    model = _model().train()
    clips = small_clips(SIZES)
    criterion = Criterion(class_weight=0, l1_weight=0, giou_weight=0)
    losses = criterion(model(**clips), small_targets(SIZES))
    assert float(losses["class"] + losses["l1"] + losses["giou"]) == 0 and losses["mask"] > 0 and losses["dice"] > 0
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(name.startswith("text_encoder.encoder.pooler") for name in without), without


def test_activation_checkpointing_gives_the_same_gradients_and_keeps_less() -> None:
    results, saved = [], []
    for recompute in (False, True):
        model = _model(activation_checkpointing=recompute, dropout=0.1, num_encoder_layers=3).train()
        calls = []
        for layer in model.encoder_layers:
            layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        sizes: dict[int, int] = {}
        torch.manual_seed(4)
        with torch.autograd.graph.saved_tensors_hooks(_count_into(sizes), lambda x: x):
            visual, text = model.look(small_clips(SIZES)["frames"]), model.text_encoder(small_clips(SIZES)["text"])
            before = sum(sizes.values())
            encoded = model.encode(visual, text)
        saved.append(sum(sizes.values()) - before)
        encoded.square().sum().backward()
        results.append(gradients(model))
        assert len(calls) == (6 if recompute else 3), "each layer runs again in the backward pass"
    assert_gradients_close(results[1], results[0], rtol=1e-4)
    assert saved[1] < saved[0] / 3


def _count_into(sizes: dict[int, int]) -> Callable[[Tensor], Tensor]:
    """A hook that notes the bytes of each memory that the backward pass keeps."""

    def note(x: Tensor) -> Tensor:
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    return note


def test_words_and_other_frames_matter() -> None:
    model = _model()
    clips = select_clips(small_clips(SIZES), [0])
    with torch.no_grad():
        base = model(**clips)[0].mask_logits
        assert base.shape == (1, 2, 1, 16, 24)
        other_words = model(**(clips | {"text": ["a large green triangle"]}))[0].mask_logits
        frames = clips["frames"].clone()
        frames[:, 1] += 1
        other_frame = model(**(clips | {"frames": frames}))[0].mask_logits
    assert not torch.allclose(base, other_words, atol=1e-4)
    assert not torch.allclose(base[:, 0], other_frame[:, 0], atol=1e-5)


def test_clips_of_a_batch_equal_the_clips_alone() -> None:
    model = _model()
    clips = small_clips(SIZES)
    with torch.no_grad():
        together = model(**clips)[0].mask_logits
        for i in range(2):
            torch.testing.assert_close(
                model(**select_clips(clips, [i]))[0].mask_logits[0], together[i], atol=2e-4, rtol=0
            )


def test_tokens_do_not_see_padding() -> None:
    model = _model()
    clips = small_clips([(64, 64), (64, 96)])
    visual, text = model.look(clips["frames"], clips["padding_mask"]), model.text_encoder(clips["text"])
    with torch.no_grad():
        base = model.encode(visual, text)
        mask = visual.masks[3][0]
        assert mask.any() and not mask.all()
        visual.maps[2][0, :, mask] = 7.0
        changed = model.encode(visual, text)
    assert torch.equal(base[0][:, ~mask], changed[0][:, ~mask])


def test_the_annotated_frame_alone_goes_on() -> None:
    model = _model()
    clips = small_clips(SIZES)
    with torch.no_grad():
        output = model(**clips, annotated_frame=torch.tensor([1, 0]))[0]
        single = clips | {"frames": torch.stack([clips["frames"][0, 1:], clips["frames"][1, :1]])}
        single["padding_mask"] = clips["padding_mask"][:, :1]
        expected = model(**single)[0]
    assert output.mask_logits.shape[1] == 1
    torch.testing.assert_close(output.mask_logits, expected.mask_logits, atol=1e-4, rtol=1e-4)


def test_boxes_and_scores_are_read_off_the_masks() -> None:
    logits = torch.full((1, 2, 8, 12), -3.0)
    logits[0, 0, 2:5, 3:9] = 1.0
    logits[0, 0, 3, 3] = 2.5
    scores, boxes = describe_masks(logits, torch.tensor([[32, 40]]))
    assert scores.tolist() == [[2.5, -3.0]]
    torch.testing.assert_close(boxes[0, 0], torch.tensor([6 / 10, 3.5 / 8, 6 / 10, 3 / 8]))
    assert boxes[0, 1].tolist() == [0, 0, 0, 0]


def test_a_prediction_is_the_models_output() -> None:
    model = _model()
    predictor = Predictor(model, short_side=64, device="cpu")
    frames = torch.randint(0, 256, (3, 64, 96, 3), dtype=torch.uint8)
    prediction = predictor.predict(predictor.encode(frames), ["the red square"], keep_probabilities=True)[0]
    normalised: Tensor = frames.permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (normalised - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        output = model(normalised[None], None, ["the red square"], torch.tensor([[64, 96]]))[0]
    expected = F.interpolate(output.mask_logits[0], (64, 96), mode="bilinear")[:, 0].sigmoid()
    torch.testing.assert_close(prediction.probabilities, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prediction.scores, output.class_logits[0, :, 0, 0].sigmoid(), atol=1e-4, rtol=1e-4)


def test_it_has_no_classes() -> None:
    with pytest.raises(ValueError, match=r"model\.num_classes is 65; the baseline has no classes"):
        small_model(architecture="baseline", num_classes=65)
