from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from models.checkpoint import to_published
from models.predictor import Prediction, Predictor, resize_logits
from models.referformer import ReferFormer
from tests.small_model import CAPTIONS, small_config, small_model
from util.checkpoint_io import CheckpointError, save_checkpoint
from util.config import Config, TestConfig
from util.frames import normalise


@pytest.fixture(scope="module")
def model() -> ReferFormer:
    return small_model()


def _video(num_frames: int = 4, size: tuple[int, int] = (64, 96), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_frames, 3, 5, 6, generator=generator) * 255
    return F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 255).byte().permute(0, 2, 3, 1)


def _predictor(model: ReferFormer, **options: Any) -> Predictor:
    return Predictor(copy.deepcopy(model), device="cpu", **({"short_side": 64} | options))


def _assert_same(a: Prediction, b: Prediction) -> None:
    assert (a.caption, a.query) == (b.caption, b.query)
    for name in ("boxes", "scores", "query_scores"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-4, rtol=1e-4)
    assert (a.masks == b.masks).float().mean() > 0.999  # a logit may lie on the threshold


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (61, 95)])
def test_a_prediction_is_the_models_last_layer_at_the_best_query(model: ReferFormer, size: tuple[int, int]) -> None:
    """At the video's own size, with no window: what the model says, by the steps of the method."""
    video = _video(size=size)
    predictor = _predictor(model, short_side=min(size))
    features = predictor.encode(video)
    assert (features.size, features.original_size, features.num_frames) == (size, size, 4)
    predictions = predictor.predict(features, CAPTIONS)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    frames = ((video / 255 - mean) / std).permute(0, 3, 1, 2)[None]
    for caption, prediction in zip(CAPTIONS, predictions, strict=True):
        with torch.no_grad():
            output = model(frames, None, [caption], torch.tensor([size]))[-1]
        scores = output.class_logits[0, ..., 0].sigmoid()
        query = int(scores.mean(0).argmax())
        assert prediction.caption == caption and prediction.query == query
        torch.testing.assert_close(prediction.query_scores, scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(prediction.scores, scores[:, query], atol=1e-5, rtol=1e-4)
        cx, cy, w, h = output.boxes[0, :, query].unbind(-1)
        xyxy = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), dim=-1).clamp(0, 1)
        pixels = xyxy * torch.tensor([size[1], size[0], size[1], size[0]])
        torch.testing.assert_close(prediction.boxes, pixels, atol=1e-2, rtol=1e-4)
        assert prediction.masks.shape == (4, *size) and prediction.masks.dtype == torch.bool
        if size[0] % 4 == 0 and size[1] % 4 == 0:
            logits = F.interpolate(output.mask_logits[0, :, query, None], size=size, mode="bilinear")
            assert (prediction.masks == (logits[:, 0] > 0)).float().mean() > 0.999


def test_frames_are_resized_and_results_come_back_at_the_original_size(model: ReferFormer) -> None:
    predictor = _predictor(model, short_side=32, max_long_side=40)
    features = predictor.encode(_video(size=(101, 171)))
    assert features.size == (24, 40) and features.original_size == (101, 171)
    prediction = predictor.predict(features, ["a dog"])[0]
    assert prediction.masks.shape == (4, 101, 171)
    assert (prediction.boxes >= 0).all() and (prediction.boxes <= torch.tensor([171, 101, 171, 101])).all()


def test_the_mask_head_measures_in_pixels_of_the_resized_frame(model: ReferFormer) -> None:
    predictor, video = _predictor(model, short_side=32), _video(size=(64, 96))
    prediction = predictor.predict(predictor.encode(video), ["a dog"])[0]
    small = transforms.resize(video.permute(0, 3, 1, 2), [32, 48], antialias=True)
    with torch.no_grad():
        output = model(normalise(small)[None], None, ["a dog"], torch.tensor([[32, 48]]))[-1]
    logits = F.interpolate(output.mask_logits[0, :, [prediction.query]], size=(64, 96), mode="bilinear")
    assert (prediction.masks == (logits[:, 0] > 0)).float().mean() > 0.999
    assert 0.01 < prediction.masks.float().mean() < 0.99  # or else this would say little


