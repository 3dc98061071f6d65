"""Several processes are real ones, started by torch.multiprocessing over gloo."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch

from util import distributed


def test_single_process_needs_no_group() -> None:
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = distributed.all_reduce_mean(value)
    assert torch.equal(mean, value) and mean is not value and not mean.requires_grad
    assert distributed.gather_objects("a") == ["a"]
    assert distributed.gather_by_index({1: "b", 0: "a", 7: "z"}, 2) == ["a", "b"]
    assert distributed.broadcast_object(3) == 3
    assert (distributed.get_rank(), distributed.get_world_size()) == (0, 1)
    assert distributed.is_main_process() and not distributed.is_distributed()
    distributed.barrier()


def test_without_torchrun_the_context_makes_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.distributed("cpu") as process:
        assert not distributed.is_distributed()
        assert process == distributed.ProcessInfo(0, 1, torch.device("cpu"))


def test_device_errors_name_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert distributed.choose_device("auto", 0) == torch.device("cuda", 0)
    assert distributed.choose_device("cpu", 1) == torch.device("cpu")
    with pytest.raises(ValueError, match="at most one process per GPU"):
        distributed.choose_device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert distributed.choose_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="no GPU"):
        distributed.choose_device("cuda")
    with pytest.raises(ValueError, match="tpu"):
        distributed.choose_device("tpu")


def test_the_interface_that_leads_to_a_machine() -> None:
    assert distributed.interface_towards("127.0.0.1") == "lo"
    assert distributed.interface_towards("no.such.name.invalid") is None


def _work(rank: int, world_size: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with distributed.distributed("cpu") as process:
        value = torch.tensor([float(rank), 10.0 * rank])
        result = {
            "process": (process.rank, process.world_size),
            "main": distributed.is_main_process(),
            "mean": distributed.all_reduce_mean(value),
            "value": value,
            "gathered": distributed.gather_objects({"rank": rank}),
            "broadcast": distributed.broadcast_object(f"from {rank}"),
        }
        distributed.barrier()
    assert not distributed.is_distributed()
    torch.save(result, Path(folder) / f"{rank}.pt")


def test_three_processes_agree(tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(_work, (3, port, str(tmp_path)), nprocs=3)
    for rank in range(3):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert result["process"] == (rank, 3)
        assert result["main"] == (rank == 0)
        assert torch.equal(result["mean"], torch.tensor([1.0, 10.0]))
        assert torch.equal(result["value"], torch.tensor([float(rank), 10.0 * rank]))
        assert result["gathered"] == [{"rank": r} for r in range(3)]
        assert result["broadcast"] == "from 0"
