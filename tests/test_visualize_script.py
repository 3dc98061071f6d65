"""scripts/visualize.py: where the decoder looks is what it computes with; errors have the right colours and order."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.shapes import main as write_shapes
from datasets.videos import VideoDataset
from models.sampling_points import record_sampling_points
from ops.dispatch import ms_deform_attn
from scripts import eval_jf, visualize
from tests.small_model import small_clips, small_model, write_small_checkpoint
from tests.small_videos import moving_square, write_mp4
from util.error_maps import FALSE_NEGATIVE, FALSE_POSITIVE, RIGHT, draw_errors
from util.masks import write_mask


def test_recorded_points_are_those_the_attention_is_computed_with(monkeypatch: pytest.MonkeyPatch):
    model = small_model()
    clips = small_clips([(64, 96)])
    used = []

    def spy(value, shapes, locations, weights, **options):
        used.append((locations.clone(), weights.clone()))
        return ms_deform_attn(value, shapes, locations, weights, **options)

    monkeypatch.setattr("ops.module.ms_deform_attn", spy)
    with torch.inference_mode(), record_sampling_points(model) as record:
        model(**clips)
    layers = len(model.transformer.decoder_layers)
    assert len(record.locations) == len(record.weights) == layers
    for (locations, weights), ours, our_weights in zip(used[-layers:], record.locations, record.weights, strict=True):
        torch.testing.assert_close(ours, locations.float())
        torch.testing.assert_close(our_weights, weights.float())
        assert our_weights.flatten(3).sum(-1).allclose(torch.ones(()))
    with torch.inference_mode():
        model(**clips)
    assert len(record.locations) == layers  # nothing is recorded afterwards


def test_attention_is_hot_where_the_weight_is():
    image = np.full((100, 100, 3), 128, dtype=np.uint8)
    locations, weights = np.array([[0.25, 0.75], [0.75, 0.25], [5.0, 5.0]]), np.array([0.9, 0.1, 0.5])
    heat = visualize.draw_attention(image, locations, weights).astype(int)
    assert heat[75, 25, 0] - heat[75, 25, 2] > 50  # red
    assert heat[25, 75, 2] > heat[25, 75, 0]  # blue
    dots = visualize.draw_sampling_points(image, locations, weights)
    changed = np.argwhere((dots != image).any(-1))
    assert {tuple(p) for p in changed} >= {(75, 25), (25, 75)}
    assert len(changed) < 120


def test_error_maps_have_three_colours():
    frame = np.zeros((2, 2, 3), dtype=np.uint8)
    result = np.array([[1, 1], [0, 0]], dtype=bool)
    truth = np.array([[1, 0], [1, 0]], dtype=bool)
    picture = draw_errors(frame, result, truth, opacity=1)
    assert picture.tolist() == [[list(RIGHT), list(FALSE_POSITIVE)], [list(FALSE_NEGATIVE), [0, 0, 0]]]


def test_queries_of_a_video(tmp_path: Path):
    video, model = write_mp4(tmp_path / "a.mp4", moving_square(5)), write_small_checkpoint(tmp_path / "model.pth")
    output = tmp_path / "queries.png"
    arguments = ["queries", str(video), "the red square", "the blue one", "--checkpoint", str(model)]
    visualize.main([*arguments, "--device", "cpu", "--num_frames", "3", "--output", str(output)])
    with Image.open(output) as image:
        assert image.width > 3 * 300
        assert image.height > 8 * 240  # four rows for each of two sentences


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set, and results of which the first expression is right and the others ever worse, with their jf.csv."""
    folder = tmp_path_factory.mktemp("scored")
    data, results = folder / "data", folder / "out" / "Annotations"
    sizes = ["--num_videos", "1", "--num_valid_videos", "2", "--num_frames", "3", "--height", "64", "--width", "96"]
    write_shapes(["ytvos", str(data), *sizes, "--num_workers", "1"])
    count = 0
    for video in VideoDataset(data, "valid"):
        for expression in video.expressions:
            (results / video.name / expression.expression_id).mkdir(parents=True)
            for t, name in enumerate(video.frame_names):
                mask = expression.mask(video.masks(t))
                mask = np.roll(mask, 2 * count, axis=1)
                write_mask(results / video.name / expression.expression_id / f"{name}.png", mask)
            count += 1
    meta = data / "meta_expressions" / "valid" / "meta_expressions.json"
    places = ["--results", str(results), "--annotations", str(data / "valid" / "Annotations"), "--meta", str(meta)]
    eval_jf.main([*places, "--num_workers", "0"])
    return data, results


def test_the_page_of_errors_shows_best_and_worst(scored: tuple[Path, Path], tmp_path: Path):
    data, results = scored
    output = tmp_path / "errors.html"
    arguments = ["errors", "--results", str(results), "--data_root", str(data), "--output", str(output)]
    visualize.main([*arguments, "--count", "2", "--num_frames", "2"])
    page = output.read_text()
    scores = visualize.read_scores(results.parent / "jf.csv")
    assert page.count("data:image/jpeg;base64,") == 4
    assert scores[0].score == 1
    first_of_each = [page.index(f"{s.score:.3f} &nbsp; {s.caption}") for s in (scores[-1], scores[0])]
    assert first_of_each == sorted(first_of_each)
    assert page.index("<h2>Worst") < first_of_each[0] < page.index("<h2>Best") < first_of_each[1]


def test_the_same_as_a_picture(scored: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, results = scored
    arguments = ["errors", "--results", str(results), "--data_root", str(data), "--num_frames", "2", "--output"]
    sizes = []
    for count in ("1", "2"):
        visualize.main([*arguments, str(tmp_path / f"{count}.png"), "--count", count])
        with Image.open(tmp_path / f"{count}.png") as picture:
            assert picture.format == "PNG"
            sizes.append(picture.size)
    rows = [size[1] for size in sizes]
    assert rows[1] > rows[0] + 2 * 0.9 * visualize.HEIGHT * 2 // 3  # two expressions more
    with pytest.raises(SystemExit):
        visualize.main([*arguments, str(tmp_path / "errors.txt")])
    assert ".png, .jpg, .jpeg, .html" in capsys.readouterr().err


def test_what_is_missing_is_named(scored: tuple[Path, Path], tmp_path: Path):
    data, results = scored
    arguments = ["errors", "--results", str(results), "--data_root", str(data), "--output", str(tmp_path / "e.html")]
    with pytest.raises(FileNotFoundError, match="score the results with"):
        visualize.main([*arguments, "--scores", str(tmp_path / "none.csv")])
    with pytest.raises(ValueError, match="no video"):
        visualize.main([*arguments, "--split", "train"])
    (tmp_path / "long.csv").write_text("video,expression_id,expression,J&F\nv,0," + "x" * 200_000 + ",1\n")
    with pytest.raises(ValueError, match=r"long\.csv: not a jf\.csv"):
        visualize.main([*arguments, "--scores", str(tmp_path / "long.csv")])
    with pytest.raises(SystemExit):
        visualize.main([*arguments, "--count", "0"])
