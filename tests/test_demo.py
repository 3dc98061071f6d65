"""demo.py as a user runs it: any video, any sentence, the sample, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import demo
from datasets.shapes_sample import SENTENCES, SampleClip, truth, write_sample
from tests.published_file import TEXT_ENCODER, small_published_model, write_published
from tests.small_model import write_small_checkpoint
from tests.small_videos import moving_square, write_encrypted, write_mp4, write_sound, write_without_frames
from util.masks import read_mask
from util.metrics import region_similarity

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("model") / "model.pth")


def run_program(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "demo.py", *arguments], cwd=cwd, capture_output=True, text=True)


def test_the_sample_gives_a_good_result_at_once(tmp_path: Path) -> None:
    demo.main(["--sample", "--device", "cpu", "--output_dir", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert [entry["sentence"] for entry in results["sentences"]] == list(SENTENCES)
    assert sum(not entry["found"] for entry in results["sentences"]) == 1  # one of them is about nothing
    for entry, expected in zip(results["sentences"], truth(), strict=True):
        folder = tmp_path / entry["masks"]
        scores = [region_similarity(read_mask(folder / f"{t:05d}.png"), mask) for t, mask in enumerate(expected)]
        assert np.mean(scores) > 0.75, entry["sentence"]
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert len(list(container.decode(video=0))) == SampleClip.num_frames


def test_the_sample_as_a_file(tmp_path: Path) -> None:
    write_sample(tmp_path / "sample.mp4")
    with av.open(str(tmp_path / "sample.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for frame, original in zip(frames, SampleClip().frames(), strict=True):
        assert np.abs(frame.astype(float) - original.image).mean() < 6


def test_a_video_and_sentences(checkpoint: Path, tmp_path: Path) -> None:
    video = write_mp4(tmp_path / "my clip.mp4", moving_square())
    done = run_program(str(video), "the red square", "the blue one", "--checkpoint", str(checkpoint), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "demo" / "my clip"
    assert json.loads((folder / "results.json").read_text())["num_frames"] == 6
    assert "frame/s" in done.stderr or "s/frame" in done.stderr  # the bar tells the speed
    assert 'found: "the red square" (score ' in done.stderr


def test_results_of_another_video_of_the_same_name_are_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_mp4(tmp_path / "own.mp4", moving_square(3))
    Image.fromarray(moving_square(1, (48, 100))[0]).save("own.png")
    (tmp_path / "own").mkdir()
    for t, frame in enumerate(moving_square(2)):
        Image.fromarray(frame).save(tmp_path / "own" / f"{t}.png")
    found = {}
    for video in ("own.mp4", "own.png", "own", "own.mp4", "own.png", "own"):
        demo.main([video, "the red square", "--checkpoint", str(checkpoint), "--device", "cpu", "--no_masks"])
        found = {
            path.parent.name: json.loads(path.read_text())["num_frames"] for path in Path("runs").rglob("results.json")
        }
    assert found == {"own": 3, "own.png": 1, "own_2": 2}


def test_a_published_checkpoint(tmp_path: Path) -> None:
    path = write_published(tmp_path / "published.pth", small_published_model())
    video = write_mp4(tmp_path / "a.mp4", moving_square(3))
    options = ["--checkpoint", str(path), "--text_encoder", TEXT_ENCODER, "--device", "cpu", "--short_side", "64"]
    demo.main([str(video), "the red square", *options, "--output_dir", str(tmp_path / "out")])
    [entry] = json.loads((tmp_path / "out" / "results.json").read_text())["sentences"]
    # It carries no threshold, so something is always found, as published.
    assert entry["found"] and len(list((tmp_path / "out" / entry["masks"]).iterdir())) == 3


@pytest.mark.parametrize("propagate", ["flow"])
def test_propagation(checkpoint: Path, tmp_path: Path, propagate: str) -> None:
    video = write_mp4(tmp_path / "a.mp4", moving_square())
    out = ["--output_dir", str(tmp_path / "out"), "--checkpoint", str(checkpoint), "--device", "cpu"]
    demo.main([str(video), "the red square", *out, "--propagate", propagate, "--no_masks", "--max_frames", "4"])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["num_frames"] == 4 and not (tmp_path / "out" / "masks").exists()


def test_a_picture_and_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for t, frame in enumerate(moving_square(3, (48, 100))):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{t}.jpg")
    for video, num_frames in ((tmp_path / "frames", 3), (tmp_path / "frames" / "1.jpg", 1)):
        out = ["--output_dir", str(tmp_path / "out"), "--checkpoint", str(checkpoint), "--device", "cpu"]
        demo.main([str(video), "the red square", *out])
        assert json.loads((tmp_path / "out" / "results.json").read_text())["num_frames"] == num_frames


@pytest.mark.parametrize("sentence", ["the red square " * 700, "赤い四角", "Красный квадрат", "مربع أحمر", "🟥 square"])
def test_odd_sentences_give_a_result(checkpoint: Path, tmp_path: Path, sentence: str) -> None:
    video = write_mp4(tmp_path / "a.mp4", moving_square(2))
    demo.main([str(video), sentence, "--output_dir", str(tmp_path / "o"), "--checkpoint", str(checkpoint)])
    content = json.loads((tmp_path / "o" / "results.json").read_text())
    assert content["sentences"][0]["sentence"] == " ".join(sentence.split())[:2000]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"no video" * 99), "not a readable video"),
        (lambda path: path.touch(), "empty"),
        (write_encrypted, "encrypted"),
        (write_sound, "only audio"),
        (write_without_frames, "video"),
        (lambda path: None, "no such video"),
    ],
    ids=["broken", "empty", "encrypted", "sound", "no frames", "missing"],
)
def test_odd_files_end_with_one_line(checkpoint: Path, tmp_path: Path, make, message: str) -> None:
    make(tmp_path / "a.mp4")
    with pytest.raises((ValueError, OSError), match=message):
        demo.main([str(tmp_path / "a.mp4"), "it", "--checkpoint", str(checkpoint), "--output_dir", str(tmp_path / "o")])
    assert not (tmp_path / "o" / "overlay.mp4").exists()


def test_a_mistake_is_one_line_without_a_traceback() -> None:
    done = run_program("nowhere.mp4", "the red square")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: nowhere.mp4: no such video")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a VIDEO and a sentence"),
        (["a.mp4"], "no sentence"),
        (["a.mp4", "it", "--window", "0"], "--window is 0"),
        (["a.mp4", "it", "--propagate", "magic"], "invalid choice"),
        (["--serve", "--max_seconds", "nan"], "--max_seconds is nan"),
        (["--serve", "--port", "99999"], "--port is 99999"),
    ],
)
def test_arguments_that_do_not_go_together(arguments: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        demo.main(arguments)
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_an_empty_sentence_is_named(checkpoint: Path, tmp_path: Path) -> None:
    video = write_mp4(tmp_path / "a.mp4", moving_square(2))
    with pytest.raises(ValueError, match="sentence 2 has no words"):
        demo.main([str(video), "it", "  ", "--checkpoint", str(checkpoint), "--output_dir", str(tmp_path / "o")])
