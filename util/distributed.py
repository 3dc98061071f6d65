"""Several processes, one per device, started by torchrun; every function also works in a single process."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


@dataclass(frozen=True)
class ProcessInfo:
    """This process among those of the run.

    Attributes:
        rank: index of the process in the run, 0 is the main one.
        world_size: number of processes.
        device: where this process computes.
    """

    rank: int
    world_size: int
    device: torch.device


@contextlib.contextmanager
def distributed(device: str = "auto", timeout_minutes: float = 60.0) -> Iterator[ProcessInfo]:
    """Join the process group that torchrun's environment describes, and leave it at the end.

    Without torchrun there is no group and the process is alone. The group uses nccl on GPUs and gloo on CPUs.

    Args:
        device: `cpu`, `cuda` (the GPU of the local rank), or `auto`, which takes a GPU where there is one.
        timeout_minutes: how long a collective waits for the slowest process, an evaluation for instance.

    Raises:
        ValueError: `cuda` was asked for and there is no GPU for this process.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device, local_rank)
    if "RANK" not in os.environ or not dist.is_available():
        yield ProcessInfo(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    interface = interface_towards(os.environ["MASTER_ADDR"])
    if interface not in (None, "lo"):
        # gloo takes the address of the machine's own name otherwise, which is often that of the loopback
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=timedelta(minutes=timeout_minutes))
    logger.info("process %d of %d on %s (%s)", rank, world_size, chosen, backend)
    try:
        yield ProcessInfo(rank, world_size, chosen)
    finally:
        dist.destroy_process_group()


def interface_towards(host: str) -> str | None:
    """Name of the network interface by which this machine reaches `host`; None where it cannot be told."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # chooses the interface; sends nothing
            address = socket.inet_aton(probe.getsockname()[0])
            for _, name in socket.if_nameindex():
                with contextlib.suppress(OSError):  # an interface without an address
                    request = struct.pack("256s", name.encode())
                    if fcntl.ioctl(probe, _SIOCGIFADDR, request)[20:24] == address:
                        return name
    except OSError:
        pass
    return None


def choose_device(device: str = "auto", local_rank: int = 0) -> torch.device:
    """The device of a process: `cpu`, or the GPU numbered `local_rank`; `auto` prefers the GPU.

    Raises:
        ValueError: `cuda` was asked for and there is no such GPU, or the name is unknown.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}; it must be auto, cpu or cuda")
    available = 0 if device == "cpu" else torch.cuda.device_count()
    if device == "cuda" or (device == "auto" and available):
        if local_rank >= available:
            raise ValueError(
                f"process {local_rank} of this machine has no GPU, {available} found; "
                "start at most one process per GPU, or choose the device cpu"
            )
        return torch.device("cuda", local_rank)
    return torch.device("cpu")


def is_distributed() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """Index of this process, 0 without a group."""
    return dist.get_rank() if is_distributed() else 0


def get_world_size() -> int:
    """Number of processes, 1 without a group."""
    return dist.get_world_size() if is_distributed() else 1


def is_main_process() -> bool:
    """Whether this is the process that writes files and talks."""
    return get_rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if is_distributed():
        dist.barrier()


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """The mean of a floating-point tensor over all processes, as a new tensor outside the graph.

    The tensor must have one shape everywhere and lie on the process's device.
    """
    result = tensor.detach().clone()
    if get_world_size() > 1:
        dist.all_reduce(result)
        result /= get_world_size()
    return result


def all_reduce_max(value: int, device: torch.device) -> int:
    """The largest of the processes' whole numbers, on every process.

    Args:
        value: of this process.
        device: of this process.
    """
    if get_world_size() == 1:
        return value
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest.item())


def gather_objects(value: T) -> list[T]:
    """The values of all processes in the order of their ranks, on every process."""
    if get_world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def gather_by_index(found: dict[int, T], count: int) -> list[T]:
    """What the processes have found of `count` things, each of exactly one of them, in order; on every process."""
    gathered: dict[int, T] = {}
    for part in gather_objects(found):
        assert not gathered.keys() & part.keys()
        gathered |= part
    return [gathered[index] for index in range(count)]


def broadcast_object(value: T) -> T:
    """The main process's value, on every process."""
    if get_world_size() == 1:
        return value
    boxed: list[Any] = [value]
    dist.broadcast_object_list(boxed, src=0)
    return boxed[0]
