"""Whole runs of the tiny model, interrupted in every way and resumed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import engine
import fitting
import resuming
from util.checkpoint_io import CheckpointError, load_checkpoint, save_checkpoint
from util.cli import parse
from util.config import Config
from util.distributed import ProcessInfo
from util.logs import read_records

ALONE = ProcessInfo(0, 1, torch.device("cpu"))


class Crash(Exception):
    """Stands for whatever ends a process."""


def _config(options: list[str], *more: str) -> Config:
    """Three optimizer steps an epoch, the last of a single batch, two epochs."""
    accumulation = ["--optim.batch_size", "1", "--optim.accumulate_steps", "3"]
    return parse([*options, *accumulation, "--train.save_every_steps", "2", "--train.eval_every_epochs", "0", *more])


def _fit(config: Config) -> dict[str, Any]:
    return fitting.fit(config, ALONE)


def _crash_before_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    real = engine.optimizer_step

    def crash(run: engine.TrainingRun, batches: list) -> dict[str, Tensor]:
        if run.step == step:
            raise Crash
        return real(run, batches)

    monkeypatch.setattr(engine, "optimizer_step", crash)


def _checkpoint(config: Config) -> dict[str, Any]:
    return load_checkpoint(Path(config.train.output_dir) / "checkpoint.pth", resumable=True)


def _assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Equal bit for bit, tensors within containers too."""
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            _assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            _assert_same(found[i], value, f"{where}[{i}]")
    else:
        assert found == expected, where


def _assert_same_run(found: Config, expected: Config) -> None:
    ours, theirs = _checkpoint(found), _checkpoint(expected)
    for key in ("model", "optimizer", "scheduler", "step", "epoch", "rng", "sampler"):
        _assert_same(ours[key], theirs[key], key)
    records, wanted = (read_records(Path(c.train.output_dir) / "log.jsonl") for c in (found, expected))
    assert [r["epoch"] for r in records] == [r["epoch"] for r in wanted] == [0, 1]
    for record, want in zip(records, wanted, strict=True):
        assert record["train"] == pytest.approx(want["train"], rel=1e-9)
        assert record["lr"] == want["lr"] and record["step"] == want["step"]
    curves, wanted_curves = (_curve(Path(c.train.output_dir)) for c in (found, expected))
    assert curves == wanted_curves


def _curve(folder: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


def _other_folder(config: Config, folder: Path, **more: Any) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, output_dir=str(folder), **more))


@pytest.fixture
def config(tiny_options: list[str]) -> Config:
    return _config(tiny_options)


