"""Finds the scores below which a sentence, or a frame, is "not there", on a split with expressions without an object.

    python -m datasets.shapes ytvos data/absent --num_videos 60 --num_absent 4 --seed 7
    python scripts/calibrate_presence.py --checkpoint model.pth --data_root data/absent --split train [--write]

The sentence threshold is the one with the best balanced accuracy (mean of the shares of sentences with and without an
object that are told right). The frame threshold then is the highest one that costs at most 0.002 of the best mean J
over the frames of sentences with an object: where it costs next to nothing, "not there" is the better answer.
`--write` puts both into the checkpoint's settings; without it, give them as --test.presence_threshold and
--test.frame_presence_threshold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.videos import Video, VideoDataset
from models.predictor import Predictor
from util.checkpoint_io import load_checkpoint, save_checkpoint
from util.metrics import region_similarity
from util.presence import Presence, sentence_score

ALLOWED_LOSS = 0.002  # of J
CANDIDATES = np.round(np.arange(0, 1, 0.01), 2)


@dataclass(frozen=True)
class Case:
    """One sentence about one video.

    Attributes:
        scores: (T,) of the chosen query.
        j: (T,) of its masks.
        empty_j: (T,) of empty masks: 1 where the object is not in the frame.
        has_object: whether the sentence has an object in the video.
    """

    scores: NDArray[np.float64]
    j: NDArray[np.float64]
    empty_j: NDArray[np.float64]
    has_object: bool


def collect(predictor: Predictor, video: Video) -> list[Case]:
    """The cases of a video."""
    captions = [expression.caption for expression in video.expressions]
    scores: list[list[float]] = [[] for _ in captions]
    j: list[list[float]] = [[] for _ in captions]
    empty_j: list[list[float]] = [[] for _ in captions]
    start = 0
    for predictions in predictor.track(video.windows(predictor.window), captions) if captions else ():
        num_frames = len(predictions[0].scores)
        truths = [video.masks(start + t) for t in range(num_frames)]
        for i, (expression, prediction) in enumerate(zip(video.expressions, predictions, strict=True)):
            scores[i] += prediction.scores.tolist()
            for mask, ids in zip(prediction.masks.numpy(), truths, strict=True):
                truth = expression.mask(ids)
                j[i].append(region_similarity(mask, truth))
                empty_j[i].append(float(not truth.any()))
        start += num_frames
    parts = zip(video.expressions, scores, j, empty_j, strict=True)
    return [Case(np.array(s), np.array(a), np.array(b), bool(e.obj_id)) for e, s, a, b in parts]


def calibrate(cases: Sequence[Case]) -> tuple[Presence, dict[str, float]]:
    """The rule that serves the cases best, and how well it does.

    Raises:
        ValueError: all cases have an object, or none has.
    """
    has_object = np.array([case.has_object for case in cases])
    if has_object.all() or not has_object.any():
        raise ValueError(
            f"{has_object.sum()} of {len(cases)} sentences have an object; both sorts are needed "
            "(python -m datasets.shapes ytvos --num_absent 4)"
        )
    scores = np.array([sentence_score(case.scores) for case in cases])
    balanced = [
        (np.mean(scores[has_object] >= value) + np.mean(scores[~has_object] < value)) / 2 for value in CANDIDATES
    ]
    sentence_threshold = _middle_of_best(balanced)
    mean_j = [_mean_j(cases, Presence(sentence_threshold, float(value))) for value in CANDIDATES]
    frame_threshold = max(value for value, j in zip(CANDIDATES, mean_j, strict=True) if j >= max(mean_j) - ALLOWED_LOSS)
    presence = Presence(sentence_threshold, float(frame_threshold))
    found = np.array([presence.in_frames(case.scores).any() for case in cases])
    return presence, {
        "no_target_accuracy": float(np.mean(~found[~has_object])),
        "target_accuracy": float(np.mean(found[has_object])),
        "J_without_rule": _mean_j(cases, Presence()),
        "J": _mean_j(cases, presence),
        "num_no_target": int((~has_object).sum()),
        "num_target": int(has_object.sum()),
    }


def _mean_j(cases: Sequence[Case], presence: Presence) -> float:
    """Of the sentences with an object."""
    return float(
        np.mean([np.where(presence.in_frames(c.scores), c.j, c.empty_j).mean() for c in cases if c.has_object])
    )


def _middle_of_best(values: Sequence[float]) -> float:
    """The candidate in the middle of the first run of the highest value, as far as possible from what is worse."""
    values = np.round(values, 6)
    first = int(np.argmax(values))
    last = first
    while last + 1 < len(values) and values[last + 1] == values[first]:
        last += 1
    return float(CANDIDATES[(first + last) // 2]) if first else 0.0


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data_root", type=Path, required=True, help="data set in the Ref-YouTube-VOS layout")
    parser.add_argument("--split", default="train", help="annotated; not the one that is scored afterwards")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--write", action="store_true", help="put the thresholds into the checkpoint")
    args = parser.parse_args(argv)
    predictor = Predictor.from_checkpoint(args.checkpoint, device=args.device)
    videos = VideoDataset(args.data_root, args.split)
    videos.reader.require_annotations()
    cases = [case for video in tqdm(videos, unit="video") for case in collect(predictor, video)]
    presence, report = calibrate(cases)
    settings = {
        "presence_threshold": presence.sentence_threshold,
        "frame_presence_threshold": presence.frame_threshold,
    }
    print(json.dumps(settings | report))
    if args.write:
        state = load_checkpoint(args.checkpoint)
        if "config" not in state:
            raise ValueError(
                f"{args.checkpoint}: a published checkpoint has no settings; export it to our layout first"
            )
        test = state["config"].get("test", {}) | settings
        save_checkpoint(args.checkpoint, state | {"config": state["config"] | {"test": test}})
        print(f"{args.checkpoint}: written")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
