"""From frames and sentences to masks: resizing, the model call and undoing the resizing sit behind one class.

T frames of a window, N queries, h x w the video's original size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from models.baseline import Baseline
from models.build import load_model
from models.mask_head import STRIDE
from models.referformer import ReferFormer
from models.segmentation import Segmentation, segment
from models.side_by_side import SMALL_BYTES, InTurn, SideBySide
from models.text_encoder import TextFeatures
from models.visual_features import VisualFeatures
from util.boxes import box_cxcywh_to_xyxy
from util.config import TestConfig
from util.frames import normalise, resized_size
from util.presence import Presence


@dataclass(frozen=True)
class VideoFeatures:
    """A window of a video as the model sees it before any sentence.

    Attributes:
        visual: of the model.
        size: (h, w) the model worked at.
        original_size: (h, w) of the video.
        num_frames: T.
    """

    visual: VisualFeatures
    size: tuple[int, int]
    original_size: tuple[int, int]
    num_frames: int


@dataclass(frozen=True)
class Prediction:
    """What one caption means in the frames of one window.

    Attributes:
        caption: the sentence.
        masks: (T, h, w) bool at the video's original size.
        boxes: (T, 4) xyxy in pixels of the original size.
        scores: (T,) reference probability of the chosen query in each frame.
        query: the chosen query.
        query_scores: (T, N) reference probability of every query.
        query_boxes: (T, N, 4) xyxy in pixels of the original size, of every query.
        reference_points: (T, N, 2) xy in pixels of the original size, that entered the last decoder layer.
        probabilities: (T, h, w) float32 of each pixel, where they were asked for.
    """

    caption: str
    masks: Tensor
    boxes: Tensor
    scores: Tensor
    query: int
    query_scores: Tensor
    query_boxes: Tensor
    reference_points: Tensor
    probabilities: Tensor | None = None


@dataclass(frozen=True)
class _Caption:
    """A sentence, and what the model reads in it."""

    sentence: str
    text: TextFeatures


class Predictor:
    """Runs a model on video frames.

    The query with the highest mean reference probability over the video so far is chosen (section 3.5, equation 6).
    A video of one window is therefore judged as a whole, as published; in a longer one the choice is revised from
    window to window, and memory does not grow with the video.

    Args:
        model: a ReferFormer, or the baseline; it is moved to the device and put in evaluation mode.
        short_side: frames are resized to this short side (pixels).
        max_long_side: and to this long side at most, or None.
        window: frames that pass the network together in `segment`.
        threshold: a pixel is in the mask where its probability is above this.
        precision: `float32` or `bfloat16`.
        presence_threshold: `segment` finds nothing for a sentence whose score stays below this (`util/presence.py`).
        frame_presence_threshold: nor in a frame whose score is below this.
        device: `cpu`, `cuda` or `auto`.
    """

    def __init__(
        self,
        model: ReferFormer | Baseline,
        *,
        short_side: int = 360,
        max_long_side: int | None = None,
        window: int = 36,
        threshold: float = 0.5,
        precision: str = "float32",
        presence_threshold: float = 0.0,
        frame_presence_threshold: float = 0.0,
        device: torch.device | str = "auto",
    ):
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.short_side, self.max_long_side, self.window = short_side, max_long_side, window
        self.half = precision == "bfloat16"
        self.presence = Presence(presence_threshold, frame_presence_threshold)
        # The sigmoid rises, so logits are compared, not probabilities.
        self.logit_threshold = torch.logit(torch.tensor(threshold, dtype=torch.float64)).item()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "auto",
        text_encoder: str = "roberta-base",
        in_all_processes: bool = False,
        backbone: str | None = None,
        **overrides: Any,
    ) -> Predictor:
        """A predictor from a checkpoint, ours or a published one.

        Args:
            path: the checkpoint. Ours carries its configuration and its tokenizer; a published one's configuration is
                told from its weights.
            device: `cpu`, `cuda` or `auto`.
            text_encoder: hub name or folder of a published checkpoint's tokenizer.
            in_all_processes: all processes of the run call this together; only the main one then reads the tokenizer.
            backbone: that the checkpoint's model must have; None takes any.
            overrides: arguments of the constructor in place of the configuration's `test` section.

        Raises:
            FileNotFoundError: no such file, or no tokenizer.
            CheckpointError: the file is not a checkpoint, or not one of this architecture or with this backbone.
        """
        model, config = load_model(path, text_encoder, in_all_processes=in_all_processes, backbone=backbone)
        return build_predictor(model, dataclasses.replace(config.test, **overrides), device)

    @torch.inference_mode()
    def encode(self, frames: Tensor | np.ndarray) -> VideoFeatures:
        """The visual work that no text changes, done once for all captions.

        Args:
            frames: (T, h, w, 3) uint8 RGB.
        """
        frames = torch.as_tensor(frames)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8 or len(frames) == 0:
            raise ValueError(
                f"frames must be (T, h, w, 3) uint8, at least one; got {tuple(frames.shape)} {frames.dtype}"
            )
        original_size = tuple(frames.shape[1:3])
        size = resized_size(original_size, self.short_side, self.max_long_side)
        frames = frames.permute(0, 3, 1, 2).to(self.device)
        if size != original_size:
            frames = transforms.resize(frames, list(size), antialias=True)
        with self._autocast():
            visual = self.model.look(normalise(frames)[None])
        return VideoFeatures(visual, size, original_size, len(frames))

    def predict(
        self, features: VideoFeatures, captions: list[str], keep_probabilities: bool = False
    ) -> list[Prediction]:
        """Masks, boxes and scores of each caption in the frames of `encode`, and the pixels' probabilities if asked."""
        side_by_side = len(captions) > 1 and self._is_small(features)
        with SideBySide(len(captions)) if side_by_side else InTurn() as pieces:
            return self._predict(pieces, features, self._read(captions), [None] * len(captions), keep_probabilities)

    def track(self, windows: Iterable[Tensor], captions: list[str]) -> Iterator[list[Prediction]]:
        """Predictions for a video of any length, one list per window, one prediction per caption.

        Args:
            windows: (T, h, w, 3) uint8 frames of each window in turn.
            captions: sentences about the video.
        """
        windows = iter(windows)

        def look() -> VideoFeatures | None:
            frames = next(windows, None)
            return None if frames is None else self.encode(frames)

        features = look()
        small = features is not None and self._is_small(features)
        texts = self._read(captions)
        history: list[Tensor | None] = [None] * len(captions)
        with SideBySide(len(captions) + 1) if small else InTurn() as pieces:
            while features is not None:
                coming = pieces.submit(look) if small else None
                predictions = self._predict(pieces, features, texts, history)
                del features  # large ones make room before the next
                history = [
                    total + prediction.query_scores.sum(0) if total is not None else prediction.query_scores.sum(0)
                    for total, prediction in zip(history, predictions, strict=True)
                ]
                yield predictions
                features = look() if coming is None else coming.result()

    def segment(self, video: Any, sentences: str | Sequence[str], **options: Any) -> Segmentation:
        """What the sentences mean in any video, of any length: masks, boxes and scores, in memory that stays the same.

        Args:
            video: path of a video file, a folder of frames or a picture; `camera:0`; a list, an array or an iterator of
                (h, w, 3) uint8 RGB frames.
            sentences: one or several; visual work is shared by all.
            options: of `models.segmentation.segment`.

        Raises:
            FileNotFoundError, ValueError: the video cannot be read, or a sentence has no words.
        """
        return segment(self, video, [sentences] if isinstance(sentences, str) else sentences, **options)

    @torch.inference_mode()
    def _read(self, captions: list[str]) -> list[_Caption]:
        """The captions with their features; tokenizers are not made for several threads."""
        with self._autocast():
            return [_Caption(caption, self.model.text_encoder([caption])) for caption in captions]

    def _predict(
        self,
        pieces: InTurn,
        features: VideoFeatures,
        captions: list[_Caption],
        history: list[Tensor | None],
        keep_probabilities: bool = False,
    ) -> list[Prediction]:
        """`history`: (N,) summed scores of each caption's queries in earlier windows, or None."""
        futures = [
            pieces.submit(self._predict_one, features, caption, earlier, keep_probabilities)
            for caption, earlier in zip(captions, history, strict=True)
        ]
        return [future.result() for future in futures]

    @torch.inference_mode()
    def _predict_one(
        self, features: VideoFeatures, caption: _Caption, earlier: Tensor | None, keep_probabilities: bool
    ) -> Prediction:
        """Only the last layer's masks of the chosen query are made."""
        with self._autocast():
            best = self.model.answer(features.visual, caption.text, features.size, earlier)
        h, w = features.original_size
        boxes = box_cxcywh_to_xyxy(best.boxes.float()).clamp(0, 1).cpu() * torch.tensor([w, h, w, h])
        points = best.reference_points.float().cpu() * torch.tensor([w, h])
        logits = resize_logits(best.mask_logits, features.size, (h, w))[:, 0]
        return Prediction(
            caption.sentence,
            masks=(logits > self.logit_threshold).cpu(),
            boxes=boxes[:, best.query],
            scores=best.scores[:, best.query],
            query=best.query,
            query_scores=best.scores,
            query_boxes=boxes,
            reference_points=points,
            probabilities=logits.sigmoid().cpu() if keep_probabilities else None,
        )

    def _is_small(self, features: VideoFeatures) -> bool:
        """Whether its captions are better worked on side by side: on a CPU, where they take little memory."""
        finest = features.visual.finest
        return finest.device.type == "cpu" and finest.numel() * finest.element_size() <= SMALL_BYTES

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half)


