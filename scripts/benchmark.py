"""Seconds per clip and peak memory of the model, beside the published formulation, measured in one run.

    python scripts/benchmark.py                              # ResNet-50, 5 x 360 x 640, float32 and bfloat16
    python scripts/benchmark.py --modes infer --precisions float32 --size 96 160 --repeats 1
    python scripts/benchmark.py --all_backbones --precisions float32      # our inference with each published backbone

The two formulations share weights and inputs and take turns in one process, so that whatever else the machine does
falls on both. Memory is the peak of a process of its own for each, above that process with the model loaded.
Inference is one sentence about one clip, masks of the chosen query at the frames' size; a training step is forward
and backward with losses on all decoder layers, without the optimizer.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import RobertaConfig

from models.backbones import BACKBONES
from models.build import build_criterion, build_model
from models.predictor import Predictor
from models.reference import to_reference
from models.referformer import ReferFormer
from models.summary import count_parameters, measure_clip
from util.batch import ClipTargets
from util.config import LossConfig, ModelConfig
from util.memory import peak_memory

FORMULATIONS = ("published", "ours")
CAPTION = "a b c d e f g h i j"
_TOKENIZER = {
    "version": "1.0",
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {
        "type": "WordLevel",
        "unk_token": "<pad>",
        "vocab": {"<pad>": 1} | {c: 10 + i for i, c in enumerate(CAPTION.split())},
    },
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--num_frames", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640), metavar=("H", "W"))
    parser.add_argument("--modes", nargs="+", choices=("infer", "train"), default=("infer", "train"))
    parser.add_argument("--precisions", nargs="+", default=("float32", "bfloat16"), choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num_threads", type=int, default=0, help="CPU threads, 0 for PyTorch's choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--activation_checkpointing", action="store_true", help="of our training step")
    parser.add_argument("--no_memory", action="store_true", help="measure time only")
    parser.add_argument("--all_backbones", action="store_true", help="list our inference with all published backbones")
    parser.add_argument("--one_backbone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=3, metavar=("FORMULATION", "MODE", "PRECISION"), help=argparse.SUPPRESS)
    return parser.parse_args()


def build(args: argparse.Namespace, mode: str) -> ReferFormer:
    """The model with random weights; RoBERTa-base in its size, frozen as in the published recipes."""
    roberta = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    assets = {
        "config": json.dumps(roberta.to_dict()),
        "tokenizer": json.dumps(_TOKENIZER),
        "special_tokens": {"pad_token": "<pad>"},
    }
    torch.manual_seed(0)
    recompute = args.activation_checkpointing and mode == "train"
    config = ModelConfig(backbone=args.backbone, activation_checkpointing=recompute)
    model = build_model(config, text_assets=assets, weights_follow=True).to(args.device).train(mode == "train")
    return model if mode == "train" else model.requires_grad_(False)


def make_step(model: ReferFormer, formulation: str, mode: str, precision: str, args: argparse.Namespace) -> Callable:
    """A function without arguments that runs one clip."""
    h, w = args.size
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (args.num_frames, h, w, 3), dtype=torch.uint8, generator=generator)
    if mode == "train":
        return _training_step(model, frames, precision, args)
    if formulation == "ours":
        predictor = Predictor(model, short_side=min(h, w), precision=precision, device=args.device)
        return lambda: predictor.predict(predictor.encode(frames), [CAPTION])
    return lambda: _published_inference(model, frames, precision, args)


@torch.inference_mode()
def _published_inference(model: ReferFormer, frames: Tensor, precision: str, args: argparse.Namespace) -> Tensor:
    """Masks of all layers and queries are made, then one query's are kept."""
    x = (frames.to(args.device).permute(0, 3, 1, 2)[None].float() / 255 - 0.45) / 0.225
    size = torch.tensor([args.size], device=args.device)
    with torch.autocast(args.device, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        last = model(x, None, [CAPTION], size)[-1]
    query = last.class_logits.sigmoid().amax(-1).mean((0, 1)).argmax()
    return F.interpolate(last.mask_logits[0, :, query, None].float(), args.size, mode="bilinear").sigmoid().cpu() > 0.5


def _training_step(model: ReferFormer, frames: Tensor, precision: str, args: argparse.Namespace) -> Callable:
    h, w = (-(-side // 32) * 32 for side in args.size)
    x = F.pad(
        (frames.permute(0, 3, 1, 2)[None].float() / 255 - 0.45) / 0.225, (0, w - args.size[1], 0, h - args.size[0])
    )
    padding_mask = torch.ones(1, args.num_frames, h, w, dtype=torch.bool)
    padding_mask[..., : args.size[0], : args.size[1]] = False
    masks = torch.zeros(args.num_frames, *args.size, dtype=torch.bool)
    masks[:, args.size[0] // 4 : args.size[0] // 2, args.size[1] // 4 : args.size[1] // 2] = True
    boxes = torch.tensor([0.375, 0.375, 0.25, 0.25]).expand(args.num_frames, -1)
    target = ClipTargets(masks, boxes, masks.any((1, 2)), torch.zeros(args.num_frames, dtype=torch.int64))
    x, padding_mask, target = x.to(args.device), padding_mask.to(args.device), target.to(args.device)
    criterion = build_criterion(LossConfig())

    def step() -> None:
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            outputs = model(x, padding_mask, [CAPTION], torch.tensor([args.size], device=args.device))
        sum(criterion(outputs, [target]).values()).backward()
        model.zero_grad(set_to_none=True)

    return step


def timed(step: Callable, device: str) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_gb(device: str) -> float:
    """Peak memory of this process so far: resident on a CPU, allocated on a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return peak_memory() / 1e9


def measure_memory(args: argparse.Namespace, formulation: str, mode: str, precision: str) -> float:
    """GB above the loaded model, in a process of its own."""
    command = [sys.executable, __file__, "--one", formulation, mode, precision]
    command += ["--backbone", args.backbone, "--num_frames", str(args.num_frames), "--device", args.device]
    command += ["--size", *map(str, args.size), "--num_threads", str(args.num_threads)]
    command += ["--activation_checkpointing"] * args.activation_checkpointing
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _addmm_flop(total_shape: Size, a_shape: Size, b_shape: Size, **_: object) -> int:
    """Operations of total += a b, which PyTorch's counter leaves out."""
    return 2 * a_shape[0] * a_shape[1] * b_shape[1]


def measure_all_memory(args: argparse.Namespace) -> dict[tuple[str, str, str], float]:
    """GB by formulation, mode and precision; the published one in float32 only."""
    keys = [("published", mode, "float32") for mode in args.modes]
    keys += [("ours", mode, precision) for mode in args.modes for precision in args.precisions]
    return {key: measure_memory(args, *key) for key in keys}


def run_one(args: argparse.Namespace) -> None:
    """The memory of one formulation; prints GB above the loaded model."""
    formulation, mode, precision = args.one
    model = build(args, mode)
    if formulation == "published":
        to_reference(model)
    step = make_step(model, formulation, mode, precision, args)
    before = peak_gb(args.device)
    step()
    print(peak_gb(args.device) - before)


def compare(args: argparse.Namespace, mode: str, precision: str) -> dict[str, dict[str, float]]:
    """Both formulations in turn: median seconds and GFLOP.

    Everything is compared with the published formulation in float32, as it was published.
    """
    ours = build(args, mode)
    models = {"published": to_reference(copy.deepcopy(ours)), "ours": ours}
    precisions = {"published": "float32", "ours": precision}
    steps = {name: make_step(models[name], name, mode, precisions[name], args) for name in FORMULATIONS}
    rows: dict[str, dict[str, float]] = {name: {} for name in FORMULATIONS}
    for name in FORMULATIONS:
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm_flop}) as counter:
            steps[name]()  # also warms up
        rows[name]["gflop"] = counter.get_total_flops() / 1e9
    seconds: dict[str, list[float]] = {name: [] for name in FORMULATIONS}
    for _ in range(args.repeats):
        for name in FORMULATIONS:
            seconds[name].append(timed(steps[name], args.device))
    for name in FORMULATIONS:
        rows[name]["seconds"] = statistics.median(seconds[name])
    return rows


def list_backbones(args: argparse.Namespace) -> None:
    """A line per backbone and precision, each measured in a process of its own."""
    print(f"{'':32s}{'seconds':>10s}{'GFLOP':>10s}{'GB':>8s}{'millions of parameters':>26s}")
    for backbone in BACKBONES:
        for precision in args.precisions:
            command = [sys.executable, __file__, "--one_backbone", "--backbone", backbone, "--precisions", precision]
            command += ["--num_frames", str(args.num_frames), "--size", *map(str, args.size), "--device", args.device]
            command += ["--repeats", str(args.repeats), "--num_threads", str(args.num_threads)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            row = json.loads(output.splitlines()[-1])
            parameters = f"{row['parameters']:.1f}, {row['backbone']:.1f} of the backbone"
            numbers = f"{row['seconds']:10.2f}{row['gflop']:10.0f}{row['peak_gb']:8.2f}{parameters:>34s}"
            print(f"{f'{backbone} {precision}':32s}{numbers}", flush=True)


def measure_backbone(args: argparse.Namespace) -> None:
    """Our inference with one backbone; prints a line of JSON."""
    model = build(args, "infer")
    parts = {part.name: (part.trained + part.frozen) / 1e6 for part in count_parameters(model)}
    predictor = Predictor(model, short_side=min(args.size), precision=args.precisions[0], device=args.device)
    cost = measure_clip(predictor, args.num_frames, tuple(args.size), args.repeats, CAPTION)
    print(json.dumps(dataclasses.asdict(cost) | {"parameters": parts["all"], "backbone": parts["backbone"]}))


def main() -> None:
    args = parse_args()
    if args.num_threads:
        torch.set_num_threads(args.num_threads)
    if args.one:
        run_one(args)
        return
    if args.one_backbone:
        measure_backbone(args)
        return
    subject = "all backbones" if args.all_backbones else args.backbone
    print(
        f"{subject}, {args.num_frames} x {args.size[0]} x {args.size[1]}, {args.device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    if args.all_backbones:
        list_backbones(args)
        return
    print(f"{'':28s}{'seconds':>10s}{'GFLOP':>10s}{'GB':>8s}{'time':>9s}{'memory':>9s}")
    # Before this process fills, so that each of the others has the machine's memory.
    memory = {} if args.no_memory else measure_all_memory(args)
    for mode in args.modes:
        for precision in args.precisions:
            rows = compare(args, mode, precision)
            for name in FORMULATIONS:
                row, base = rows[name], rows["published"]
                key = (name, mode, "float32" if name == "published" else precision)
                line = f"{' '.join((mode, key[2], name)):28s}{row['seconds']:10.2f}{row['gflop']:10.0f}"
                if memory:
                    share = memory[key] / memory["published", mode, "float32"]
                    line += f"{memory[key]:8.2f}{row['seconds'] / base['seconds']:9.0%}{share:9.0%}"
                else:
                    line += f"{'':8s}{row['seconds'] / base['seconds']:9.0%}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
