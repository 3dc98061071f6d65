"""Any video, any sentences, typed answers: the same as window by window, whatever the length; files of a result."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from models.predictor import Predictor
from models.segmentation import MAX_LETTERS, check_sentences, unfamiliar_words
from tests.small_model import write_small_checkpoint
from tests.small_videos import moving_square, write_mp4
from util.export import mask_folder_name
from util.masks import read_mask
from util.presence import Presence
from util.propagation import FlowPropagator

FRAMES = moving_square(10)
SENTENCES = ["the red square", "the small circle on the left"]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Of random weights; its masks are half of the frame, so every path carries pixels."""
    checkpoint = write_small_checkpoint(tmp_path_factory.mktemp("model") / "model.pth")
    return Predictor.from_checkpoint(checkpoint, device="cpu")


def test_answers_are_those_of_the_windows(predictor: Predictor) -> None:
    windows = [torch.from_numpy(FRAMES[start : start + predictor.window]) for start in (0, 4, 8)]
    expected = list(predictor.track(windows, SENTENCES))
    done = []
    result = predictor.segment(FRAMES, SENTENCES, progress=done.append)
    assert done == [4, 4, 2]
    assert len(result) == 10
    for i, answer in enumerate(result.answers):
        assert answer.sentence == SENTENCES[i]
        np.testing.assert_array_equal(answer.masks(), torch.cat([window[i].masks for window in expected]))
        np.testing.assert_allclose(answer.scores, torch.cat([window[i].scores for window in expected]))
        np.testing.assert_allclose(answer.boxes, torch.cat([window[i].boxes for window in expected]))
        chosen = answer.query_boxes[np.arange(10), answer.queries]
        np.testing.assert_allclose(chosen, answer.boxes)
        assert answer.query_scores.shape == (10, 3)
        assert answer.reference_points.shape == (10, 3, 2)
        np.testing.assert_array_equal(answer.present, answer.masks().any((1, 2)))
        assert answer.found


def test_a_path_a_list_and_an_iterator_give_the_same(predictor: Predictor, tmp_path: Path) -> None:
    for t, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(tmp_path / f"{t}.png")
    expected = predictor.segment(FRAMES, SENTENCES[0]).answers[0].masks()
    for video in (tmp_path, str(tmp_path), list(FRAMES), iter(FRAMES), torch.from_numpy(FRAMES)):
        np.testing.assert_array_equal(predictor.segment(video, SENTENCES[0]).answers[0].masks(), expected)


