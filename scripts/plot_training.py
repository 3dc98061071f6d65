"""The curves of a training run as a picture: losses, scores and learning rates over epochs, from its log.jsonl.

python scripts/plot_training.py runs/default --output curves.png
python scripts/plot_training.py runs/pretrain runs/finetune --output curves.png     compares runs
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, which would look for a display

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.logs import read_records
from util.masks import write_bytes

Record = dict[str, Any]


def plot(runs: dict[str, list[Record]]) -> Figure:
    """Losses, scores and rates side by side.

    Args:
        runs: {name: records of its log.jsonl}. Of one run all losses are shown, of several the total.

    Raises:
        ValueError: there is no record.
    """
    if not any(runs.values()):
        raise ValueError("no epoch is recorded yet")
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    losses, scores, rates = figure.subplots(1, 3)
    alone = len(runs) == 1
    for name, records in runs.items():
        prefix = "" if alone else f"{name}: "
        _draw(losses, records, lambda record: _losses(record, with_terms=alone), prefix)
        _draw(scores, records, lambda record: _numbers(record.get("eval", {})), prefix)
        _draw(rates, records, lambda record: _numbers(record.get("lr", {})), prefix)
    for axes, title, scale in (
        (losses, "training loss", "log"),
        (scores, "J and F", "linear"),
        (rates, "learning rate", "log"),
    ):
        axes.set(title=title, xlabel="epoch", yscale=scale)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="x-small")
    scores.set_ylim(0, 1)
    return figure


def _draw(axes: Axes, records: list[Record], values_of: Callable[[Record], dict[str, float]], prefix: str) -> None:
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, value in values_of(record).items():
            curves.setdefault(name, []).append((record["epoch"] + 1, value))
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker=".", label=prefix + name, linewidth=2 if name == "loss" else 1)


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
    for run in args.runs:
        if not (run / "log.jsonl").is_file():
            raise FileNotFoundError(f"{run / 'log.jsonl'}: no such file; name the folder of a training run")
    figure = plot({run.name: read_records(run / "log.jsonl") for run in args.runs})
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format=args.output.suffix[1:] or "png")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(args.output, buffer.getvalue())
    print(args.output)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
