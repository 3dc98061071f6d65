"""inference_ytvos.py where no mask is certain before the last frame: with a propagator, or with "not there"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import inference_ytvos
from datasets.shapes import main as write_shapes
from datasets.videos import VideoDataset
from inference_jobs import list_jobs
from inference_ytvos import infer
from models.predictor import Prediction
from models.segmentation import segment
from scripts import eval_jf
from tests.small_model import write_small_checkpoint
from util.distributed import ProcessInfo
from util.masks import read_mask
from util.presence import Presence
from util.propagation import FlowPropagator
from util.results import ResultFolder

ALONE = ProcessInfo(0, 1, torch.device("cpu"))
LOST = slice(1, None, 3)  # every third frame


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    sizes = ["--num_videos", "1", "--num_valid_videos", "4", "--num_frames", "12", "--num_workers", "1"]
    write_shapes(["ytvos", str(root), *sizes, "--num_absent", "2"])
    return root


class TruthfulPredictor:
    """Says the truth, but loses the object in every third frame: its mask is dropped there, or put elsewhere."""

    window = 5
    model = SimpleNamespace(
        text_encoder=SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained("configs/text_encoder_small"))
    )

    def __init__(self, root: Path, displaced: bool = False, presence: Presence | None = None) -> None:
        self.presence, self._displaced = presence or Presence(), displaced
        dataset = VideoDataset(root, "valid")
        self._truth = {
            (self._key(next(iter(video.windows(1)))), e.caption): np.stack(
                [e.mask(video.masks(t)) for t in range(len(video))]
            )
            for video in dataset
            for e in video.expressions
        }

    @staticmethod
    def _key(frames: torch.Tensor) -> bytes:
        return frames[0].numpy().tobytes()

    def track(self, windows, captions: list[str]) -> Iterator[list[Prediction]]:
        start, key = 0, None
        for frames in windows:
            key = key or self._key(frames)
            predictions = []
            for caption in captions:
                masks = self._truth[key, caption].copy()
                there = masks.any()
                masks[LOST] = np.roll(masks[LOST], 60, axis=2) if self._displaced else False
                masks = torch.from_numpy(masks[start : start + len(frames)])
                scores = torch.full((len(frames),), 0.8 if there else 0.2)
                scores[LOST.start :: LOST.step] -= 0.1
                boxes = torch.zeros(len(frames), 1, 4)
                predictions.append(
                    Prediction(caption, masks, boxes[:, 0], scores, 0, scores[:, None], boxes, boxes[..., :2])
                )
            start += len(frames)
            yield predictions

    def segment(self, video, sentences, **options):
        return segment(self, video, sentences, **options)


def score(root: Path, folder: ResultFolder, *options: str) -> dict:
    meta = root / "meta_expressions" / "valid" / "meta_expressions.json"
    places = ["--results", str(folder.annotations), "--annotations", str(root / "valid" / "Annotations")]
    return eval_jf.main([*places, "--meta", str(meta), "--num_workers", "0", *options])


def infer_into(path: Path, root: Path, predictor: TruthfulPredictor, propagator=None, **options) -> ResultFolder:
    folder = ResultFolder(path)
    infer(predictor, list_jobs(VideoDataset(root, "valid")), folder, {}, ALONE, propagator=propagator, **options)
    return folder


@pytest.mark.parametrize("displaced", [False, True], ids=["dropped", "displaced"])
def test_propagation_brings_back_what_was_lost_in_a_third_of_the_frames(
    data_root: Path, tmp_path: Path, displaced: bool
) -> None:
    predictor = TruthfulPredictor(data_root, displaced)
    before = score(data_root, infer_into(tmp_path / "plain", data_root, predictor))
    after = score(data_root, infer_into(tmp_path / "flow", data_root, predictor, FlowPropagator()))
    assert before["J&F"] < 0.75
    assert after["J&F"] >= before["J&F"] + 0.1
    dataset = VideoDataset(data_root, "valid")
    for video in dataset:  # no frame that is not there, and none that is missing
        for folder in (tmp_path / "flow" / "Annotations" / video.name).iterdir():
            assert {path.stem for path in folder.iterdir()} == set(video.frame_names)


def test_not_there_is_an_answer_in_results_too(data_root: Path, tmp_path: Path) -> None:
    predictor = TruthfulPredictor(data_root, presence=Presence(0.5, 0.0))
    predictor._truth = {key: truth if truth.any() else ~truth for key, truth in predictor._truth.items()}
    dataset = VideoDataset(data_root, "valid")
    absent = [(video, e) for video in dataset for e in video.expressions if e.obj_id == 0]
    assert absent

    def track(windows, captions):
        for predictions in TruthfulPredictor.track(predictor, windows, captions):
            for prediction in predictions:
                if any(prediction.caption == e.caption for _, e in absent):
                    prediction.scores[:] = 0.2
            yield predictions

    predictor.track = track
    folder = infer_into(tmp_path / "out", data_root, predictor, visualize=True)
    for video, e in absent:
        for name in video.frame_names:
            assert not read_mask(folder.mask_path(video.name, e.expression_id, name), video.size).any()
        assert (folder.path / "visualize" / video.name / f"{e.expression_id}.jpg").is_file()
    assert score(data_root, folder, "--no_target")["no_target_accuracy"] == 1


def test_the_program_propagates_and_tells_results_apart(data_root: Path, tmp_path: Path) -> None:
    checkpoint = write_small_checkpoint(tmp_path / "model.pth")
    arguments = ["--checkpoint", str(checkpoint), "--data_root", str(data_root), "--device", "cpu"]
    arguments += ["--output_dir", str(tmp_path / "out"), "--propagate", "flow"]
    inference_ytvos.main(arguments)
    assert json.loads((tmp_path / "out" / "inference.json").read_text())["propagate"] == "flow"
    assert (tmp_path / "out" / "submission.zip").is_file()
    with pytest.raises(ValueError, match="propagate"):
        inference_ytvos.main([*arguments[:-2]])
