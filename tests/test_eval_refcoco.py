"""RefCOCO from pretraining to the scores of every split."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import eval_refcoco
import main
from datasets.refcoco import RefCOCOReader
from image_evaluation import measure_overlaps
from models.predictor import Predictor
from tests.small_coco import write_coco
from tests.small_model import write_small_checkpoint
from util.checkpoint_io import load_checkpoint

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("images") / "coco")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("weights") / "small.pth")


def options(coco: Path, checkpoint: Path, *more: str) -> list[str]:
    weak = ["--test.threshold", "0.3", "--test.short_side", "96", "--device", "cpu"]
    return ["--checkpoint", str(checkpoint), "--data_root", str(coco), *weak, *more]


def test_all_splits_are_scored(coco: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "scores" / "refcoco.json"
    scores = eval_refcoco.main(options(coco, checkpoint, "--output", str(output)))
    rows = {name: row["num_samples"] for name, row in scores.items()}
    assert set(rows) == {
        *(f"{name} {split}" for name in ("refcoco", "refcoco+") for split in ("val", "testA", "testB")),
        *(f"refcocog {split}" for split in ("val", "test")),
    }
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == json.loads(output.read_text()) == scores
    assert len([line for line in lines if line.startswith("refcoco")]) == 8
    assert rows["refcoco val"] == len(RefCOCOReader(coco, "val", ["refcoco"]).samples)
    assert any(0 < row["mean_IoU"] < 1 and 0 < row["box_mean_IoU"] < 1 for row in scores.values())


def test_scores_are_those_of_single_sentences(coco: Path, checkpoint: Path) -> None:
    """The features of an image serve all its sentences; nothing leaks from one to another."""
    reader = RefCOCOReader(coco, "val", ["refcoco", "refcocog"])
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu", threshold=0.3, short_side=96)
    overlaps = measure_overlaps(predictor, reader)
    for sample, overlap in zip(reader.samples, overlaps, strict=True):
        frames = torch.from_numpy(reader.read_image(sample)[None])
        prediction = predictor.predict(predictor.encode(frames), [sample.caption])[0]
        mask, truth = prediction.masks[0].numpy(), reader.read_mask(sample)
        assert (overlap.intersection, overlap.union) == ((mask & truth).sum(), (mask | truth).sum())


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_score_each_sentence_once(coco: Path, checkpoint: Path, processes: int, tmp_path: Path) -> None:
    alone = eval_refcoco.main(options(coco, checkpoint, "--sets", "refcoco", "refcoco+", "--splits", "val"))
    output = tmp_path / "scores.json"
    arguments = options(coco, checkpoint, "--sets", "refcoco", "refcoco+", "--splits", "val", "--output", str(output))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    subprocess.run(
        [*launcher, "eval_refcoco.py", *arguments], cwd=ROOT, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert flat(json.loads(output.read_text())) == pytest.approx(flat(alone), abs=1e-6)


def flat(scores: dict[str, Any]) -> dict[str, float]:
    return {f"{name} {key}": value for name, row in scores.items() for key, value in row.items()}


def test_mistakes_are_named(coco: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"instances_refcoco_val\.json: no such file; make it with"):
        eval_refcoco.main(options(tmp_path, checkpoint))
    with pytest.raises(FileNotFoundError, match=r"instances_refcocog_testA\.json"):
        eval_refcoco.main(options(coco, checkpoint, "--sets", "refcocog", "--splits", "testA"))
    with pytest.raises(FileNotFoundError, match="no other of refcoco, refcocog has the split tesB"):
        eval_refcoco.main(options(coco, checkpoint, "--sets", "refcoco", "refcocog", "--splits", "val", "tesB"))


def test_pretrains_and_evaluates(coco: Path, tiny_options: list[str], capsys: pytest.CaptureFixture) -> None:
    folder = Path(tiny_options[-1])
    data = ["--data.dataset", "refcoco", "--data.root", str(coco), "--data.num_frames", "1", "--data.eval_split", "val"]
    short = ["--optim.epochs", "1", "--optim.batch_size", "8", "--test.threshold", "0.3", "--test.short_side", "96"]
    record = main.main([*tiny_options, *data, *short])
    assert record["train"]["loss"] > 0
    per_set = record["eval"]["per_set"]
    assert set(per_set) == {"refcoco", "refcoco+", "refcocog"}
    assert sum(scores["num_samples"] for scores in per_set.values()) == record["eval"]["num_samples"]
    path = folder / "checkpoint.pth"
    assert load_checkpoint(path)["config"]["data"]["dataset"] == "refcoco"
    again = eval_refcoco.main(options(coco, path, "--sets", "refcocog", "--splits", "val"))
    assert again["refcocog val"] == pytest.approx(per_set["refcocog"], abs=1e-6)
