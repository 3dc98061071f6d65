"""The program itself, in processes of its own where it is about processes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from main import main
from tests.small_model import write_small_checkpoint
from util.checkpoint_io import load_checkpoint
from util.logs import read_records

ROOT = Path(__file__).parent.parent
QUICK = ["--optim.epochs", "1", "--optim.batch_size", "4", "--train.eval_every_epochs", "0"]


@pytest.fixture(autouse=True)
def _restored_state():
    """The program sets up logging and threads for its process, which here is that of all tests."""
    import logging

    root = logging.getLogger()
    level, handlers, threads = root.level, list(root.handlers), torch.get_num_threads()
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    torch.set_num_threads(threads)


def _start(arguments: list[str], processes: int = 0, **options: Any) -> subprocess.Popen[str]:
    launcher = [sys.executable]
    if processes:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.Popen(
        [*launcher, "main.py", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,
    )


def _finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-5000:]
    return output


def _flat(scores: dict[str, Any]) -> dict[str, float]:
    """Scores without nesting, as approximate comparison wants them."""
    kinds = scores.get("per_kind", {})
    flat = {f"{kind} {name}": value for kind, part in kinds.items() for name, value in part.items()}
    return flat | {name: value for name, value in scores.items() if name != "per_kind"}


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoint.pth")["model"]


def test_trains_then_evaluates_from_the_checkpoint_alone(
    tiny_options: list[str],
    shapes_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = main([*tiny_options, *QUICK, "--train.eval_every_epochs", "1"])
    folder = tmp_path / "run"
    assert {"checkpoint.pth", "config.json", "log.jsonl", "tensorboard", "train.log"} == set(os.listdir(folder))
    assert record == read_records(folder / "log.jsonl")[-1]
    assert 0 < record["eval"]["J&F"] < 1 and record["train"]["loss"] > 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    options = ["--data.root", str(shapes_root), "--train.device", "cpu"]
    scores = main(["--train.evaluate_only", str(folder / "checkpoint.pth"), *options])
    assert _flat(scores) == pytest.approx(_flat(record["eval"]))
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == json.loads(json.dumps(scores))
    assert not (tmp_path / "runs").exists(), "an evaluation leaves nothing"


def test_given_test_settings_replace_the_checkpoints(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr("main.evaluate_network", lambda config, *_: used.append(config.test) or {})
    path = write_small_checkpoint(tmp_path / "ours.pth")
    stored = load_checkpoint(path)["config"]["test"]
    options = ["--data.root", tiny_options[tiny_options.index("--data.root") + 1], "--train.device", "cpu"]
    options += ["--train.evaluate_only", str(path)]
    (tmp_path / "given.yaml").write_text("test: {window: 5}")
    main(options)
    main([*options, "--config", str(tmp_path / "given.yaml"), "--test.threshold", "0.5"])
    assert dataclasses.asdict(used[0]) == stored
    assert dataclasses.asdict(used[1]) == stored | {"window": 5, "threshold": 0.5}


def test_training_on_one_video_lowers_the_loss(tiny_options: list[str]) -> None:
    options = ["--optim.epochs", "4", "--optim.lr_drops", "[]", "--model.dropout", "0", "--data.augment", "false"]
    main([*tiny_options, *QUICK, *options])
    records = read_records(Path(tiny_options[-1]) / "log.jsonl")
    assert records[-1]["train"]["loss"] < 0.95 * records[0]["train"]["loss"]


def test_mistakes_are_one_line(tiny_options: list[str], tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    for arguments, words in (
        (["--train.resume", str(tmp_path / "page.pth")], "page.pth is a web page"),
        (["--train.init_checkpoint", str(tmp_path / "absent.pth")], "absent.pth: no such checkpoint"),
        (["--data.root", str(tmp_path / "nowhere")], "nowhere: no such folder"),
    ):
        process = _start([*tiny_options, *QUICK, *arguments])
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 1
        assert words in output and "Traceback" not in output, output
        assert "Traceback" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data.root", "nowhere"], "nowhere: no such folder"),
        (["--optim.lr", "-1"], "error: optim.lr is -1.0"),
    ],
)
def test_mistakes_are_told_once_by_two_processes(arguments: list[str], words: str, tiny_options: list[str]) -> None:
    process = _start([*tiny_options, *QUICK, *arguments], processes=2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert output.count(words) == 1 and output.count("Traceback") <= 1, f"but for the launcher's own: {output}"


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed(tiny_options: list[str], tmp_path: Path) -> None:
    options = [*tiny_options, "--optim.batch_size", "1", "--optim.accumulate_steps", "2"]
    options += ["--train.save_every_steps", "1", "--train.eval_every_epochs", "0"]
    whole = tmp_path / "whole"
    _finish(_start([*options, "--train.output_dir", str(whole)]))
    killed, checkpoint = _start(options), tmp_path / "run" / "checkpoint.pth"
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    stopped = load_checkpoint(checkpoint, resumable=True)
    assert 0 < stopped["step"] < load_checkpoint(whole / "checkpoint.pth")["step"]
    output = _finish(_start([*options, "--train.resume", "auto"]))
    assert f"step {stopped['step']}" in output
    for name, weight in _weights(whole).items():
        assert torch.equal(_weights(tmp_path / "run")[name], weight), name
    assert [record["epoch"] for record in read_records(tmp_path / "run" / "log.jsonl")] == [0, 1]


@pytest.fixture
def plain_options(tiny_options: list[str]) -> list[str]:
    """Nothing that depends on how clips are divided among processes: no dropout, no norm over the batch."""
    backbone = ["--model.backbone", "timm/convnext_atto"]
    backbone += ["--model.backbone_options", "{depths: [1, 1, 1, 1], dims: [8, 16, 16, 32]}"]
    return [*tiny_options, *backbone, "--model.dropout", "0", "--model.freeze_text_encoder", "true"]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate_steps", ["1", "2"])
def test_two_processes_equal_one_with_twice_the_batch(
    accumulate_steps: str, plain_options: list[str], tmp_path: Path
) -> None:
    options = [
        *plain_options,
        "--optim.epochs",
        "1",
        "--test.threshold",
        "0.05",
        "--optim.accumulate_steps",
        accumulate_steps,
    ]
    alone = [*options, "--train.output_dir", str(tmp_path / "alone"), "--optim.batch_size", "4"]
    both = [*options, "--train.output_dir", str(tmp_path / "both"), "--optim.batch_size", "2"]
    _finish(_start(alone))
    output = _finish(_start(both, processes=2))
    assert output.count("training from the start") == 1, "only the main process talks"
    expected, found = (load_checkpoint(tmp_path / name / "checkpoint.pth") for name in ("alone", "both"))
    assert expected["step"] == found["step"] > 1
    assert len(found["rng"]) == 2 and not torch.equal(found["rng"][0]["torch"], found["rng"][1]["torch"])
    for name, weight in expected["model"].items():
        # Adam moves a weight whose gradient is rounding noise as far as any other, so a few may differ.
        apart = ~torch.isclose(found["model"][name], weight, rtol=1e-3, atol=2e-4)
        assert apart.double().mean() < 0.005, f"{name}: {int(apart.sum())} of {apart.numel()} differ"
    records = [read_records(tmp_path / name / "log.jsonl")[0] for name in ("alone", "both")]
    assert records[1]["train"]["loss"] == pytest.approx(records[0]["train"]["loss"], rel=1e-3)
    assert _flat(records[1]["eval"]) == pytest.approx(_flat(records[0]["eval"]), abs=0.02)
    assert records[0]["eval"]["J"] > 0


@pytest.mark.slow
def test_two_processes_resume_to_the_same_weights(tiny_options: list[str], tmp_path: Path) -> None:
    options = [*tiny_options, "--train.eval_every_epochs", "0", "--optim.accumulate_steps", "2"]
    _finish(_start([*options, "--train.output_dir", str(tmp_path / "whole")], processes=2))
    _finish(_start([*options, "--optim.epochs", "1"], processes=2))
    _finish(_start([*options, "--train.resume", "auto"], processes=2))
    resumed = _weights(tmp_path / "run")
    for name, weight in _weights(tmp_path / "whole").items():
        assert torch.equal(resumed[name], weight), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_trains_on_a_gpu(precision: str, tiny_options: list[str]) -> None:
    record = main([*tiny_options, *QUICK, "--train.device", "cuda", "--optim.precision", precision])
    assert record["train"]["loss"] > 0 and record["memory_mb"] > 1
