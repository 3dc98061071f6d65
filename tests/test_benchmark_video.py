"""The benchmark of whole videos measures what it says, in processes of their own."""

import json
from pathlib import Path

import pytest

from scripts.benchmark_video import main
from tests.small_model import write_small_checkpoint


@pytest.mark.slow
def test_a_line_for_each_length_and_number_of_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    checkpoint = write_small_checkpoint(tmp_path / "model.pth")
    sizes = ["--num_frames", "3", "5", "--num_sentences", "2", "--size", "64", "96"]
    main([*sizes, "--checkpoint", str(checkpoint), "--device", "cpu"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["num_frames"], line["num_sentences"]) for line in lines] == [(3, 2), (5, 2)]
    for line in lines:
        assert line["total_s"] == pytest.approx(line["segment_s"] + line["write_s"], abs=0.2)
        assert 100 < line["peak_MB"] < 5000
