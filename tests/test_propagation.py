"""Carrying a mask through a video: from the best frame both ways, and never into frames that are not there."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch
from transformers import Sam2VideoConfig, Sam2VideoModel

from models.propagators import build_propagator
from models.sam2 import Sam2Propagator
from util.metrics import region_similarity
from util.propagation import FlowPropagator, FrameStore, propagate

T, SIZE = 12, (80, 120)


def textured_video(num_frames: int = T) -> tuple[np.ndarray, np.ndarray]:
    """Frames and masks (T, h, w) of a textured square that moves over another texture."""
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), (0, 0), 2) // 2
    patch = cv2.GaussianBlur(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8), (0, 0), 2) + np.uint8(60)
    frames, masks = np.stack([ground] * num_frames), np.zeros((num_frames, *SIZE), dtype=bool)
    for t in range(num_frames):
        top, left = 20 + t, 10 + 3 * t
        frames[t, top : top + 24, left : left + 24] = patch
        masks[t, top : top + 24, left : left + 24] = True
    return frames, masks


class Recorder:
    """A propagator that repeats the mask it is given, and notes the frames that it saw."""

    def __init__(self) -> None:
        self.walks: list[list[int]] = []

    def walk(self, frames: Iterator[np.ndarray], masks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        self.walks.append([int(next(frames)[0, 0, 0])])
        mask = next(masks)
        for frame, _ in zip(frames, masks, strict=True):
            self.walks[-1].append(int(frame[0, 0, 0]))
            yield mask


@pytest.mark.parametrize("best", [0, 2, 4])
def test_from_the_best_frame_forward_then_backward(best: int) -> None:
    masks = np.ones((5, 4, 4), dtype=bool)
    scores = [0.1] * 5
    scores[best] = 0.9
    recorder = Recorder()
    frames = [np.full((4, 4, 3), t, dtype=np.uint8) for t in range(5)]
    found = list(propagate(recorder, frames.__getitem__, masks, scores))
    assert recorder.walks == [list(range(best, 5)), list(range(best, -1, -1))]
    assert [t for t, _ in found] == [best, *range(best + 1, 5), *range(best - 1, -1, -1)]


def test_an_empty_mask_is_never_the_best() -> None:
    masks = np.zeros((3, 4, 4), dtype=bool)
    masks[2] = True
    recorder = Recorder()
    found = dict(propagate(recorder, lambda t: np.full((4, 4, 3), t, np.uint8), masks, [0.9, 0.8, 0.1]))
    assert recorder.walks[0][0] == 2
    assert all(mask.all() for mask in found.values())
    assert list(propagate(recorder, None, np.zeros((3, 4, 4), dtype=bool), [1, 1, 1])) == []


def j_of(found: dict[int, np.ndarray], truth: np.ndarray) -> float:
    return float(np.mean([region_similarity(found[t], truth[t]) for t in range(len(truth))]))


def test_flow_carries_a_mask_with_what_moves() -> None:
    frames, truth = textured_video()
    masks = np.zeros_like(truth)
    masks[5] = truth[5]
    found = dict(propagate(FlowPropagator(), frames.__getitem__, masks, [float(t == 5) for t in range(T)]))
    assert sorted(found) == list(range(T))
    assert j_of(found, truth) > 0.8


@pytest.mark.parametrize("displaced", [False, True])
def test_flow_mends_what_the_model_lost(displaced: bool) -> None:
    frames, truth = textured_video()
    masks = truth.copy()
    masks[1::3] = np.roll(truth[1::3], 40, axis=2) if displaced else False
    before = float(np.mean([region_similarity(masks[t], truth[t]) for t in range(T)]))
    found = dict(propagate(FlowPropagator(), frames.__getitem__, masks, [0.5] * T))
    assert before < 0.7
    assert j_of(found, truth) > 0.95


def test_frames_are_kept_small_and_fitted() -> None:
    frames, truth = textured_video(3)
    store = FrameStore(max_side=60)
    for frame in frames:
        store.append(frame)
    assert store(1).shape == (40, 60, 3)
    found = dict(propagate(FlowPropagator(), store, truth, [1, 0, 0]))
    assert found[2].shape == SIZE


@pytest.fixture(scope="module")
def sam2() -> Sam2VideoModel:
    """SAM 2 with random weights and a few channels."""
    backbone = {
        "hidden_size": 12,
        "num_attention_heads": 1,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 1, 1],
        "embed_dim_per_stage": [12, 24, 48, 96],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "window_positional_embedding_background_size": [2, 2],
        "global_attention_blocks": [],
    }
    vision = {
        "backbone_config": {"model_type": "sam2_hiera_det_model", **backbone},
        "backbone_channel_list": [96, 48, 24, 12],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 128,
    }
    torch.manual_seed(0)
    config = Sam2VideoConfig(
        vision_config={"model_type": "sam2_vision_model", **vision},
        prompt_encoder_config={"hidden_size": 128, "image_size": 64, "patch_size": 16},
        mask_decoder_config={"hidden_size": 128, "iou_head_hidden_dim": 16, "mlp_dim": 32, "num_attention_heads": 2},
        image_size=64,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
        memory_attention_rope_feat_sizes=[4, 4],
        mask_downsampler_embed_dim=128,
        num_maskmem=3,
        max_object_pointers_in_encoder=3,
    )
    return Sam2VideoModel(config).eval()


def test_sam2_gives_one_mask_a_frame_and_forgets_what_it_needs_no_more(sam2: Sam2VideoModel, monkeypatch) -> None:
    frames, truth = textured_video()
    propagator = Sam2Propagator(sam2)
    held = []
    forget = propagator._forget

    def spy(session, index, t):
        forget(session, index, t)
        held.append(len(session.output_dict_per_obj[index]["non_cond_frame_outputs"]) + len(session.processed_frames))

    monkeypatch.setattr(propagator, "_forget", spy)
    found = dict(propagate(propagator, frames.__getitem__, truth, [float(t == 4) for t in range(T)]))
    assert sorted(found) == list(range(T))
    assert all(mask.shape == SIZE and mask.dtype == bool for mask in found.values())
    np.testing.assert_array_equal(found[4], truth[4])
    assert max(held) <= 4


def test_sam2_sees_the_mask_and_the_frames(sam2: Sam2VideoModel) -> None:
    """The walk equals a walk through the model's own session, whose memory holds everything."""
    frames, truth = textured_video(8)
    propagator = Sam2Propagator(sam2)
    ours = np.stack(list(propagator.walk(iter(frames), iter(truth))))
    propagator._forget = lambda *_: None
    theirs = np.stack(list(propagator.walk(iter(frames), iter(truth))))
    np.testing.assert_array_equal(ours, theirs)


def test_sam2_from_a_folder(sam2: Sam2VideoModel, tmp_path) -> None:
    sam2.save_pretrained(tmp_path / "sam2")
    propagator = build_propagator("sam2", str(tmp_path / "sam2"), "cpu")
    frames, truth = textured_video(3)
    expected = list(Sam2Propagator(sam2).walk(iter(frames), iter(truth)))
    np.testing.assert_array_equal(list(propagator.walk(iter(frames), iter(truth))), expected)
    with pytest.raises(FileNotFoundError, match="no weights of SAM 2 there"):
        build_propagator("sam2", str(tmp_path / "nothing"), "cpu")


def test_names_of_propagators() -> None:
    assert build_propagator("none", "", "cpu") is None
    assert isinstance(build_propagator("flow", "", "cpu"), FlowPropagator)
