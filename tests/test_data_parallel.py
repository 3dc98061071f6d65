"""One training step under DistributedDataParallel: two gloo processes with half of the clips each have the gradient of
one process with all of them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from datasets.build import build_clip_dataset
from datasets.collate import collate
from engine import optimizer_step
from fitting import build_run
from models.build import build_model
from tests.small_model import assert_gradients_close
from util.cli import parse
from util.config import Config
from util.distributed import ProcessInfo, distributed

ROOT = Path(__file__).parent.parent
NO_QUERIES = ["--config", str(ROOT / "configs" / "ablations" / "no_queries.yaml")]
CASES = {
    "full": [],
    "no auxiliary losses": ["--loss.aux_loss", "false"],
    "no queries": NO_QUERIES,
    "no queries, recomputed": [*NO_QUERIES, "--model.activation_checkpointing", "true"],
    "no queries, frozen text encoder": [*NO_QUERIES, "--model.freeze_text_encoder", "true"],
    "no fusion": ["--config", str(ROOT / "configs" / "ablations" / "no_fpn_fusion.yaml")],
}
BATCHES = {"one batch": [[0, 1, 2, 3]], "two batches": [[0, 1], [2, 3]]}


def _step(config: Config, batches: list[list[int]], process: ProcessInfo) -> dict[str, Any]:
    """Losses and gradients of one optimizer step, on this process's share of the clips of each batch."""
    torch.manual_seed(0)
    run = build_run(config, build_model(config.model), process)
    assert isinstance(run.model, DistributedDataParallel) == (process.world_size > 1)
    dataset = build_clip_dataset(config)
    shares = [batch[process.rank :: process.world_size] for batch in batches]
    losses = optimizer_step(run, [collate([dataset[(0, i)] for i in share]) for share in shares])
    supervised = run.model.module if process.world_size > 1 else run.model
    gradients = {name: p.grad for name, p in supervised.network.named_parameters() if p.requires_grad}
    return {"losses": {name: float(loss) for name, loss in losses.items()}, "gradients": gradients}


def _work(rank: int, port: int, folder: str, options: list[str]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with distributed("cpu") as process:
        results = {
            f"{case}, {count}": _step(parse([*options, *changes]), batches, process)
            for case, changes in CASES.items()
            for count, batches in BATCHES.items()
        }
    torch.save(results, Path(folder) / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one_with_all_clips(tiny_options: list[str], tmp_path: Path) -> None:
    # no dropout and no norm over the batch, which depend on how clips are divided
    options = [*tiny_options, "--model.backbone", "timm/convnext_atto", "--model.dropout", "0"]
    options += ["--model.backbone_options", "{depths: [1, 1, 1, 1], dims: [8, 16, 16, 32]}"]
    options += ["--optim.clip_grad_norm", "0", "--data.augment", "false"]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(_work, (port, str(tmp_path), options), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for case, changes in CASES.items():
        for count, batches in BATCHES.items():
            expected = _step(parse([*options, *changes]), batches, ProcessInfo(0, 1, torch.device("cpu")))
            assert expected["losses"]["loss"] > 0 and expected["losses"]["grad_norm"] > 0
            one, other = (results[f"{case}, {count}"] for results in found)
            assert_gradients_close(one["gradients"], expected["gradients"], rtol=1e-3)
            assert_gradients_close(one["gradients"], other["gradients"], rtol=0)
            assert one["losses"]["class"] != other["losses"]["class"] or "no queries" in case, "clips of their own"
            mean = (one["losses"]["loss"] + other["losses"]["loss"]) / 2
            assert mean == pytest.approx(expected["losses"]["loss"], rel=1e-4)
