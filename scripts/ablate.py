"""Trains ablations of the paper on the generated benchmark, one after the other, and writes a table of their scores.

    python scripts/ablate.py --data_root data/shapes --output_dir runs/ablations
    python scripts/ablate.py --only queries_1 frames_1 --data_root data/shapes --output_dir runs/ablations \
        -- --optim.epochs 4 --optim.lr_drops "[3]"

Each file of configs/ablations is laid over the base; `full` is the base alone. All start from the same seed without
pretrained weights, since those of another shape would not fit. Options after `--` go to main.py. Ablations whose score
is in the output folder already are kept. The benchmark is small and easier than the real one: the order of the scores
says something, their size nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.logs import read_records
from util.masks import write_bytes

ROOT = Path(__file__).resolve().parents[1]
ABLATIONS = ROOT / "configs" / "ablations"
FULL = "full"


def names() -> list[str]:
    """The full model, then the ablations."""
    return [FULL, *sorted(path.stem for path in ABLATIONS.glob("*.yaml"))]


def train(name: str, base: Path, data_root: Path, folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """Train one ablation and evaluate its last epoch.

    Returns:
        its settings (`options`), `J`, `F`, `J&F` and `seconds`.

    Raises:
        RuntimeError: the training failed.
    """
    files = [base] if name == FULL else [base, ABLATIONS / f"{name}.yaml"]
    command = [sys.executable, str(ROOT / "main.py"), *(word for file in files for word in ("--config", str(file)))]
    command += ["--data.root", str(data_root), "--train.init_checkpoint", "null", "--train.output_dir", str(folder)]
    # a checkpoint is not evaluated but at the end: large enough for every number of epochs
    command += ["--train.eval_every_epochs", "1000000", *options]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise RuntimeError(f"{name}: the training failed; what it said is above")
    records = read_records(folder / "log.jsonl")
    scores = {key: records[-1]["eval"][key] for key in ("J", "F", "J&F")}
    return {"options": list(options), **scores, "seconds": sum(record["seconds"] for record in records)}


def format_table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown, with the distance of each J&F to that of the full model where that is there."""
    full = results.get(FULL)
    lines = ["| ablation | J&F | J | F | to the full model | minutes |", "|---|---|---|---|---|---|"]
    for name, row in results.items():
        distance = "" if full is None or name == FULL else f"{100 * (row['J&F'] - full['J&F']):+.1f}"
        numbers = " | ".join(f"{100 * row[key]:.1f}" for key in ("J&F", "J", "F"))
        lines.append(f"| {name} | {numbers} | {distance} | {row['seconds'] / 60:.1f} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    argv = list(sys.argv[1:] if argv is None else argv)
    own, options = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names(), default=names(), help="default: all")
    parser.add_argument("--base", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("--data_root", type=Path, required=True, help="by python -m datasets.shapes ytvos")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args(own)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    results_path, results = args.output_dir / "results.json", {}
    if results_path.is_file():
        results = {k: v for k, v in json.loads(results_path.read_text()).items() if v["options"] == options}
    for name in args.only:
        if name not in results:
            folder = (args.output_dir / name).resolve()
            results[name] = train(name, args.base.resolve(), args.data_root.resolve(), folder, options)
            write_bytes(results_path, json.dumps(results, indent=1).encode())
    results = {name: results[name] for name in args.only}
    write_bytes(args.output_dir / "table.md", format_table(results).encode())
    print(format_table(results), end="")
    return results


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
