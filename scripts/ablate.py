"""Trains ablations of the paper on the generated benchmark, one after the other, and writes a table of their scores.

    python scripts/ablate.py --data_root data/shapes --output_dir runs/ablations
    python scripts/ablate.py --only queries_1 frames_1 --data_root data/shapes --output_dir runs/ablations \
        -- --optim.epochs 4 --optim.lr_drops "[3]"

    python scripts/ablate.py --init_checkpoint configs/quickstart_weights.pth --data_root data/shapes \
        --output_dir runs/ablations

Each file of configs/ablations is laid over the base; `full` is the base alone. All start from the same seed, without
pretrained weights or with those of `--init_checkpoint` that fit: an ablation's other parameters start at random, and
the table says how large a part was taken. Options after `--` go to main.py. Ablations whose score is in the output
folder already are kept. The benchmark is small and easier than the real one: the order of the scores says something,
their size nothing.
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

import torch
from torch import Tensor, nn

from models.build import build_model
from util.checkpoint_io import load_checkpoint, save_checkpoint
from util.cli import parse
from util.logs import read_records
from util.masks import write_bytes

ROOT = Path(__file__).resolve().parents[1]
ABLATIONS = ROOT / "configs" / "ablations"
FULL = "full"


def names() -> list[str]:
    """The full model, then the ablations."""
    return [FULL, *sorted(path.stem for path in ABLATIONS.glob("*.yaml"))]


def take_what_fits(model: nn.Module, weights: dict[str, Tensor]) -> float:
    """Load the weights that have the name and the shape of one of the model's; the others stay as they are.

    Of another number of queries the first ones are taken.

    Returns:
        the share of the model's parameters that was loaded, counted in numbers.
    """
    own = model.state_dict()
    trained, num_taken = dict(model.named_parameters()), 0
    for name, weight in weights.items():
        if name not in own:
            continue
        target = own[name]
        if name == "query_embed.weight" and weight.shape[1:] == target.shape[1:]:
            num_common = min(len(weight), len(target))
            weight, target = weight[:num_common], target[:num_common]
        if weight.shape == target.shape:
            target.copy_(weight)
            num_taken += target.numel() if name in trained else 0
    return num_taken / sum(parameter.numel() for parameter in trained.values())


def write_start(settings: Sequence[str], init_checkpoint: Path, path: Path) -> float:
    """Write the checkpoint that an ablation starts from.

    Args:
        settings: files and options of main.py.
        init_checkpoint: whose weights are taken where they fit, with its tokenizer.
        path: of the new checkpoint.

    Returns:
        the share of the parameters that is from `init_checkpoint`.

    Raises:
        FileNotFoundError, ValueError: `init_checkpoint` is not there, or no checkpoint.
    """
    config, checkpoint = parse(settings), load_checkpoint(init_checkpoint)
    torch.manual_seed(config.train.seed)
    model = build_model(config.model, (checkpoint.get("extras") or {}).get("text"))
    share = take_what_fits(model, checkpoint["model"])
    state = {"model": model.state_dict(), "config": config.to_dict(), "extras": model.checkpoint_extras()}
    save_checkpoint(path, state)
    return share


def train(
    name: str, base: Path, data_root: Path, folder: Path, options: Sequence[str], init_checkpoint: Path | None = None
) -> dict[str, Any]:
    """Train one ablation and evaluate its last epoch.

    Returns:
        its settings (`options`, `init_checkpoint`), `J`, `F`, `J&F`, `seconds`, and `pretrained`, the share of its
        parameters that started from `init_checkpoint`.

    Raises:
        RuntimeError: the training failed.
    """
    files = [base] if name == FULL else [base, ABLATIONS / f"{name}.yaml"]
    settings = [word for file in files for word in ("--config", str(file))]
    # a checkpoint is not evaluated but at the end: large enough for every number of epochs
    given = ["--data.root", str(data_root), "--train.output_dir", str(folder), "--train.eval_every_epochs", "1000000"]
    start, pretrained = "null", 0.0
    if init_checkpoint is not None:
        start = str(folder.with_name(f"{name}_start.pth"))
        pretrained = write_start([*settings, *given, *options], init_checkpoint, Path(start))
    command = [sys.executable, str(ROOT / "main.py"), *settings, *given, "--train.init_checkpoint", start, *options]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise RuntimeError(f"{name}: the training failed; what it said is above")
    records = read_records(folder / "log.jsonl")
    scores = {key: records[-1]["eval"][key] for key in ("J", "F", "J&F")}
    seconds = sum(record["seconds"] for record in records)
    return identity(options, init_checkpoint) | scores | {"seconds": seconds, "pretrained": pretrained}


def identity(options: Sequence[str], init_checkpoint: Path | None) -> dict[str, Any]:
    """What results must have in common to stand in one table."""
    return {"options": list(options), "init_checkpoint": None if init_checkpoint is None else str(init_checkpoint)}


def format_table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown, with the distance of each J&F to that of the full model where that is there."""
    full = results.get(FULL)
    lines = ["| ablation | J&F | J | F | to the full model | pretrained | minutes |", "|---|---|---|---|---|---|---|"]
    for name, row in results.items():
        distance = "" if full is None or name == FULL else f"{100 * (row['J&F'] - full['J&F']):+.1f}"
        numbers = " | ".join(f"{100 * row[key]:.1f}" for key in ("J&F", "J", "F"))
        lines.append(f"| {name} | {numbers} | {distance} | {row['pretrained']:.0%} | {row['seconds'] / 60:.1f} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    argv = list(sys.argv[1:] if argv is None else argv)
    own, options = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names(), default=names(), help="default: all")
    parser.add_argument("--base", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("--data_root", type=Path, required=True, help="by python -m datasets.shapes ytvos")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--init_checkpoint", type=Path, help="start from its weights, as far as they fit")
    args = parser.parse_args(own)
    start = None if args.init_checkpoint is None else args.init_checkpoint.resolve()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    results_path, results = args.output_dir / "results.json", {}
    if results_path.is_file():
        known = identity(options, start)
        results = {k: v for k, v in json.loads(results_path.read_text()).items() if known.items() <= v.items()}
    for name in args.only:
        if name not in results:
            folder = (args.output_dir / name).resolve()
            results[name] = train(name, args.base.resolve(), args.data_root.resolve(), folder, options, start)
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