@pytest.fixture(scope="module")
def whole(tiny_model: list[str], tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run that never stopped; tests only read its folder."""
    config = _config([*tiny_model, "--train.output_dir", str(tmp_path_factory.mktemp("whole"))])
    _fit(config)
    return config


@pytest.fixture(scope="module")
def mid_epoch(tiny_model: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A run that stopped in the middle of its first epoch, and its checkpoint; tests only read it."""
    folder = tmp_path_factory.mktemp("mid_epoch")
    config = _config([*tiny_model, "--train.output_dir", str(folder)])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        _crash_before_step(patch, 3)
        _fit(config)
    return config, folder / "checkpoint.pth"


def _num_steps(config: Config) -> int:
    return _checkpoint(config)["step"] // 2


@pytest.mark.parametrize("where", ["first step", "before the first save", "mid-epoch", "epoch", "second epoch"])
def test_resumed_equals_uninterrupted(
    where: str, whole: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_epoch = _num_steps(whole)
    assert per_epoch >= 4, "several checkpoints an epoch"
    steps = {"first step": 0, "before the first save": 1, "mid-epoch": 3, "epoch": per_epoch}
    steps["second epoch"] = per_epoch + 3
    resumed = _other_folder(whole, tmp_path / "resumed", resume="auto")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        _crash_before_step(patch, steps[where])
        _fit(resumed)
    _fit(resumed)
    _assert_same_run(resumed, whole)


def test_worker_processes_change_nothing(whole: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed = _other_folder(whole, tmp_path / "resumed", resume="auto")
    resumed = dataclasses.replace(resumed, data=dataclasses.replace(resumed.data, num_workers=2))
    with monkeypatch.context() as patch, pytest.raises(Crash):
        _crash_before_step(patch, 3)
        _fit(resumed)
    _fit(resumed)
    _assert_same_run(resumed, whole)


def test_a_crash_while_evaluating_costs_no_record(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tiny_options, "--train.eval_every_epochs", "2")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(fitting, "evaluate", _raise(Crash()))
        _fit(config)
    records = Path(config.train.output_dir) / "log.jsonl"
    assert [record["epoch"] for record in read_records(records)] == [0]
    weights = _checkpoint(config)["model"]
    record = _fit(_other_folder(config, Path(config.train.output_dir), resume="auto"))
    assert record["eval"]["num_expressions"] > 0
    assert read_records(records)[1] == json.loads(json.dumps(record))
    _assert_same(_checkpoint(config)["model"], weights)
    assert _fit(_other_folder(config, Path(config.train.output_dir), resume="auto"))["epoch"] == 1
    assert len(read_records(records)) == 2, "the record was written twice"


def test_evaluation_changes_no_weights(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fitting.evaluate

    def evaluate(*arguments: Any) -> dict[str, Any]:
        torch.rand(3)  # as an evaluation may that samples something
        return real(*arguments)

    monkeypatch.setattr(fitting, "evaluate", evaluate)
    evaluated = _config(tiny_options, "--train.eval_every_epochs", "1")
    plain = _other_folder(_config(tiny_options), tmp_path / "plain")
    _fit(evaluated)
    _fit(plain)
    for key in ("model", "optimizer", "rng"):
        _assert_same(_checkpoint(evaluated)[key], _checkpoint(plain)[key], key)


def test_resuming_takes_milestones_and_rates_from_the_current_settings(tiny_options: list[str]) -> None:
    _fit(_config(tiny_options, "--optim.epochs", "1", "--optim.lr_drops", "[]"))
    more = ["--optim.epochs", "3", "--optim.lr_drops", "[2]", "--optim.lr", "2e-3", "--train.resume", "auto"]
    changed = _config(tiny_options, *more)
    _fit(changed)
    records = read_records(Path(changed.train.output_dir) / "log.jsonl")
    assert [record["lr"]["rest"] for record in records] == pytest.approx([1e-3, 2e-3, 2e-4])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--model.num_queries", "4"], ["model.num_queries (3 then, 4 now)", "init_checkpoint"]),
        (["--model.num_heads", "8"], ["model.num_heads (4 then, 8 now)"]),
        (["--model.freeze_text_encoder", "true"], ["trains other parameters", "text_encoder"]),
        (["--optim.batch_size", "2"], ["middle of an epoch", "optim.batch_size was 1 and is 2 now"]),
        (["--train.seed", "7"], ["middle of an epoch", "train.seed was 42 and is 7 now"]),
        (["--optim.accumulate_steps", "1"], ["middle of an epoch", "optim.accumulate_steps was 3 and is 1 now"]),
    ],
)
def test_a_run_that_does_not_fit_is_refused(
    change: list[str], words: list[str], tiny_options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tiny_options)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        _crash_before_step(patch, 3)
        _fit(config)
    path = Path(config.train.output_dir) / "checkpoint.pth"
    before = path.read_bytes()
    with pytest.raises(CheckpointError) as raised:
        _fit(_config(tiny_options, "--train.resume", str(path), *change))
    assert all(word in str(raised.value) for word in [*words, str(path)]), str(raised.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"number of clips": 99}, "number of clips was 99 and is"),
        ({"number of processes": 2}, "number of processes was 2 and is 1 now"),
        ({"optim.batch_size": 2, "number of processes": 3}, "number of processes was 3 and is 1 now, optim.batch_size"),
        (None, "it had 99 batches"),
    ],
)
def test_another_order_within_an_epoch_is_refused(
    order: dict[str, int] | None, words: str, mid_epoch: tuple[Config, Path], tmp_path: Path
) -> None:
    config, path = mid_epoch
    state = load_checkpoint(path)
    if order is None:  # a checkpoint that says no more than how many batches there are
        del state["sampler"]["order"]
        state["sampler"]["batches_per_epoch"] = 99
    else:
        state["sampler"]["order"] |= order
    save_checkpoint(tmp_path / "other.pth", state)
    with pytest.raises(CheckpointError, match=words):
        _fit(_other_folder(config, tmp_path / "run", resume=str(tmp_path / "other.pth")))
    state |= {"epoch": 2, "sampler": state["sampler"] | {"batches_done": 0}}
    save_checkpoint(tmp_path / "other.pth", state)
    _fit(_other_folder(config, tmp_path / "run", resume=str(tmp_path / "other.pth")))  # between epochs nothing is lost