def test_numpy_frames_are_frames(model: ReferFormer) -> None:
    predictor, video = _predictor(model), _video()
    a, b = (predictor.predict(predictor.encode(v), ["a dog"])[0] for v in (video, video.numpy()))
    assert torch.equal(a.masks, b.masks)


@pytest.mark.parametrize(
    "frames", [torch.zeros(2, 3, 8, 8), torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(0, 8, 8, 3).byte()]
)
def test_other_frames_are_an_error(model: ReferFormer, frames: Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(T, h, w, 3\) uint8"):
        _predictor(model).encode(frames)


def test_several_captions_equal_each_alone(model: ReferFormer) -> None:
    predictor = _predictor(model)
    features = predictor.encode(_video())
    for together, caption in zip(predictor.predict(features, CAPTIONS), CAPTIONS, strict=True):
        alone = predictor.predict(features, [caption])[0]
        assert torch.equal(together.masks, alone.masks) and together.query == alone.query
    assert predictor.predict(features, []) == []


def test_only_masks_of_the_chosen_query_are_made(model: ReferFormer) -> None:
    predictor = _predictor(model)
    calls: list[tuple[int, ...]] = []
    head = predictor.model.mask_head
    made = head._finish

    def count(*args: Any) -> Tensor:
        logits = made(*args)
        calls.append(tuple(logits.shape[:2]))
        return logits

    head._finish = count
    predictor.model.pixel_decoder.mask_features.register_forward_pre_hook(lambda *_: pytest.fail("mask features made"))
    predictor.predict(predictor.encode(_video()), CAPTIONS[:2])
    assert calls == [(4, 1), (4, 1)]  # one query of the last layer in each of four frames, per caption


def test_the_visual_backbone_runs_once_for_all_captions(model: ReferFormer) -> None:
    predictor = _predictor(model)
    runs: list[int] = []
    predictor.model.backbone.register_forward_hook(lambda *_: runs.append(1))
    predictor.predict(predictor.encode(_video()), CAPTIONS)
    assert len(runs) == 1


# Windows


def test_one_window_is_the_whole_video(model: ReferFormer) -> None:
    predictor, video = _predictor(model), _video()
    [tracked] = predictor.track([video], CAPTIONS)
    for a, b in zip(tracked, predictor.predict(predictor.encode(video), CAPTIONS), strict=True):
        assert torch.equal(a.masks, b.masks) and a.query == b.query


def test_queries_of_a_window_do_not_depend_on_later_ones(model: ReferFormer) -> None:
    """A 2D backbone without temporal shift, and queries, keep frames apart; the pyramid joins those of a window."""
    predictor, video = _predictor(model), _video(6)
    whole = predictor.predict(predictor.encode(video), CAPTIONS)
    windows = list(predictor.track(video.split(4), CAPTIONS))
    assert [len(p[0].masks) for p in windows] == [4, 2]
    for i, caption in enumerate(CAPTIONS):
        assert windows[0][i].caption == caption
        _assert_same(windows[0][i], predictor.predict(predictor.encode(video[:4]), [caption])[0])
        scores = torch.cat([window[i].query_scores for window in windows])
        torch.testing.assert_close(scores, whole[i].query_scores, atol=1e-5, rtol=1e-4)
        # After its last window a video is judged by all its frames.
        assert windows[-1][i].query == whole[i].query == int(scores.mean(0).argmax())
        if windows[0][i].query == whole[i].query:
            torch.testing.assert_close(windows[0][i].boxes, whole[i].boxes[:4], atol=1e-2, rtol=1e-3)


def test_the_query_is_chosen_by_the_mean_so_far(model: ReferFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 3, 2 and 1 frames: frames count alike, whatever window they are in, and captions do not mix."""
    predictor = _predictor(model)
    scores = {  # per caption and window, of three queries
        "first": [[0.5, 0.4, 0.1], [0.1, 0.6, 0.3], [0.9, 0.4, 0.0]],
        "second": [[0.1, 0.1, 0.9], [0.2, 0.1, 0.1], [0.3, 0.2, 0.1]],
    }
    lengths, served = (3, 2, 1), []

    def classify(state: Any, layer: int) -> Tensor:
        window, caption = len(served) // 2, list(scores)[len(served) % 2]
        served.append(layer)
        return torch.logit(torch.tensor(scores[caption][window]))[None, :, None].expand(lengths[window], -1, -1)

    monkeypatch.setattr(predictor.model, "classify", classify)
    monkeypatch.setattr("models.predictor.SMALL_BYTES", 0)  # in turn, so that `classify` knows whose turn it is
    windows = list(predictor.track([_video(n) for n in lengths], list(scores)))
    for i, caption in enumerate(scores):
        total, frames = np.zeros(3), 0
        for window, length in enumerate(lengths):
            total, frames = total + length * np.array(scores[caption][window]), frames + length
            assert windows[window][i].query == int(np.argmax(total / frames))
            expected = torch.tensor(scores[caption][window])[windows[window][i].query].expand(length)
            torch.testing.assert_close(windows[window][i].scores, expected)
    assert [w[0].query for w in windows] == [0, 1, 1] and set(served) == {1}


def test_windows_are_read_when_they_are_due(model: ReferFormer) -> None:
    read = []

    def windows() -> Any:
        for i in range(3):
            read.append(i)
            yield _video(1, seed=i)

    tracked = _predictor(model).track(windows(), ["a dog"])
    next(tracked)
    assert read in ([0], [0, 1])  # the next one may be looked at while this one is answered


# Sizes and thresholds


@pytest.mark.parametrize(("threshold", "share"), [(0.0, 1.0), (1.0, 0.0)])
def test_thresholds_at_their_ends_take_all_or_nothing(model: ReferFormer, threshold: float, share: float) -> None:
    predictor = _predictor(model, threshold=threshold)
    masks = predictor.predict(predictor.encode(_video()), ["a dog"])[0].masks
    assert masks.float().mean() == share


def test_a_higher_threshold_gives_a_smaller_mask(model: ReferFormer) -> None:
    masks = []
    for threshold in (0.3, 0.5, 0.7):
        predictor = _predictor(model, threshold=threshold)
        masks.append(predictor.predict(predictor.encode(_video()), ["a dog"])[0].masks)
    assert (masks[0] >= masks[1]).all() and (masks[1] >= masks[2]).all() and masks[0].sum() > masks[2].sum()


def _edges(size: tuple[int, int], column: float, row: float) -> Tensor:
    """A map of stride 4 whose two channels are zero on the line x = column and on the line y = row, in pixels."""
    x = torch.arange(-(-size[1] // 4)) * 4 + 2.0
    y = torch.arange(-(-size[0] // 4)) * 4 + 2.0
    vertical = (x - column).expand(len(y), -1)
    horizontal = (y - row)[:, None].expand(-1, len(x))
    return torch.stack((vertical, horizontal))[None]


@pytest.mark.parametrize("size", [(361, 639), (360, 640), (358, 637), (43, 41)])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_edges_stay_where_they_are_at_any_size(size: tuple[int, int], share: float) -> None:
    """Masks of frames whose sides are no multiples of 4 are not stretched."""
    column, row = share * size[1], share * size[0]
    resized = resize_logits(_edges(size, column, row), size, size)
    assert resized.shape == (1, 2, *size)
    inside = (resized[0, 0] > 0).sum(1).float()
    assert (inside - (size[1] - column)).abs().max() <= 0.5 + 1e-3
    inside = (resized[0, 1] > 0).sum(0).float()
    assert (inside - (size[0] - row)).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize("original", [(720, 1274), (361, 639), (100, 177)])
def test_edges_scale_with_the_video(original: tuple[int, int]) -> None:
    size = (361, 639)
    resized = resize_logits(_edges(size, 0.9 * 639, 0.3 * 361), size, original)
    assert resized.shape == (1, 2, *original)
    assert abs(float((resized[0, 0] > 0)[0].sum()) - 0.1 * original[1]) <= 0.51
    assert abs(float((resized[0, 1] > 0)[:, 0].sum()) - 0.7 * original[0]) <= 0.51


@pytest.mark.parametrize("size", [(7, 5), (1, 1), (2, 9)])
def test_frames_of_a_few_pixels(size: tuple[int, int]) -> None:
    resized = resize_logits(torch.randn(1, 1, -(-size[0] // 4), -(-size[1] // 4)), size, size)
    assert resized.shape == (1, 1, *size) and resized.isfinite().all()


def test_whole_cells_are_resized_as_published() -> None:
    logits = torch.randn(2, 3, 16, 24)
    expected = F.interpolate(logits, size=(100, 151), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize_logits(logits, (64, 96), (100, 151)), expected)
    # The path for other sizes says the same where it need not cut anything.
    odd = F.interpolate(
        F.pad(logits, (0, 1, 0, 1), mode="replicate"), scale_factor=(100 / 16, 151 / 24), mode="bilinear"
    )
    torch.testing.assert_close(odd[..., :100, :151], expected, atol=1e-4, rtol=1e-3)


def test_bfloat16_masks_overlap_the_float32_ones(model: ReferFormer) -> None:
    masks = []
    for precision in ("float32", "bfloat16"):
        predictor = _predictor(model, precision=precision)
        prediction = predictor.predict(predictor.encode(_video()), ["a dog"])[0]
        assert prediction.boxes.dtype == prediction.scores.dtype == torch.float32
        masks.append(prediction.masks)
    assert (masks[0] == masks[1]).float().mean() > 0.9


# Checkpoints


def _save(path: Path, model: ReferFormer, /, **changes: Any) -> Path:
    # Where training started from is not needed any more, and need not be there.
    start = {"text_encoder": "no/such-encoder", "text_encoder_pretrained": True, "backbone_weights": "imagenet"}
    config = Config(model=small_config(**start), test=TestConfig(short_side=48, window=3, threshold=0.4))
    state = {"model": model.state_dict(), "config": config.to_dict(), "extras": model.checkpoint_extras()}
    save_checkpoint(path, {k: v for k, v in (state | changes).items() if v is not None})
    return path


def test_a_checkpoint_is_all_that_is_needed(
    tmp_path: Path, model: ReferFormer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _save(tmp_path / "checkpoint.pth", model)
    monkeypatch.chdir(tmp_path)
    restored = Predictor.from_checkpoint(path, device="cpu")
    assert (restored.short_side, restored.max_long_side, restored.window) == (48, None, 3)
    original, video = _predictor(model, short_side=48, threshold=0.4), _video()
    for a, b in zip(
        restored.predict(restored.encode(video), CAPTIONS),
        original.predict(original.encode(video), CAPTIONS),
        strict=True,
    ):
        assert torch.equal(a.masks, b.masks) and torch.equal(a.boxes, b.boxes) and a.query == b.query
    changed = Predictor.from_checkpoint(path, device="cpu", window=5, precision="bfloat16")
    assert (changed.window, changed.short_side, changed.half) == (5, 48, True)


def test_weights_of_the_published_layout_do_too(tmp_path: Path, model: ReferFormer) -> None:
    path = _save(tmp_path / "published.pth", model, model=to_published(model.state_dict(), 2))
    restored = Predictor.from_checkpoint(path, device="cpu").model.state_dict()
    assert all(torch.equal(value, restored[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": None}, "no configuration"),
        ({"config": "a string"}, "`config` is of type str, not a dict"),
        ({"config": {"model": {"num_querys": 3}}}, "num_querys"),
        ({"config": {"model": {"num_queries": "three"}}}, "configuration"),
        ({"config": Config(model=small_config(num_queries=9)).to_dict()}, r"query_embed\.weight.*num_queries"),
        ({"extras": {"text": {"config": "{}"}}}, "text encoder cannot be built"),
        ({"config": Config(model=small_config(backbone="timm/nothing")).to_dict()}, "timm/nothing"),
    ],
)
def test_another_checkpoint_is_an_error_that_names_the_file(
    tmp_path: Path, model: ReferFormer, changes: dict[str, Any], message: str
) -> None:
    path = _save(tmp_path / "other.pth", model, **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        Predictor.from_checkpoint(path, device="cpu")
    assert str(path) in str(error.value)


def test_the_model_is_put_in_evaluation_mode() -> None:
    model = small_model(dropout=0.5).train()
    predictor = Predictor(model, short_side=64, device="cpu")
    assert not predictor.model.training
    features = predictor.encode(_video())
    a, b = (predictor.predict(features, ["a dog"])[0] for _ in range(2))
    assert torch.equal(a.query_scores, b.query_scores) and torch.equal(a.masks, b.masks)
