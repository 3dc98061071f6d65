"""Thresholds below which nothing is there: found where it can be computed by hand, and stored in a checkpoint."""

from pathlib import Path

import numpy as np
import pytest

from datasets.shapes import main as write_shapes
from models.predictor import Predictor
from scripts.calibrate_presence import Case, calibrate, main
from tests.small_model import write_small_checkpoint


def case(scores: list[float], j: float, visible: list[int], has_object: bool = True) -> Case:
    shown = np.array(visible, dtype=bool)
    return Case(np.array(scores), np.where(shown, j, 0.0), (~shown).astype(float), has_object)


def test_thresholds_lie_between_what_they_part():
    there = case([0.8, 0.8, 0.8, 0.2, 0.2, 0.2], 0.9, [1, 1, 1, 0, 0, 0])
    always = case([0.6] * 6, 0.9, [1] * 6)
    absent = case([0.3] * 6, 0.0, [0] * 6, has_object=False)
    presence, report = calibrate([there, always, absent])
    assert 0.3 < presence.sentence_threshold <= 0.5
    assert 0.2 < presence.frame_threshold <= 0.6
    assert report["no_target_accuracy"] == report["target_accuracy"] == 1
    assert report["J_without_rule"] == pytest.approx((0.45 + 0.9) / 2)
    assert report["J"] == pytest.approx((0.95 + 0.9) / 2)


def test_frames_are_kept_where_dropping_them_does_not_pay():
    cases = [case([0.8, 0.1, 0.8, 0.1, 0.8], 0.9, [1] * 5), case([0.1] * 5, 0, [0] * 5, has_object=False)]
    presence, _ = calibrate(cases)
    assert presence.in_frames(cases[0].scores).all()


def test_where_it_costs_next_to_nothing_frames_are_said_to_be_empty():
    """A mask of J 0.001 in a frame with the object is not worth keeping; one of 0.5 is."""
    scores = [0.8, 0.8, 0.8, 0.3, 0.3, 0.3]
    absent = case([0.1] * 6, 0, [0] * 6, has_object=False)
    for j, kept in ((0.001, False), (0.5, True)):
        some = Case(np.array(scores), np.array([0.9] * 3 + [j] * 3), np.zeros(6), True)
        presence, _ = calibrate([some, absent])
        assert presence.in_frames(some.scores).tolist() == [True] * 3 + [kept] * 3


def test_both_sorts_are_needed():
    with pytest.raises(ValueError, match="both sorts"):
        calibrate([case([0.5], 1, [1])])


def test_the_checkpoint_keeps_them(tmp_path: Path):
    checkpoint, data = write_small_checkpoint(tmp_path / "model.pth"), tmp_path / "data"
    sizes = ["--num_videos", "2", "--num_frames", "3", "--height", "64", "--width", "96", "--num_workers", "1"]
    write_shapes(["ytvos", str(data), *sizes, "--num_absent", "2"])
    before = Predictor.from_checkpoint(checkpoint, device="cpu")
    main(["--checkpoint", str(checkpoint), "--data_root", str(data), "--device", "cpu", "--write"])
    after = Predictor.from_checkpoint(checkpoint, device="cpu")
    assert not before.presence.decides
    assert after.presence.sentence_threshold > 0
    assert after.short_side == before.short_side