@pytest.mark.parametrize("order", [None, {"optim.batch_size": 1, "number of processes": 2}])
def test_the_same_order_within_an_epoch_goes_on(
    order: dict[str, int] | None, mid_epoch: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = mid_epoch
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, batch_size=2))
    state = load_checkpoint(path)
    if order is None:
        del state["sampler"]["order"]
        config = mid_epoch[0]
    else:
        state["sampler"] |= {"order": state["sampler"]["order"] | order}
        state["sampler"]["batches_per_epoch"] //= 2
        state["sampler"]["batches_done"] = 3
    save_checkpoint(tmp_path / "same.pth", state)
    _crash_before_step(monkeypatch, state["step"])
    with pytest.raises(Crash):
        _fit(_other_folder(config, tmp_path / "run", resume=str(tmp_path / "same.pth")))


def test_weights_of_another_network_are_listed(tiny_options: list[str], whole: Config, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    state = _checkpoint(whole)
    del state["model"]["query_embed.weight"]
    state["model"]["stranger"] = torch.zeros(1)
    save_checkpoint(path, state)
    with pytest.raises(CheckpointError) as raised:
        _fit(_config(tiny_options, "--train.init_checkpoint", str(path)))
    assert all(word in str(raised.value) for word in ("query_embed.weight", "stranger", str(path)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda state: state["rng"][0].pop("numpy"), "`rng` is damaged (KeyError('numpy'))"),
        (lambda state: state["rng"][0].update(torch=torch.zeros(3)), "`rng` is damaged"),
        (lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(7)), "is (7,), the parameter ("),
        (lambda state: state["optimizer"]["state"].update({0: 5}), "`optimizer` is damaged"),
        (lambda state: state["optimizer"]["param_groups"][0].pop("param_names"), "`optimizer` is damaged"),
        (lambda state: state["progress"]["means"].update(means={"loss": "high"}), "`progress` is damaged"),
        (lambda state: state["model"]["query_embed.weight"].fill_(torch.nan), "not finite numbers: query_embed.weight"),
        (
            lambda state: state["model"].update({"query_embed.weight": torch.zeros(2, 2)}),
            "query_embed.weight is (2, 2)",
        ),
        (lambda state: state.pop("sampler"), "has no sampler"),
        (lambda state: state["sampler"].update(batches_done=1, order=[1]), "`sampler` is damaged"),
    ],
)
def test_damaged_contents_are_refused_before_anything_changes(
    damage: Callable[[dict[str, Any]], Any], words: str, tiny_options: list[str], whole: Config, tmp_path: Path
) -> None:
    path, state = tmp_path / "damaged.pth", _checkpoint(whole)
    damage(state)
    save_checkpoint(path, state)
    with pytest.raises(CheckpointError) as raised:
        _fit(_config(tiny_options, "--train.resume", str(path)))
    message = str(raised.value)
    assert message.startswith(str(path)) and words in message and "\n" not in message, message
    assert not (tmp_path / "run").exists()


def test_finetuning_starts_from_weights_alone(tiny_options: list[str], whole: Config, tmp_path: Path) -> None:
    start = Path(whole.train.output_dir) / "checkpoint.pth"
    options = ["--train.init_checkpoint", str(start), "--model.num_classes", "65", "--optim.lr", "1e-12"]
    config = _other_folder(_config(tiny_options, *options), tmp_path / "finetuned")
    with pytest.raises(CheckpointError, match="class_heads"):
        _fit(config)
    record = _fit(_other_folder(config, tmp_path / "finetuned", drop_class_heads=True))
    assert record["epoch"] == 1
    trained = _checkpoint(config)
    for name, weight in _checkpoint(whole)["model"].items():
        if name.startswith("class_heads"):
            assert trained["model"][name].shape[0] == 65 if weight.ndim else True
        elif weight.is_floating_point() and "running" not in name and "backbone" not in name and "text" not in name:
            torch.testing.assert_close(trained["model"][name], weight, rtol=0, atol=1e-6, msg=name)


