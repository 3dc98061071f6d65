"""The curves of a training run as a picture: losses, scores and learning rates over epochs.

Epochs come from the run's log.jsonl, the faint curves within epochs from its tensorboard/.

python scripts/plot_training.py runs/default --output curves.png
python scripts/plot_training.py runs/pretrain runs/finetune --output curves.png     compares runs
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, which would look for a display
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.failures import told_in_one_line
from util.logs import read_records
from util.masks import write_bytes

Record = dict[str, Any]
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """What a run logged.

    Attributes:
        records: of its log.jsonl, one an epoch.
        steps: {name of a loss or "lr/<group>": [(step, value), ...]} within epochs.
    """

    records: list[Record]
    steps: dict[str, Curve] = field(default_factory=dict)


def read_run(folder: Path) -> Run:
    """What lies in the folder of a run.

    Raises:
        FileNotFoundError: there is no log.jsonl.
    """
    if not (folder / "log.jsonl").is_file():
        raise FileNotFoundError(f"{folder / 'log.jsonl'}: no such file; name the folder of a training run")
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 10_000})
    steps: dict[str, Curve] = {}
    if (folder / "tensorboard").is_dir():
        events.Reload()
        for tag in events.Tags()["scalars"]:
            steps[tag.removeprefix("train/")] = [(event.step, event.value) for event in events.Scalars(tag)]
    return Run(read_records(folder / "log.jsonl"), steps)


def plot(runs: dict[str, Run]) -> Figure:
    """Losses, scores (if there are any) and rates side by side.

    Args:
        runs: by name. Of one run all losses are shown, of several the total.

    Raises:
        ValueError: there is no record.
    """
    if not any(run.records for run in runs.values()):
        raise ValueError("no epoch is recorded yet")
    alone = len(runs) == 1
    panels: list[tuple[str, str, Callable[[Record], dict[str, float]]]] = [
        ("training loss", "log", lambda record: _losses(record, with_terms=alone)),
        ("J and F", "linear", lambda record: _numbers(record.get("eval", {}))),
        ("learning rate", "log", lambda record: {f"lr/{k}": v for k, v in _numbers(record.get("lr", {})).items()}),
    ]
    panels = [panel for panel in panels if any(panel[2](record) for run in runs.values() for record in run.records)]
    figure = Figure(figsize=(1 + 4 * len(panels), 3.6), layout="constrained")
    for axes, (title, scale, values_of) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, run in runs.items():
            _draw(axes, run, values_of, prefix="" if alone else f"{name}: ")
        axes.set(title=title, xlabel="epoch", yscale=scale)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
        if title == "J and F":
            axes.set_ylim(0, 1)
    return figure


def _draw(axes: Axes, run: Run, values_of: Callable[[Record], dict[str, float]], prefix: str) -> None:
    """A line through the means of the epochs, and a faint one through what was logged within them."""
    curves: dict[str, Curve] = {}
    for record in run.records:
        for name, value in values_of(record).items():
            curves.setdefault(name, []).append((record["epoch"] + 1, value))
    for name, points in curves.items():
        style = {"label": prefix + name.removeprefix("lr/"), "marker": ".", "linewidth": 2 if name == "loss" else 1}
        style["linestyle"] = "none" if name.startswith("lr/") and name in run.steps else "-"  # rates jump
        (line,) = axes.plot(*zip(*points, strict=True), **style)
        if name in run.steps:
            steps, values = zip(*run.steps[name], strict=True)
            axes.plot(_to_epochs(steps, run.records), values, color=line.get_color(), alpha=0.35, linewidth=1)


def _to_epochs(steps: Sequence[float], records: list[Record]) -> np.ndarray:
    """Where optimizer steps lie among the epochs, of which all may have as many steps as the first."""
    ends = [(record["step"], record["epoch"] + 1) for record in records]
    per_epoch = ends[0][0] / ends[0][1]
    ends = [(0, 0), *ends, (ends[-1][0] + per_epoch, ends[-1][1] + 1)]
    return np.interp(steps, *zip(*ends, strict=True))


def _losses(record: Record, with_terms: bool) -> dict[str, float]:
    """The total, and the terms of the last decoder layer; those of the other layers, `<term>_<layer>`, look alike."""
    values = _numbers(record.get("train", {}))
    if not with_terms:
        return {"loss": values["loss"]} if "loss" in values else {}
    return {name: value for name, value in values.items() if not re.search(r"_\d+$", name) and name != "grad_norm"}


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in values.items() if isinstance(v, int | float) and k != "num_expressions"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, each with a log.jsonl")
    parser.add_argument("--output", required=True, type=Path, help="the picture, .png")
    args = parser.parse_args(argv)
    figure = plot({folder.name: read_run(folder) for folder in args.runs})
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format=args.output.suffix[1:] or "png")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(args.output, buffer.getvalue())
    print(args.output)


if __name__ == "__main__":
    with told_in_one_line():
        main()
