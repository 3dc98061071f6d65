"""What a run says: console and log file, progress, TensorBoard curves, one JSON line per epoch."""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from util.disk import explain, writing
from util.distributed import all_reduce_mean
from util.masks import write_bytes

logger = logging.getLogger(__name__)

LOG = "log.jsonl"
ADVICE_IN_RUN = "the last checkpoint is untouched; free some space and go on with train.resume"
SECONDS_BETWEEN_LINES = 30  # of a progress that is not on a terminal


def set_up_logging(folder: str | Path | None = None, main_process: bool = True) -> None:
    """Log to the console, and to `train.log` in `folder`; other processes than the main one only say what is wrong.

    The file also keeps tracebacks of errors that the console shows as one line.
    """
    console = logging.StreamHandler()
    console.setLevel(logging.INFO if main_process else logging.WARNING)
    handlers: list[logging.Handler] = [console]
    if folder is not None and main_process:
        with writing(Path(folder) / "train.log"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            handlers.append(_LogFile(Path(folder) / "train.log"))
    layout = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=layout, datefmt="%H:%M:%S", handlers=handlers, force=True)
    console.setFormatter(_WithoutTraceback(layout, "%H:%M:%S"))


class _LogFile(logging.FileHandler):
    """A log file that does not end a run when it cannot be written: it says so once, and the console goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        problem = sys.exc_info()[1]
        if not isinstance(problem, OSError):
            super().handleError(record)
            return
        logging.getLogger().removeHandler(self)
        logger.warning("%s; the log goes on here alone", explain(problem, self.baseFilename, "free some space"))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written before
            super().close()


class _WithoutTraceback(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        bare = logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None})
        return super().format(bare)


class RunningMeans:
    """Means over steps of named losses, kept on their device so that adding never waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in the scalars of one step; every step has the same names."""
        for name, value in values.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1

    def means(self) -> dict[str, float]:
        """The means over steps and processes, which all have to call this. Waits for the device."""
        if not self._count:
            return {}
        means = all_reduce_mean(torch.stack(list(self._sums.values())) / self._count)
        return dict(zip(self._sums, means.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers to go on from; all processes have to call this."""
        return {"means": self.means(), "count": self._count}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Go on from `state_dict`."""
        self._count = state["count"]
        self._sums = {
            name: torch.tensor(mean * self._count, dtype=torch.float64, device=device)
            for name, mean in state["means"].items()
        }


class RunLog:
    """The curves and records of a run in its folder: `tensorboard/` and `log.jsonl`.

    A run that resumes drops what it logged after its checkpoint, since it does those steps again.

    Args:
        folder: of the run.
        first_step: first optimizer step, counted from 1, that is logged anew.
        first_epoch: epoch, counted from 0, that is the first without a record, or is recorded anew.
    """

    def __init__(self, folder: str | Path, first_step: int = 1, first_epoch: int = 0) -> None:
        self._path, self._curves = Path(folder) / LOG, Path(folder) / "tensorboard"
        kept = [record for record in read_records(self._path) if record["epoch"] < first_epoch]
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self._path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self.last_epoch: int = kept[-1]["epoch"] if kept else -1
        self._hook = threading.excepthook
        threading.excepthook = self._leave_to_the_next_call
        try:
            with writing(self._curves):
                # purge_step hides what an earlier process wrote from that step on
                self._writer = SummaryWriter(str(self._curves), purge_step=first_step)
        except OSError:
            threading.excepthook = self._hook
            raise

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each named curve. Raises an OSError when points before cannot be written."""
        with writing(self._curves, ADVICE_IN_RUN):
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def record(self, values: Mapping[str, Any]) -> None:
        """Append one JSON line, that of epoch `values["epoch"]`, and write the curves so far. Raises OSError."""
        with writing(self._path, ADVICE_IN_RUN), self._path.open("a") as file:
            file.write(json.dumps(values) + "\n")
        self.last_epoch = values["epoch"]
        with writing(self._curves, ADVICE_IN_RUN):
            self._writer.flush()

    def close(self) -> None:
        """Write what is buffered, as far as that is possible: it hides no error on the way to which it is called."""
        try:
            self._writer.close()
        except OSError as error:
            logger.debug("%s: the last points of the curves are lost: %s", self._curves, error)
        threading.excepthook = self._hook

    def _leave_to_the_next_call(self, problem: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread, whose error its next call raises again; it needs no traceback of its own."""
        if not isinstance(problem.exc_value, OSError):
            self._hook(problem)


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of a `log.jsonl`, without a last line that a crash cut; no file gives none."""
    if not Path(path).is_file():
        return []
    records = []
    for number, line in enumerate(Path(path).read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
            if not isinstance(record["epoch"], int):
                raise ValueError("no epoch")
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: line %d is not a record and is dropped", path, number)
        else:
            records.append(record)
    return records


class Progress:
    """The progress of an epoch: a bar on a terminal, else log lines; only if `shown`.

    There is a line for each status that is given, and where none is for a while, a line that tells how far it has come.

    Args:
        total: steps of the epoch.
        done: steps already done.
        title: what the line begins with.
        shown: false on all processes but the main one.
        unit: what is counted.
    """

    def __init__(self, total: int, done: int = 0, title: str = "", shown: bool = True, unit: str = "step") -> None:
        self._on_terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=done, desc=title, unit=unit, dynamic_ncols=True, disable=not self._on_terminal
        )
        self._redirection = logging_redirect_tqdm() if self._on_terminal else None
        self._title, self._total, self._done, self._shown, self._unit = title, total, done, shown, unit
        self._start, self._first, self._last_line = time.perf_counter(), done, time.perf_counter()

    def __enter__(self) -> Self:
        if self._redirection is not None:
            self._redirection.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._redirection is not None:
            self._redirection.__exit__(kind, error, trace)

    def advance(self, status: str | None = None) -> None:
        """One step is done; `status` replaces what stands beside the bar, or makes a line."""
        self._done += 1
        self._bar.update()
        now = time.perf_counter()
        if not self._shown:
            return
        if self._on_terminal:
            if status is not None:
                self._bar.set_postfix_str(status)
        elif status is not None or now - self._last_line >= SECONDS_BETWEEN_LINES:
            pace = f"{(now - self._start) / (self._done - self._first):.2f} s/{self._unit}"
            logger.info("%s %d/%d  %s", self._title, self._done, self._total, pace if status is None else status)
            self._last_line = now


class Stopwatch:
    """Wall-clock seconds of steps, and the share of them spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything so far."""
        self._start, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def step(self, waited: float) -> None:
        """One step is over, in which `waited` seconds went by before its data was there."""
        self._waited += waited
        self._steps += 1

    def elapsed(self) -> float:
        """Seconds since the last restart."""
        return time.perf_counter() - self._start

    def read(self) -> dict[str, float]:
        """`seconds_per_step` and `data_share` (0 to 1) since the last restart."""
        elapsed = max(self.elapsed(), 1e-9)
        return {"seconds_per_step": elapsed / max(self._steps, 1), "data_share": min(self._waited / elapsed, 1.0)}


def describe_rates(rates: Mapping[str, float]) -> str:
    """Learning rates by group in few words: the last group's first, unnamed, then by name those that differ from it."""
    names: dict[str, list[str]] = {}
    for name, rate in reversed(rates.items()):
        names.setdefault(f"{rate:.1e}", []).insert(0, name)
    (first, _), *others = names.items()
    return ", ".join([first, *(f"{'/'.join(groups)} {rate}" for rate, groups in reversed(others))])


def describe_seconds(seconds: float) -> str:
    """A duration as one would say it: `40 s`, `7 min`, `3 h 20 min`, `2 d 5 h`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def peak_memory_mb(device: torch.device) -> float:
    """The most memory so far: allocated on the GPU, or resident in this process on a CPU (10^6 bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
