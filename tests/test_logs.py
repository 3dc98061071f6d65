from __future__ import annotations

import errno
import io
import json
import logging
import threading
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from util.logs import (
    Progress,
    RunLog,
    RunningMeans,
    Stopwatch,
    describe_rates,
    describe_seconds,
    peak_memory_mb,
    read_records,
    set_up_logging,
)


@pytest.fixture(autouse=True)
def _restored_logging():
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def _curve(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_means_of_steps_survive_saving() -> None:
    means = RunningMeans()
    assert means.means() == {}
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(10.0)})
    means.add({"a": torch.tensor(2.0, requires_grad=True), "b": torch.tensor(20.0)})
    resumed = RunningMeans()
    resumed.load_state_dict(json.loads(json.dumps(means.state_dict())))
    for each in (means, resumed):
        each.add({"a": torch.tensor(6.0), "b": torch.tensor(0.0)})
        assert each.means() == pytest.approx({"a": 3.0, "b": 10.0})


def test_means_keep_no_graph() -> None:
    means, weight = RunningMeans(), torch.ones(3, requires_grad=True)
    means.add({"a": weight.sum()})
    assert all(not total.requires_grad for total in means._sums.values())


def test_records_and_curves_of_a_resumed_run_are_not_doubled(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in range(1, 7):
        log.scalars(step, {"loss": float(step)})
    for epoch in range(3):
        log.record({"epoch": epoch, "run": 1})
    log.close()
    log = RunLog(tmp_path, first_step=4, first_epoch=2)
    assert log.last_epoch == 1
    for step in range(4, 8):
        log.scalars(step, {"loss": 10.0 * step})
    log.record({"epoch": 2, "run": 2})
    log.close()
    assert read_records(tmp_path / "log.jsonl") == [{"epoch": e, "run": r} for e, r in ((0, 1), (1, 1), (2, 2))]
    assert _curve(tmp_path, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0), (7, 70.0)]


def test_a_line_cut_by_a_crash_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"epoch": 0}\n[1]\n{"epoch": 1, "tr')
    log = RunLog(tmp_path, first_step=5, first_epoch=9)
    log.record({"epoch": 1})
    log.close()
    assert read_records(tmp_path / "log.jsonl") == [{"epoch": 0}, {"epoch": 1}]
    assert read_records(tmp_path / "absent.jsonl") == []


def test_console_has_one_line_and_the_file_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(tmp_path)
    try:
        raise ValueError("data/a.jpg is truncated")
    except ValueError as error:
        logging.getLogger("main").error("%s", error, exc_info=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].endswith("ERROR data/a.jpg is truncated")
    assert "Traceback" in (tmp_path / "train.log").read_text()


FULL = Path("/dev/full")  # every write to it fails as on a full disk
full_disk = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@full_disk
def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.log").symlink_to(FULL)
    set_up_logging(tmp_path)
    for number in range(3):
        logging.getLogger("main").info("line %d", number)
    logging.shutdown()
    text = capsys.readouterr().err
    assert text.count("No space left on device") == 1 and "train.log" in text and "Traceback" not in text
    assert all(f"line {number}" in text for number in range(3))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/run/train\.log: .*file is no folder; .*another folder"):
        set_up_logging(tmp_path / "file" / "run")


@full_disk
def test_a_record_on_a_full_disk(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").symlink_to(FULL)
    with pytest.raises(OSError, match=r"cannot write .*log\.jsonl: No space left .* MB free\); .*train\.resume"):
        log.record({"epoch": 0})
    assert log.last_epoch == -1
    log.close()


def _fill_disk(patch: pytest.MonkeyPatch, after: int) -> None:
    """TensorBoard can write `after` events more."""
    real, left = RecordWriter.write, [after]

    def write(self: RecordWriter, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, data)

    patch.setattr(RecordWriter, "write", write)


def test_curves_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    hook = threading.excepthook
    log = RunLog(tmp_path)
    _fill_disk(monkeypatch, after=3)
    with pytest.raises(OSError, match=r"cannot write .*tensorboard: No space left on device .*train\.resume"):
        for step in range(100):
            log.scalars(step, {"loss": float(step)})
            log.record({"epoch": step})
    log.close()
    assert threading.excepthook == hook
    assert not told, "the thread has no traceback of its own"
    assert 0 < len(read_records(tmp_path / "log.jsonl")) <= 3


def test_curves_on_a_disk_that_is_full_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = threading.excepthook
    _fill_disk(monkeypatch, after=0)
    with pytest.raises(OSError, match=r"cannot write .*tensorboard: No space left on device .*start again"):
        RunLog(tmp_path)
    assert threading.excepthook is hook


def test_errors_of_other_threads_are_still_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    log = RunLog(tmp_path)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    log.close()
    assert [problem.exc_type for problem in told] == [ZeroDivisionError]


def test_other_processes_say_only_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(tmp_path / "run", main_process=False)
    logging.getLogger("x").info("all is well")
    logging.getLogger("x").warning("something is not")
    assert "all is well" not in (text := capsys.readouterr().err) and "something is not" in text
    assert not (tmp_path / "run").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(10, done=4, title="epoch 3") as progress:
        progress.advance("loss 0.5")
        progress.advance()
    assert "epoch 3" in terminal.getvalue() and "6/10" in terminal.getvalue() and "loss 0.5" in terminal.getvalue()


def test_a_log_file_has_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    with caplog.at_level(logging.INFO), Progress(202, done=2, title="evaluation", unit="video") as progress:
        for _ in range(10):
            now[0] += 8.0
            progress.advance()
        progress.advance("loss 0.5")
        now[0] += 29.0
        progress.advance()
    lines = ["evaluation 6/202  8.00 s/video", "evaluation 10/202  8.00 s/video", "evaluation 13/202  loss 0.5"]
    assert [record.getMessage() for record in caplog.records] == lines, "every 30 s, and after a status"
    assert capsys.readouterr().err == "", "no bar"


def test_hidden_progress_says_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with caplog.at_level(logging.INFO), Progress(2, shown=False) as progress:
        progress.advance("loss 0.5")
    assert terminal.getvalue() == "" and not caplog.records


def test_stopwatch_divides_by_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = Stopwatch()
    for _ in range(4):
        now[0] += 2.0
        watch.step(waited=0.5)
    assert watch.read() == {"seconds_per_step": 2.0, "data_share": 0.25}
    assert watch.elapsed() == 8.0
    watch.restart()
    now[0] += 1.0
    watch.step(waited=0.0)
    assert watch.read() == {"seconds_per_step": 1.0, "data_share": 0.0}


def test_rates_are_named_where_they_differ() -> None:
    rates = {"backbone": 5e-5, "text_encoder": 1e-5, "offsets": 2e-4, "rest": 2e-4}
    assert describe_rates(rates) == "2.0e-04, backbone 5.0e-05, text_encoder 1.0e-05"
    assert describe_rates(rates | {"text_encoder": 5e-5}) == "2.0e-04, backbone/text_encoder 5.0e-05"
    assert describe_rates(dict.fromkeys(rates, 1e-3)) == describe_rates({"rest": 1e-3}) == "1.0e-03"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (420, "7 min"),
        (3599, "1 h 0 min"),
        (12000, "3 h 20 min"),
        (86399, "1 d 0 h"),
        (190800, "2 d 5 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert describe_seconds(seconds) == words


def test_memory_is_in_megabytes() -> None:
    assert 50 < peak_memory_mb(torch.device("cpu")) < 1e6
