"""What the compiled attention needs: memory while it runs, and a compiler when it is built."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops import library

ROOT = Path(__file__).resolve().parent.parent
needs_kernels = pytest.mark.skipif(not library.has_kernels("cpu"), reason=f"compiled kernels: {library.LOAD_FAILURE}")

# In a process of its own: the peak of memory during a call, less what outputs hold. The first call is small and does
# what happens once.
PEAK_OF_A_CALL = """
import sys, torch
from ops import ms_deform_attn
from util.memory import PeakMemory

def inputs(queries, points):
    value = torch.randn(2, 24 * 32, 4, 32)
    locations = torch.rand(2, queries, 4, 1, points, 2)
    return [t.requires_grad_() for t in (value, locations, torch.rand(2, queries, 4, 1, points))]

def run(leaves, backend):
    output = ms_deform_attn(leaves[0], [(24, 32)], *leaves[1:], backend=backend)
    return [output, *torch.autograd.grad(output, leaves, torch.ones_like(output))]

backend, points = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
run(inputs(50, 4), backend)
leaves = inputs(4000, points)
with PeakMemory() as peak:
    results = run(leaves, backend)
held = sum(t.nbytes for t in results) + results[0].nbytes  # and the output's gradient
print((1e9 * peak.gb - held) / 2**20)
"""


def megabytes_above_inputs_and_outputs(backend: str, points: int) -> float:
    command = [sys.executable, "-c", PEAK_OF_A_CALL, backend, str(points)]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@needs_kernels
def test_memory_does_not_grow_with_the_points() -> None:
    """A map of floats, its copy and gradient for one head are 0.3 MB; sampled values would be 16 MB for each point."""
    few, many = (megabytes_above_inputs_and_outputs("compiled", points) for points in (2, 16))
    assert few < 8 and many < 8
    assert megabytes_above_inputs_and_outputs("torch", 16) > 64  # this way of measuring tells the difference


# In a process of its own, whose first parallel region this is: its threads appear with it and stay.
THREADS_OF_A_CALL = """
import os, sys, torch
from ops import ms_deform_attn

torch.set_num_threads(int(sys.argv[1]))
value, locations, weights = torch.zeros(1, 4, 4, 32), torch.zeros(1, 800, 4, 1, 1, 2), torch.zeros(1, 800, 4, 1, 1)
before = len(os.listdir("/proc/self/task"))
ms_deform_attn(value, [(2, 2)], locations, weights, backend="compiled")
print(len(os.listdir("/proc/self/task")) - before)
"""


@needs_kernels
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted on Linux")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_runs_on_as_many_threads_as_pytorch_is_told(threads: int) -> None:
    command = [sys.executable, "-c", THREADS_OF_A_CALL, str(threads)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(run.stdout) == threads - 1


def test_setting_up_without_a_compiler_goes_on_and_says_so(tmp_path: Path) -> None:
    """On a copy of what the script reads, with a PATH on which no compiler lies."""
    for name in ("scripts/setup.sh", "ops/setup.py", "requirements.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "env"):
        (programs / name).symlink_to(next(p for p in (Path("/usr/bin") / name, Path("/bin") / name) if p.exists()))
    environment_python = tmp_path / "venv/bin/python"  # one that has all requirements, as the stamp says
    environment_python.parent.mkdir(parents=True)
    environment_python.symlink_to(sys.executable)
    (tmp_path / "venv/requirements_stamp").write_text(_hash_of_requirements())
    environment = {key: value for key, value in os.environ.items() if key != "CXX"}
    environment |= {"PATH": str(programs), "VENV": str(tmp_path / "venv")}
    run = subprocess.run(
        [programs / "bash", "scripts/setup.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "no C++ compiler found: going on without" in run.stdout and "ready" in run.stdout


def _hash_of_requirements() -> str:
    """As `setup.sh` computes it, so that it installs nothing."""
    version = subprocess.run([sys.executable, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    total = hashlib.sha256(version.encode())
    total.update(b"requirements.txt\0" + (ROOT / "requirements.txt").read_bytes())
    return total.hexdigest()
