"""From any video and several sentences to `Segmentation`: windows stream through the predictor, results go to disk.

T frames, N queries, h x w the video's size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from util.answers import Answer, Segmentation
from util.frame_source import FrameSource, Limited, Recorded, TimedFrame
from util.mask_store import MaskStore
from util.masks import mask_bounds
from util.propagation import FrameStore, Propagator, propagate
from util.read_ahead import read_ahead
from util.video_reader import Camera, open_video
from util.visualize import palette

if TYPE_CHECKING:
    from models.predictor import Prediction, Predictor

logger = logging.getLogger(__name__)

MAX_LETTERS = 2000  # of a sentence; what is beyond could not be read by any text encoder, but takes time and memory


def segment(
    predictor: Predictor,
    video: Any,
    sentences: Sequence[str],
    *,
    propagator: Propagator | None = None,
    max_frames: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Segmentation:
    """What the sentences mean in a video.

    Args:
        predictor: the model; its window is how many frames are in memory at a time.
        video: what `util.video_reader.open_video` takes.
        sentences: at least one.
        propagator: carries each object's best mask through the video in place of the model's masks.
        max_frames: no more than the first so many are read.
        progress: called with the number of frames of each window that is done.

    Raises:
        FileNotFoundError, ValueError: the video cannot be read, or a sentence has no words.
    """
    sentences = check_sentences(sentences)
    source = open_video(video)
    live = isinstance(source, Camera)
    if max_frames is not None:
        source = Limited(source, max_frames)
    if not source.replayable:
        source = Recorded(source)
    store = FrameStore() if propagator is not None else None
    times: list[float] = []
    tracks: list[_Track] = []
    try:
        for predictions in predictor.track(_windows(source, predictor.window, times, store), sentences):
            if not tracks:
                tracks = [_Track(tuple(p.masks.shape[1:])) for p in predictions]
            for track, prediction in zip(tracks, predictions, strict=True):
                track.add(prediction)
            if progress is not None:
                progress(len(predictions[0].scores))
    except KeyboardInterrupt:
        if not (live and tracks):  # a camera has no other end
            raise
    answers = []
    for i, (track, sentence) in enumerate(zip(tracks, sentences, strict=True)):
        answers.append(track.finish(sentence, i, predictor, propagator, store))
    return Segmentation(source, tracks[0].masks.size, np.array(times[: len(tracks[0].masks)]), tuple(answers))


def check_sentences(sentences: Sequence[str]) -> list[str]:
    """Sentences with their spaces squeezed, cut where they are endless.

    Raises:
        ValueError: there is none, or one has no words; it is named by its number.
    """
    if not sentences:
        raise ValueError('no sentence; say which object is meant, "the red square" for instance')
    checked = []
    for i, sentence in enumerate(sentences):
        text = "".join(c if c.isprintable() or c.isspace() else " " for c in sentence)
        text = " ".join(text.split())
        if not any(character.isalnum() for character in text):
            raise ValueError(f"sentence {i + 1} has no words; say which object is meant")
        if len(text) > MAX_LETTERS:
            logger.warning("sentence %d has %d letters; the first %d are read", i + 1, len(text), MAX_LETTERS)
        checked.append(text[:MAX_LETTERS])
    return checked


def unfamiliar_words(tokenizer: Any, sentence: str) -> list[str]:
    """Words that a tokenizer knows only by their letters: it cuts them into pieces of less than two on the mean."""
    words = dict.fromkeys(word for word in sentence.lower().split() if any(c.isalnum() for c in word))
    pieces = {word: tokenizer.tokenize(f" {word}") for word in words}
    unknown = tokenizer.unk_token
    return [w for w, cut in pieces.items() if unknown in cut or (len(cut) > 1 and 2 * len(cut) > len(w.strip(",.!?")))]


class _Track:
    """What is known of one sentence so far."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.masks = MaskStore(size)
        self._parts: dict[str, list[np.ndarray]] = {
            name: []
            for name in ("scores", "boxes", "shown", "queries", "query_scores", "query_boxes", "reference_points")
        }

    def add(self, prediction: Prediction) -> None:
        """Take in a window."""
        for mask in prediction.masks.numpy():
            self.masks.append(mask)
        for name, parts in self._parts.items():
            if name == "queries":
                parts.append(np.full(len(prediction.scores), prediction.query))
            elif name == "shown":
                parts.append(prediction.masks.flatten(1).any(1).numpy())
            else:
                parts.append(getattr(prediction, name).float().numpy())

    def finish(
        self,
        sentence: str,
        index: int,
        predictor: Predictor,
        propagator: Propagator | None,
        store: FrameStore | None,
    ) -> Answer:
        """The answer, its masks carried from the best frame when there is a propagator."""
        values = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        masks, boxes = self.masks, values.pop("boxes")
        present = predictor.presence.in_frames(values["scores"]) & values.pop("shown")
        strange = unfamiliar_words(predictor.model.text_encoder.tokenizer, sentence)
        if strange:
            logger.warning("words that the text encoder has not learnt: %s", ", ".join(strange)[:200])
            if predictor.presence.sentence_threshold and 2 * len(strange) > len(sentence.split()):
                present[:] = False  # the score of such a sentence means nothing
        if propagator is not None and store is not None and present.any():
            # A carried mask stands by itself: it is there where it is not empty, whatever the model saw.
            masks = carry(propagator, store, masks, values["scores"])
            for t in range(len(masks)):
                bounds = mask_bounds(masks[t])
                present[t] = bounds is not None
                boxes[t] = bounds or 0
        return Answer(sentence, palette(index), boxes=boxes, present=present, raw_masks=masks, **values)


def carry(propagator: Propagator, read_frame: Callable[[int], np.ndarray], masks: Any, scores: np.ndarray) -> MaskStore:
    """All masks of a video, carried from the frame with the highest score (`util.propagation.propagate`)."""
    carried = MaskStore(masks.size)
    where = {}
    for t, mask in propagate(propagator, read_frame, masks, scores.tolist()):
        where[t] = len(carried)
        carried.append(mask)
    ordered = MaskStore(masks.size)
    for t in range(len(masks)):
        ordered.append(carried[where[t]] if t in where else masks[t])
    return ordered


def _windows(source: FrameSource, window: int, times: list[float], store: FrameStore | None) -> Iterator[Tensor]:
    """(t, h, w, 3) uint8; also notes the times, and the frames where they are wanted again in another order."""
    for frames in read_ahead(_grouped(source.frames(), window)):
        for frame in frames:
            times.append(frame.time)
            if store is not None:
                store.append(frame.image)
        yield torch.from_numpy(np.stack([frame.image for frame in frames]))


def _grouped(frames: Iterator[TimedFrame], window: int) -> Iterator[list[TimedFrame]]:
    group: list[TimedFrame] = []
    for frame in frames:
        group.append(frame)
        if len(group) == window:
            yield group
            group = []
    if group:
        yield group
