from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts import export_weights
from tests.small_model import write_small_checkpoint
from util.checkpoint_io import load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("half", [False, True])
def test_weights_configuration_and_tokenizer_stay(tmp_path: Path, half: bool) -> None:
    path = write_small_checkpoint(tmp_path / "run.pth")
    state = load_checkpoint(path)
    save_checkpoint(path, state | {"optimizer": {"state": torch.zeros(100_000)}})
    export_weights.main([str(path), str(tmp_path / "out.pth"), *(["--half"] if half else [])])
    exported = load_checkpoint(tmp_path / "out.pth")
    assert "optimizer" not in exported and exported["config"] == state["config"]
    assert exported["extras"].keys() == state["extras"].keys()
    for name, weight in state["model"].items():
        expected = weight.half() if half and weight.dtype == torch.float32 else weight
        assert torch.equal(exported["model"][name], expected), name


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/export_weights.py", str(tmp_path / "none.pth"), str(tmp_path / "out.pth")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ") and "none.pth" in done.stderr
    assert "Traceback" not in done.stderr
