"""Runs that signals stop: in this process, in a process of its own, in two of which one has the signal."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import engine
import fitting
from util import interruption
from util.checkpoint_io import load_checkpoint
from util.cli import parse
from util.distributed import ProcessInfo, distributed
from util.failures import told_in_one_line
from util.interruption import Interrupted, StopRequest
from util.logs import read_records

ROOT = Path(__file__).parent.parent
ALONE = ProcessInfo(0, 1, torch.device("cpu"))
# several steps an epoch, two epochs, no save but at their ends
STEPS = ["--optim.batch_size", "2", "--train.save_every_steps", "0", "--train.eval_every_epochs", "0"]


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in interruption.SIGNALS]


def _checkpoint(folder: Path) -> dict[str, Any]:
    return load_checkpoint(folder / "checkpoint.pth", resumable=True)


def _signal_in_step(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    real = engine.optimizer_step

    def optimizer_step(run: engine.TrainingRun, batches: list) -> dict[str, torch.Tensor]:
        if run.step == step:
            os.kill(os.getpid(), number)
        return real(run, batches)

    monkeypatch.setattr(engine, "optimizer_step", optimizer_step)


def _fit(*options: str) -> dict[str, Any]:
    return fitting.fit(parse(list(options)), ALONE)


@pytest.fixture(autouse=True)
def heeded():
    """A job in the background of a shell script, as a server of continuous integration may start one, ignores SIGINT,
    and so do its children."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def whole(tiny_model: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never stopped; tests only read its folder."""
    folder = tmp_path_factory.mktemp("whole")
    _fit(*tiny_model, *STEPS, "--train.output_dir", str(folder))
    return folder


def _assert_same_weights(folder: Path, whole: Path) -> None:
    found, expected = _checkpoint(folder), _checkpoint(whole)
    assert found["step"] == expected["step"]
    for name, weight in expected["model"].items():
        assert torch.equal(found["model"][name], weight), name
    assert [record["epoch"] for record in read_records(folder / "log.jsonl")] == [0, 1]


@pytest.mark.parametrize("number", interruption.SIGNALS)
@pytest.mark.parametrize("where", ["mid-epoch", "last step of an epoch"])
def test_the_step_ends_and_is_saved(
    where: str,
    number: signal.Signals,
    tiny_options: list[str],
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    per_epoch = _checkpoint(whole)["step"] // 2
    assert per_epoch >= 3
    step, before, folder = (1 if where == "mid-epoch" else per_epoch - 1), _handlers(), Path(tiny_options[-1])
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stopped, caplog.at_level("WARNING"):
        _signal_in_step(patch, step, number)
        _fit(*tiny_options, *STEPS)
    assert stopped.value.signum == number and _handlers() == before
    assert _checkpoint(folder)["step"] == step + 1
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and number.name in lines[0] and f"step {step + 1}" in lines[0], lines
    assert str(folder / "checkpoint.pth") in lines[0] and "--train.resume auto" in lines[0]
    _fit(*tiny_options, *STEPS, "--train.resume", "auto")
    _assert_same_weights(folder, whole)


def test_a_signal_while_saving_lets_the_save_end(
    tiny_options: list[str], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, folder = fitting.save_checkpoint, Path(tiny_options[-1])

    def save(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        real(*arguments)

    options = [*tiny_options, *STEPS, "--train.save_every_steps", "2"]
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(fitting, "save_checkpoint", save)
        _fit(*options)
    assert _checkpoint(folder)["step"] in (2, 3), "after the save, or after the step that was next"
    _fit(*options, "--train.resume", "auto")
    _assert_same_weights(folder, whole)


def test_an_evaluation_is_broken_off_and_done_again(
    tiny_options: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def evaluate(*_: Any) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    options = [*tiny_options, *STEPS, "--train.eval_every_epochs", "1", "--optim.epochs", "1", "--optim.lr_drops", "[]"]
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(fitting, "evaluate", evaluate)
        _fit(*options)
    assert sum("stopped by SIGINT" in record.getMessage() for record in caplog.records) == 1
    record = _fit(*options, "--train.resume", "auto")
    assert record["eval"]["num_expressions"] > 0
    assert len(read_records(Path(tiny_options[-1]) / "log.jsonl")) == 1


def test_another_thread_leaves_the_handlers_alone() -> None:
    before, during = _handlers(), []

    def listen() -> None:
        with StopRequest().listening():
            during.extend(_handlers())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert during == before == _handlers()


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest().listening():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGINT, before)


def test_one_request_sent_twice_is_one() -> None:
    stop = StopRequest()
    with stop.listening():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signum == signal.SIGTERM


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (Interrupted(signal.SIGTERM), 143)])
def test_status_of_a_program(error: KeyboardInterrupt, status: int) -> None:
    with pytest.raises(SystemExit) as ended, told_in_one_line():
        raise error
    assert ended.value.code == status


def test_a_second_signal_ends_even_a_long_computation() -> None:
    program = """
import hashlib
from util import interruption
interruption.SECONDS_OF_ONE_REQUEST = 0.0
with interruption.StopRequest().listening():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # hours outside of Python
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None, "the first one ended it"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error == "SIGINT again: ended at once\n"


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _read_until(process: subprocess.Popen[str], word: str) -> str:
    """Output up to the line with `word`."""
    output = ""
    while word not in output:
        assert select.select([process.stdout], [], [], 120)[0], output
        line = process.stdout.readline()
        assert line, output
        output += line
    return output


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes in /proc")
def test_a_program_with_loader_processes(tiny_options: list[str], tmp_path: Path) -> None:
    """As on a terminal or a cluster, all processes of the group get the signal, and all of them end."""
    options = [*tiny_options, *STEPS, "--optim.epochs", "500", "--optim.lr_drops", "[]", "--data.num_workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "main.py", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        _read_until(process, "epoch 0 2/")
        assert len(_children(process.pid)) == 2
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.poll() is None and process.kill()
    assert process.returncode == 143, output
    assert output.count("stopped by SIGTERM after step") == 1 and "--train.resume auto" in output
    assert "Traceback" not in output, output
    assert output.splitlines()[-1].count("stopped by SIGTERM") == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nothing of the group is left
    assert _checkpoint(tmp_path / "run")["step"] >= 2


def _fit_in_process(rank: int, port: int, options: list[str], signalled: int | None) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with distributed("cpu") as process, pytest.MonkeyPatch.context() as patch:
        if signalled is None:
            fitting.fit(parse(options), process)
            return
        if rank == signalled:
            _signal_in_step(patch, 1)
        told: list[object] = []
        patch.setattr(fitting.logger, "warning", lambda *words: told.append(words))
        with pytest.raises(Interrupted):
            fitting.fit(parse(options), process)
        assert len(told) == (rank == 0), "only the main process tells"


def _fit_in_two(options: list[str], signalled: int | None = None) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(_fit_in_process, (port, options, signalled), nprocs=2)


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step(tiny_options: list[str], tmp_path: Path) -> None:
    options = [*tiny_options, *STEPS, "--optim.batch_size", "1"]
    _fit_in_two([*options, "--train.output_dir", str(tmp_path / "whole")])
    _fit_in_two(options, signalled=1)
    stopped = _checkpoint(tmp_path / "run")
    assert stopped["step"] == 2 and len(stopped["rng"]) == 2
    _fit_in_two([*options, "--train.resume", "auto"])
    _assert_same_weights(tmp_path / "run", tmp_path / "whole")