def test_a_new_run_in_an_old_folder_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        for name in ("checkpoint.pth", "checkpoint_0001.pth", "log.jsonl"):
            (tmp_path / name).write_text(f"{name} of run {number}")
        with caplog.at_level("WARNING"):
            resuming.set_aside(tmp_path)
        assert not list(tmp_path.glob("*.*"))
    for number in range(3):
        for name in ("checkpoint.pth", "checkpoint_0001.pth", "log.jsonl"):
            assert (tmp_path / f"previous_{number + 1}" / name).read_text() == f"{name} of run {number}"
    assert "train.resume" in caplog.text
    resuming.set_aside(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3, "nothing to set aside"


def test_resuming_from_elsewhere_keeps_the_run_that_was_here(tiny_options: list[str], whole: Config) -> None:
    here, there = _config(tiny_options, "--optim.epochs", "1"), Path(whole.train.output_dir)
    _fit(here)
    folder = Path(here.train.output_dir)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    _fit(_config(tiny_options, "--optim.epochs", "3", "--train.resume", str(there / "checkpoint.pth")))
    for name in ("checkpoint.pth", "log.jsonl", "config.json"):
        assert (folder / "previous_1" / name).read_bytes() == before[name]
    assert [record["epoch"] for record in read_records(folder / "log.jsonl")] == [0, 1, 2]
    assert read_records(folder / "log.jsonl")[:2] == read_records(there / "log.jsonl")
    link = folder.with_name("link")
    link.symlink_to(folder)
    _fit(_config(tiny_options, "--optim.epochs", "3", "--train.resume", str(link / "checkpoint.pth")))
    assert not (folder / "previous_2").exists(), "the folder's own run was set aside"


def test_kept_epochs(tiny_options: list[str]) -> None:
    config = _config(tiny_options, "--train.keep_epochs", "true")
    _fit(config)
    folder = Path(config.train.output_dir)
    assert [load_checkpoint(folder / f"checkpoint_000{i}.pth")["epoch"] for i in (1, 2)] == [1, 2]


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    real = engine.optimizer_step

    def poison(run: engine.TrainingRun, batches: list) -> dict[str, Tensor]:
        if run.step == 3:
            with torch.no_grad():
                run.model.network.query_embed.weight.fill_(torch.nan)
        return real(run, batches)

    monkeypatch.setattr(engine, "optimizer_step", poison)
    with pytest.raises(FloatingPointError) as raised:
        _fit(config)
    newest = str(Path(config.train.output_dir) / "checkpoint.pth")
    cures = ("train.resume auto", "lower optim.lr (it is 0.001)", "optim.clip_grad_norm lower (it is 0.1)")
    words = ("step 3", "class", "dice_0", "clips ", newest, *cures)
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert "precision" not in str(raised.value), "it is float32 already"
    state = _checkpoint(config)
    assert state["step"] == 2
    assert all(weight.isfinite().all() for weight in state["model"].values() if weight.is_floating_point())


def test_a_loss_that_is_not_finite_at_once_names_other_cures(
    tiny_options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tiny_options, "--optim.clip_grad_norm", "0", "--optim.precision", "bfloat16")
    monkeypatch.setattr(engine, "optimizer_step", _raise(FloatingPointError("the loss is not finite")))
    with pytest.raises(FloatingPointError) as raised:
        _fit(config)
    words = ("not finite. No checkpoint was saved yet", "clip_grad_norm above 0", "optim.precision float32")
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_a_full_disk_keeps_the_last_checkpoint(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.save

    def save(state: dict[str, Any], file: Any) -> None:
        if state["step"] > 2:
            file.write(b"the beginning")
            raise OSError(28, "No space left on device")
        real(state, file)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match=r"No space left on device.*previous checkpoint is untouched"):
        _fit(config)
    assert _checkpoint(config)["step"] == 2
    assert not list(Path(config.train.output_dir).glob(".*partial"))


@pytest.mark.parametrize("file", ["log.jsonl", "config.json"])
def test_a_full_disk_at_the_start(file: str, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.write_bytes

    def write(self: Path, data: bytes) -> int:
        if file in self.name:
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OSError, match=rf"cannot write .*{file}: No space left on device \(\d+ MB free\); free"):
        _fit(config)
    assert not (Path(config.train.output_dir) / file).exists()


def test_evaluation_needs_annotations_before_training_starts(
    tiny_options: list[str], shapes_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    for folder in ("train", "meta_expressions", "valid/JPEGImages"):
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        (root / folder).symlink_to(shapes_root / folder)
    with pytest.raises(ValueError, match="no annotations"):
        _fit(_config(tiny_options, "--data.root", str(root), "--train.eval_every_epochs", "5"))
    assert not (tmp_path / "run" / "checkpoint.pth").exists()


def _raise(error: Exception) -> Callable[..., Any]:
    def function(*_: Any, **__: Any) -> Any:
        raise error

    return function