def test_several_sentences_share_the_visual_work(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    look = predictor.model.look
    monkeypatch.setattr(predictor.model, "look", lambda frames: looks.append(1) or look(frames))
    predictor.segment(FRAMES, SENTENCES * 3)
    assert len(looks) == 3  # windows


def test_nothing_is_there_below_the_threshold(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = predictor.segment(FRAMES, SENTENCES[0]).answers[0].scores
    monkeypatch.setattr(predictor, "presence", Presence(min(float(scores.max()) + 0.05, 1), 0))
    answer = predictor.segment(FRAMES, SENTENCES[0]).answers[0]
    assert not answer.found and not answer.masks().any()
    np.testing.assert_allclose(answer.scores, scores)
    assert answer.verdict().startswith('not there: "the red square" (score ')


def test_what_cannot_be_read_means_nothing(predictor: Predictor, monkeypatch, caplog) -> None:
    """A sentence of words that the text encoder never met has a score that means nothing."""
    sentence = "赤い四角"
    assert predictor.segment(FRAMES, sentence).answers[0].found  # as published, without a threshold
    monkeypatch.setattr(predictor, "presence", Presence(1e-6, 0))
    with caplog.at_level(logging.WARNING):
        assert not predictor.segment(FRAMES, sentence).answers[0].found
    assert "has not learnt" in caplog.text and sentence in caplog.text


def test_familiar_words_are_not_called_strange(predictor: Predictor) -> None:
    tokenizer = predictor.model.text_encoder.tokenizer
    assert unfamiliar_words(tokenizer, "The small red square, moving left!") == []
    assert unfamiliar_words(tokenizer, "красный square") == ["красный"]


@pytest.mark.parametrize("sentences", [[], [""], ["the circle", " \t\n"], ["?!"], ["\x00"]])
def test_sentences_without_words_are_refused(predictor: Predictor, sentences: list[str]) -> None:
    with pytest.raises(ValueError, match=r"no sentence|sentence \d has no words"):
        predictor.segment(FRAMES, sentences)


def test_endless_sentences_are_cut(predictor: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    endless = "the red square " * 700
    with caplog.at_level(logging.WARNING):
        assert len(check_sentences([endless])[0]) <= MAX_LETTERS
    assert "10499 letters" in caplog.text
    assert predictor.segment(FRAMES[:2], endless).answers[0].scores.shape == (2,)


def test_saved_files(predictor: Predictor, tmp_path: Path) -> None:
    video = write_mp4(tmp_path / "clip.mp4", FRAMES)
    result = predictor.segment(video, [*SENTENCES, "../../Кот: \\"])
    written = []
    files = result.save(tmp_path / "out", progress=written.append)
    assert sum(written) == 10
    with av.open(str(files.overlay)) as container:
        assert len(list(container.decode(video=0))) == 10
    assert files.overlay.stat().st_size > 1000 and files.sheet.stat().st_size > 1000
    content = json.loads(files.results.read_text())
    assert content["num_frames"] == 10 and (content["height"], content["width"]) == FRAMES.shape[1:3]
    assert [entry["sentence"] for entry in content["sentences"]] == [a.sentence for a in result.answers]
    assert len({tuple(entry["colour"]) for entry in content["sentences"]}) == 3
    for answer, entry, folder in zip(result.answers, content["sentences"], files.masks, strict=True):
        assert entry["scores"] == pytest.approx(answer.scores.tolist(), abs=1e-4)
        assert len(entry["boxes"]) == len(entry["present"]) == 10
        assert folder.parent == tmp_path / "out" / "masks"
        assert len(list(folder.iterdir())) == 10
        for t in (0, 9):
            np.testing.assert_array_equal(read_mask(folder / f"{t:05d}.png"), answer.mask(t))
    assert result.show(3).width > 3 * 64


def test_an_older_result_is_replaced_and_nothing_else(predictor: Predictor, tmp_path: Path) -> None:
    result = predictor.segment(FRAMES[:3], SENTENCES)
    result.save(tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("keep")
    files = predictor.segment(FRAMES[:2], SENTENCES[0]).save(tmp_path / "out")
    assert [len(list(folder.iterdir())) for folder in (tmp_path / "out" / "masks").iterdir()] == [2]
    assert len(files.masks) == 1 and (tmp_path / "out" / "mine.txt").exists()
    (tmp_path / "other" / "masks").mkdir(parents=True)
    (tmp_path / "other" / "masks" / "precious.png").write_text("keep")
    with pytest.raises(FileExistsError, match="something else"):
        result.save(tmp_path / "other")
    assert (tmp_path / "other" / "masks" / "precious.png").exists()


def test_names_of_mask_folders() -> None:
    assert mask_folder_name(0, "The red square!") == "1_the-red-square"
    assert mask_folder_name(1, "../../etc/passwd") == "2_etc-passwd"
    assert mask_folder_name(2, "猫") == "3"


def test_the_best_mask_is_carried(predictor: Predictor) -> None:
    plain = predictor.segment(FRAMES, SENTENCES[0]).answers[0]
    carried = predictor.segment(FRAMES, SENTENCES[0], propagator=FlowPropagator()).answers[0]
    best = max((t for t in range(10) if plain.mask(t).any()), key=lambda t: plain.scores[t])
    np.testing.assert_array_equal(carried.mask(best), plain.mask(best))
    assert len(carried.raw_masks) == 10
    assert all(carried.present[t] == carried.mask(t).any() for t in range(10))


def test_a_limit_reads_no_further(predictor: Predictor) -> None:
    def endless():
        for t in range(1000):
            assert t < 20
            yield FRAMES[t % 10]

    assert len(predictor.segment(endless(), SENTENCES[0], max_frames=6)) == 6


def test_a_camera_runs_until_it_is_interrupted(predictor: Predictor, tmp_path: Path, monkeypatch) -> None:
    class FakeCapture:
        released = False

        def __init__(self, index: int) -> None:
            self.count = 0

        def isOpened(self) -> bool:
            return True

        def read(self):
            self.count += 1
            return True, FRAMES[self.count % 10][..., ::-1].copy()

        def release(self) -> None:
            FakeCapture.released = True

    monkeypatch.setattr("util.video_reader.cv2.VideoCapture", FakeCapture)
    done = []

    def stop(count: int) -> None:
        done.append(count)
        if len(done) == 2:
            raise KeyboardInterrupt

    result = predictor.segment("camera:0", SENTENCES[0], progress=stop)
    assert FakeCapture.released
    assert len(result) == len(result.answers[0].raw_masks) == 8
    files = result.save(tmp_path / "out")
    assert len(list(files.masks[0].iterdir())) == 8
