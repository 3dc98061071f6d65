"""Pieces of work side by side give what they give in turn, and leave the program's own threads alone."""

import threading

import pytest
import torch

import models.predictor
from models.predictor import Predictor
from models.side_by_side import InTurn, SideBySide
from tests.small_model import small_model

CAPTIONS = ["a dog", "the red square on the left", "a cat that runs"]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_pieces_run_at_the_same_time_with_their_share_of_the_cores(two_threads: None) -> None:
    meeting = threading.Barrier(2)

    def piece() -> int:
        meeting.wait(timeout=60)  # breaks unless both are there
        return torch.get_num_threads()

    with SideBySide(2) as pieces:
        futures = [pieces.submit(piece) for _ in range(2)]
        assert [future.result() for future in futures] == [1, 1]
    assert torch.get_num_threads() == 2


def test_one_piece_keeps_all_cores(two_threads: None) -> None:
    with SideBySide(1) as pieces:
        assert pieces.submit(torch.get_num_threads).result() == 2


@pytest.mark.parametrize("pieces", [InTurn(), SideBySide(2)])
def test_what_a_piece_raises_reaches_the_caller(pieces: InTurn) -> None:
    def fail() -> None:
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"), pieces:
        pieces.submit(fail).result()


def test_small_windows_side_by_side_are_those_in_turn(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(small_model(), short_side=64, device="cpu")
    generator = torch.Generator().manual_seed(0)
    windows = [torch.randint(0, 256, (2, 48, 64, 3), dtype=torch.uint8, generator=generator) for _ in range(3)]
    made = []
    monkeypatch.setattr(models.predictor, "SideBySide", lambda n: made.append(n) or SideBySide(n))
    together = list(predictor.track(windows, CAPTIONS))
    together += [predictor.predict(predictor.encode(windows[0]), CAPTIONS)]
    assert made == [4, 3]
    monkeypatch.setattr(models.predictor, "SMALL_BYTES", 0)
    in_turn = list(predictor.track(windows, CAPTIONS))
    in_turn += [predictor.predict(predictor.encode(windows[0]), CAPTIONS)]
    assert made == [4, 3]
    for some, others in zip(together, in_turn, strict=True):
        for a, b in zip(some, others, strict=True):
            assert a.caption == b.caption and a.query == b.query
            assert (a.masks == b.masks).float().mean() > 0.999
            torch.testing.assert_close(a.query_scores, b.query_scores, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(a.query_boxes, b.query_boxes, rtol=1e-4, atol=1e-2)


def test_no_window_no_predictions() -> None:
    predictor = Predictor(small_model(), short_side=64, device="cpu")
    assert list(predictor.track([], CAPTIONS)) == []