def resize_logits(logits: Tensor, size: tuple[int, int], original_size: tuple[int, int]) -> Tensor:
    """Mask logits at stride 4 -> the video's size, bilinear, without stretching.

    A map of ceil(h / 4) rows covers up to three pixels more than the frame has. Where it does, the scale is that of
    the pixels, not of the maps, and what lies beyond the frame is cut.

    Args:
        logits: (T, N, ceil(h / 4), ceil(w / 4)).
        size: (h, w) the model worked at.
        original_size: (h, w) wanted.

    Returns:
        (T, N, *original_size) float32.
    """
    logits = logits.float()
    if (logits.shape[-2] * STRIDE, logits.shape[-1] * STRIDE) == tuple(size):
        return F.interpolate(logits, size=original_size, mode="bilinear", align_corners=False)
    scale = [STRIDE * wanted / have for wanted, have in zip(original_size, size, strict=True)]
    padded = F.pad(logits, (0, 1, 0, 1), mode="replicate")
    resized = F.interpolate(padded, scale_factor=scale, mode="bilinear", align_corners=False)
    return resized[..., : original_size[0], : original_size[1]]


def build_predictor(
    model: ReferFormer | Baseline, settings: TestConfig, device: torch.device | str = "auto"
) -> Predictor:
    """What runs a model on videos with the settings of `test`."""
    return Predictor(model, device=device, **dataclasses.asdict(settings))
