from __future__ import annotations

import argparse
import errno
import os
import pickle
import resource
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from util.checkpoint_contents import RESUME_KEYS
from util.checkpoint_io import (
    CheckpointError,
    find_newest,
    keep_copy,
    load_checkpoint,
    read_tensors,
    save_checkpoint,
)

WEIGHTS = {"head.weight": torch.arange(6.0).reshape(2, 3)}
ANY, RUN = False, True  # whether only a run that resumes minds


class Malicious:
    """Would write a file if it were unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def _state(**more: Any) -> dict[str, Any]:
    state = {
        "model": WEIGHTS,
        "config": {"model": {}},
        "optimizer": {"state": {}, "param_groups": []},
        "scheduler": {},
        "step": 3,
        "epoch": 1,
        "rng": [],
        "sampler": {"batches_done": 0, "batches_per_epoch": 4},
        "progress": {"means": {"means": {}, "count": 0}, "seconds": 0.5, "record": None},
    }
    assert state.keys() == set(RESUME_KEYS)
    return state | more


def test_round_trip_keeps_kinds(tmp_path: Path) -> None:
    state = _state(
        config={"model": {}, "lr": 1e-4, "drops": (3, 5), "name": None, "on": True}, rng=[torch.get_rng_state(), [1, 2]]
    )
    save_checkpoint(tmp_path / "new" / "checkpoint.pth", state)
    loaded = load_checkpoint(tmp_path / "new" / "checkpoint.pth", resumable=True)
    assert loaded["config"] == state["config"]
    assert torch.equal(loaded["model"]["head.weight"], WEIGHTS["head.weight"])
    assert torch.equal(loaded["rng"][0], state["rng"][0])
    assert os.listdir(tmp_path / "new") == ["checkpoint.pth"]


def test_a_full_disk_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    save_checkpoint(path, _state())
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the system refuses to write more into one file
    try:
        with pytest.raises(OSError, match=r"checkpoint\.pth.*previous checkpoint is untouched"):
            save_checkpoint(path, _state(big=torch.zeros(1_000_000)))
        with pytest.raises(OSError, match="nothing was written"):
            save_checkpoint(tmp_path / "other.pth", _state(big=torch.zeros(1_000_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["checkpoint.pth"]


def test_a_crash_before_the_rename_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pth"
    save_checkpoint(path, _state(step=1))
    order = []
    replace, sync = os.replace, os.fsync

    def record_sync(descriptor: int) -> None:
        order.append("sync")
        sync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        order.append("replace")
        assert Path(source).parent == path.parent, "a rename is only whole within one file system"
        assert load_checkpoint(path)["step"] == 1
        assert load_checkpoint(source)["step"] == 2
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    save_checkpoint(path, _state(step=2))
    assert order[:2] == ["sync", "replace"]
    assert load_checkpoint(path)["step"] == 2


def _write(path: Path, kind: str) -> None:
    trace = path.parent / "ran"
    torch.save(_state(padding=torch.zeros(10_000)), path)
    whole = path.read_bytes()
    if kind == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "opening":
        path.write_bytes(whole[:40])
    elif kind == "last byte":
        path.write_bytes(whole[:-1])
    elif kind == "old format, half":
        torch.save({"model": WEIGHTS, "padding": torch.zeros(10_000)}, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:20_000])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "html":
        path.write_bytes(b"\n<!DOCTYPE html><html><body>Sign in</body></html>")
    elif kind == "lfs":
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    elif kind == "text":
        path.write_bytes(b"hello world, this is a note")
    elif kind == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.txt", "x")
    elif kind == "tar":
        inside = path.rename(path.with_name("inside.pth"))
        with tarfile.open(path, "w") as archive:
            archive.add(inside)
    elif kind == "code":
        torch.save({"model": Malicious(trace)}, path)
    elif kind == "code, old format":
        torch.save({"model": Malicious(trace)}, path, _use_new_zipfile_serialization=False)
    elif kind == "code, plain pickle":
        path.write_bytes(pickle.dumps({"model": Malicious(trace)}))
    elif kind == "tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "weights alone":
        torch.save(WEIGHTS, path)
    elif kind == "no weights":
        torch.save({"model": {"a": 1}}, path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("half", "truncated or damaged"),
        ("opening", "truncated or damaged"),
        ("last byte", "truncated or damaged"),
        ("old format, half", "truncated or damaged"),
        ("empty", "is empty"),
        ("html", "web page"),
        ("lfs", "git lfs pull"),
        ("text", "not a checkpoint: neither of the file formats of PyTorch; it begins with 'hello world"),
        ("archive", "zip archive of other files (a/data.txt)"),
        ("tar", "packed archive"),
        ("code", "could run code"),
        ("code, old format", "could run code"),
        ("code, plain pickle", "could run code"),
        ("tensor", "holds no `model` with weights but a Tensor"),
        ("weights alone", "holds no `model` with weights but head.weight"),
        ("no weights", "holds no `model`"),
    ],
)
def test_what_is_not_a_checkpoint_is_named(kind: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    _write(path, kind)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path)
    assert words in str(raised.value) and str(path) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "ran").exists(), "code of the file ran"


def test_code_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "bad.pth", "code")
    with pytest.raises(CheckpointError, match="mkdir"):
        read_tensors(tmp_path / "bad.pth")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        load_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path)


def test_published_layout_loads_but_cannot_be_resumed(tmp_path: Path) -> None:
    path = tmp_path / "published.pth"
    published = {"model": WEIGHTS, "optimizer": {}, "lr_scheduler": {}, "epoch": 5}
    torch.save(published | {"args": argparse.Namespace(lr=1e-4, lr_drop=[3, 5])}, path)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["model"]["head.weight"], WEIGHTS["head.weight"])
    assert loaded["args"].lr_drop == [3, 5]
    with pytest.raises(CheckpointError, match=r"config.*init_checkpoint"):
        load_checkpoint(path, resumable=True)
    assert argparse.Namespace not in torch.serialization.get_safe_globals(), "allowed for our reading alone"


def test_newest_is_found(tmp_path: Path) -> None:
    assert find_newest(tmp_path / "absent") is None
    assert find_newest(tmp_path) is None
    for name in ("checkpoint_0009.pth", "checkpoint_0010.pth", "checkpoint_best.pth", ".checkpoint.pth.partial"):
        (tmp_path / name).touch()
    assert find_newest(tmp_path) == tmp_path / "checkpoint_0010.pth"
    (tmp_path / "checkpoint.pth").touch()
    assert find_newest(tmp_path) == tmp_path / "checkpoint.pth"


@pytest.mark.parametrize("links", [True, False])
def test_a_kept_copy_stays_when_the_newest_is_replaced(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    save_checkpoint(tmp_path / "checkpoint.pth", _state(step=1))
    for _ in range(2):
        keep_copy(tmp_path / "checkpoint.pth", tmp_path / "checkpoint_0001.pth")
    save_checkpoint(tmp_path / "checkpoint.pth", _state(step=2))
    assert load_checkpoint(tmp_path / "checkpoint_0001.pth")["step"] == 1
    assert load_checkpoint(tmp_path / "checkpoint.pth")["step"] == 2


@pytest.mark.parametrize(
    ("change", "words", "resumable"),
    [
        ({"model": {}}, "its `model` holds no weights", ANY),
        ({"model": WEIGHTS | {"a": torch.tensor([0.0, torch.nan])}}, "not finite numbers: a;", ANY),
        ({"model": {"a": torch.tensor(torch.inf), "b": -torch.tensor(torch.inf)}}, "numbers: a and 1 more;", ANY),
        ({"config": [1]}, "its `config` is of type list, not a dict", ANY),
        ({"extras": 3}, "its `extras` is of type int, not a dict", ANY),
        ({"config": {}}, "it has no `config.model`", RUN),
        ({"optimizer": None}, "its `optimizer` is of type NoneType", RUN),
        ({"optimizer": {"state": {}}}, "it has no `optimizer.param_groups`", RUN),
        ({"step": "3"}, "its `step` is of type str, not int", RUN),
        ({"epoch": True}, "its `epoch` is of type bool, not int", RUN),
        ({"epoch": -1}, "its position is impossible: step 3, epoch -1", RUN),
        ({"sampler": {"batches_done": 5, "batches_per_epoch": 4}}, "5 of 4 batches", RUN),
        ({"sampler": {"batches_done": 0}}, "it has no `sampler.batches_per_epoch`", RUN),
        ({"rng": {}}, "its `rng` is of type dict, not list", RUN),
        (
            {"progress": {"means": {"means": {}, "count": 0}, "seconds": 0.0, "record": 1}},
            "`progress.record` is of",
            RUN,
        ),
    ],
)
def test_wrong_contents_are_named(change: dict, words: str, resumable: bool, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    save_checkpoint(path, _state(**change))
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path, resumable=resumable)
    message = str(raised.value)
    assert message.startswith(f"{path}: ") and words in message and "older checkpoint" in message, message
    if resumable:
        load_checkpoint(path)  # its weights are fine


def test_a_copy_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "checkpoint.pth", _state())

    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    def copyfile(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", link)
    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"cannot write .*copy\.pth: No space left"):
        patch.setattr(shutil, "copyfile", copyfile)
        keep_copy(tmp_path / "checkpoint.pth", tmp_path / "copy.pth")
    assert os.listdir(tmp_path) == ["checkpoint.pth"]
    keep_copy(tmp_path / "checkpoint.pth", tmp_path / "copy.pth")
    assert load_checkpoint(tmp_path / "copy.pth")["step"] == 3
