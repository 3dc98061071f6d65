"""The benchmark of time and memory: both formulations run, and ours needs less of what can be counted."""

from __future__ import annotations

import sys

import pytest

from scripts import benchmark

SMALL = ["--size", "96", "160", "--num_frames", "2", "--repeats", "1", "--device", "cpu", "--precisions", "float32"]


@pytest.mark.slow
def test_two_formulations_side_by_side(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *SMALL])
    benchmark.main()
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert "2 x 96 x 160" in title and header.split() == ["seconds", "GFLOP", "GB", "time", "memory"]
    table = {tuple(row.split()[:3]): row.split()[3:] for row in rows}
    assert list(table) == [(m, "float32", f) for m in ("infer", "train") for f in ("published", "ours")]
    for mode in ("infer", "train"):
        published, ours = (table[mode, "float32", formulation] for formulation in ("published", "ours"))
        assert published[3:] == ["100%", "100%"] and float(ours[0]) > 0
        assert 0 < float(ours[1]) < float(published[1]), "operations"
        assert 0 < float(ours[2]) < float(published[2]), "memory"


@pytest.mark.slow
def test_a_backbone_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benchmark, "BACKBONES", ["resnet50"])
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *SMALL, "--all_backbones"])
    benchmark.main()
    name, precision, seconds, gflop, gb, parameters, *_ = capsys.readouterr().out.splitlines()[-1].split()
    assert (name, precision) == ("resnet50", "float32")
    assert float(seconds) > 0 and float(gflop) > 10 and float(gb) > 0
    assert 170 < float(parameters.rstrip(",")) < 185  # millions, 125 of them RoBERTa-base
