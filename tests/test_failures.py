"""How a program of one or several processes ends when something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from util import failures
from util.failures import told_in_one_line

ROOT = Path(__file__).parent.parent


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited."""
    waited: list[float] = []
    monkeypatch.setattr(failures.time, "sleep", waited.append)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return waited


def _be(patch: pytest.MonkeyPatch, rank: int, of: int = 2) -> None:
    patch.setenv("RANK", str(rank))
    patch.setenv("WORLD_SIZE", str(of))


def test_alone(waits: list[float]) -> None:
    with pytest.raises(SystemExit) as stopped, told_in_one_line():
        raise ValueError("a.yaml is empty")
    assert stopped.value.code == "error: a.yaml is empty"
    told: list[Exception] = []
    with pytest.raises(SystemExit) as stopped, told_in_one_line(told.append):
        raise FloatingPointError("the loss")
    assert stopped.value.code == 1 and str(told[0]) == "the loss"
    for kind in (RuntimeError, KeyError):
        with pytest.raises(kind), told_in_one_line():
            raise kind("a fault of the program")
    assert waits == []


@pytest.mark.parametrize(
    ("rank", "error", "expected"),
    [
        (0, OSError, []),
        (1, OSError, [failures.SECONDS_FOR_MAIN_PROCESS]),
        (0, RuntimeError, [failures.SECONDS_FOR_CAUSE]),
        (1, RuntimeError, [failures.SECONDS_FOR_CAUSE]),
        (1, KeyError, []),
    ],
)
def test_who_waits(
    rank: int, error: type[Exception], expected: list[float], waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    _be(monkeypatch, rank)
    with pytest.raises((error, SystemExit)), told_in_one_line():
        raise error("something")
    assert waits == expected
    assert failures.SECONDS_FOR_MAIN_PROCESS < failures.SECONDS_FOR_CAUSE, "the cause is told before its echo"


def _launch(folder: Path, body: str) -> str:
    """Output of a program of two processes, without what the launcher itself says."""
    program = folder / "program.py"
    program.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{body}")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    # the launcher's own traceback goes to its stderr, the processes' output into files
    command = [*launcher, f"--log-dir={folder / 'logs'}", "--redirects=3", str(program)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 1, done.stderr
    return "".join(path.read_text() for path in sorted((folder / "logs").rglob("std*.log")))


@pytest.mark.slow
def test_all_processes_wrong_is_one_line(tmp_path: Path) -> None:
    body = (
        "from util.failures import told_in_one_line\nwith told_in_one_line():\n    raise ValueError('data is empty')\n"
    )
    assert _launch(tmp_path, body) == "error: data is empty\n"


@pytest.mark.slow
def test_one_process_wrong_is_its_line(tmp_path: Path) -> None:
    """The main process loses the connection, which is not the cause and is not told."""
    body = """
import torch.distributed as dist
from util import failures
from util.distributed import barrier, distributed
failures.SECONDS_FOR_MAIN_PROCESS = 0.5
with failures.told_in_one_line(), distributed("cpu") as process:
    barrier()
    if process.rank == 1:
        raise OSError("disk of process 1")
    barrier()
"""
    output = _launch(tmp_path, body)
    assert output.count("disk of process 1") == 1 and "Traceback" not in output, output
