"""The launchers, each on generated data with a tiny model and two CPU processes, in the order of a real project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import eval_a2d
from datasets.shapes import main as write_shapes
from scripts import prepare_a2d, prepare_davis, prepare_jhmdb
from tests.small_coco import write_coco
from tests.small_ytvos import write_tree
from util.checkpoint_io import load_checkpoint
from util.logs import read_records

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"
TINY = [
    "--config",
    "configs/smoke.yaml",
    "--train.device",
    "cpu",
    "--train.num_threads",
    "1",
    "--data.num_workers",
    "0",
]
TINY += ["--data.short_sides", "[64]", "--data.max_long_side", "96", "--test.short_side", "96", "--optim.epochs", "1"]
TINY += ["--data.short_sides_after_crop", "[]", "--optim.lr_drops", "[]", "--train.save_every_steps", "0"]
TINY += ["--test.threshold", "0.3"]


def launch(script: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= {"VENV": sys.prefix, "GPUS": "2", "OMP_NUM_THREADS": "1"} | variables
    command = [str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def train(script: str, folder: Path, *arguments: object) -> Path:
    """Runs a launcher; the checkpoint it left."""
    result = launch(script, *TINY, "--train.output_dir", folder, *arguments)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-5000:]
    assert len(load_checkpoint(folder / "checkpoint.pth")["rng"]) == 2, "two processes"
    return folder / "checkpoint.pth"


def settings(checkpoint: Path) -> dict:
    return json.loads((checkpoint.parent / "config.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("launchers")


@pytest.fixture(scope="module")
def coco(folder: Path) -> Path:
    return write_coco(folder / "coco", num_images=4, num_valid_images=1)


@pytest.fixture(scope="module")
def ytvos(folder: Path) -> Path:
    return write_tree(folder / "ytvos", num_videos=3, size=(96, 128))


def generated(layout: str, folder: Path, *options: str) -> Path:
    sizes = ["--num_frames", "6", "--height", "96", "--width", "128", "--num_workers", "1"]
    write_shapes([layout, str(folder / layout), "--num_videos", "2", *options, *sizes])
    return folder / layout


@pytest.fixture(scope="module")
def a2d(folder: Path) -> Path:
    root = generated("a2d", folder, "--num_valid_videos", "1")
    prepare_a2d.main(["--root", str(root)])
    return root


@pytest.fixture(scope="module")
def pretrained(folder: Path, coco: Path) -> Path:
    options = ["--data.root", coco, "--model.backbone_weights", "null", "--data.num_frames", "1"]
    return train("train_pretrain_refcoco.sh", folder / "pretrain", *options)


@pytest.mark.slow
def test_pretrain_then_test_refcoco(pretrained: Path, coco: Path) -> None:
    config = settings(pretrained)
    assert (config["optim"]["batch_size"], config["optim"]["accumulate_steps"]) == (2, 4), "16 images a step"
    result = launch("test_refcoco.sh", pretrained, coco, "--device", "cpu", "--sets", "refcoco", "--splits", "val")
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads(result.stdout.splitlines()[-1])["refcoco val"]["num_samples"] > 0


@pytest.mark.slow
def test_finetune_ytvos_then_test_davis(pretrained: Path, ytvos: Path, folder: Path) -> None:
    options = ["--train.init_checkpoint", pretrained, "--data.root", ytvos]
    checkpoint = train("train_finetune_ytvos.sh", folder / "finetune", *options)
    config = settings(checkpoint)
    assert config["train"]["drop_class_heads"] and config["model"]["freeze_text_encoder"] is False
    assert (config["optim"]["batch_size"], config["optim"]["accumulate_steps"]) == (2, 2), "8 clips a step"
    davis = generated("davis", folder, "--num_valid_videos", "1")
    prepare_davis.main(["--root", str(davis)])
    output = folder / "davis_results"
    result = launch("test_davis.sh", checkpoint, davis, output, "--device", "cpu")
    assert result.returncode == 0, result.stderr[-3000:]
    scores = json.loads(result.stdout.splitlines()[-1])
    assert 0 <= scores["mean"]["J&F"] <= 1 and {f"anno_{k}" for k in range(4)} < scores.keys()
    assert list(output.glob("*.csv"))


@pytest.mark.slow
def test_scratch_ytvos(ytvos: Path, folder: Path) -> None:
    options = ["--data.root", ytvos, "--model.backbone_weights", "null", "--optim.batch_size=1"]
    checkpoint = train("train_scratch_ytvos.sh", folder / "scratch", *options)
    assert settings(checkpoint)["optim"]["accumulate_steps"] == 4


@pytest.mark.slow
def test_scratch_ytvos_without_queries(shapes_root: Path, folder: Path) -> None:
    options = ["--data.root", shapes_root, "--model.backbone_weights", "null", "--train.eval_every_epochs", "1"]
    options += ["--config", "configs/ablations/no_queries.yaml", "--model.activation_checkpointing", "true"]
    checkpoint = train("train_scratch_ytvos.sh", folder / "no_queries", *options)
    record = read_records(checkpoint.parent / "log.jsonl")[-1]
    assert settings(checkpoint)["model"]["architecture"] == "baseline"
    assert record["train"]["class"] == record["train"]["giou"] == 0 < record["train"]["dice"]
    assert 0 <= record["eval"]["J&F"] <= 1


@pytest.mark.slow
def test_joint_ytvos(ytvos: Path, coco: Path, folder: Path) -> None:
    options = ["--data.root", ytvos, "--data.refcoco_root", coco, "--model.backbone_weights", "null"]
    checkpoint = train("train_joint_ytvos.sh", folder / "joint", *options, "--optim.batch_size", 2)
    config = settings(checkpoint)
    assert config["data"]["dataset"] == "joint" and config["optim"]["accumulate_steps"] == 16


@pytest.mark.slow
def test_finetune_a2d_then_test_jhmdb(pretrained: Path, a2d: Path, folder: Path) -> None:
    options = ["--train.init_checkpoint", pretrained, "--data.root", a2d]
    checkpoint = train("train_finetune_a2d.sh", folder / "a2d_finetune", *options)
    assert settings(checkpoint)["optim"]["accumulate_steps"] == 4
    arguments = ["--checkpoint", str(checkpoint), "--data_root", str(a2d), "--device", "cpu", "--num_workers", "0"]
    scores = eval_a2d.main(arguments)
    trained = read_records(checkpoint.parent / "log.jsonl")[-1]["eval"]
    assert scores["mAP"] == pytest.approx(trained["mAP"]) and scores["num_samples"] > 0
    jhmdb = generated("jhmdb", folder)
    prepare_jhmdb.main(["--root", str(jhmdb)])
    result = launch("test_jhmdb.sh", checkpoint, jhmdb, "--device", "cpu")
    assert result.returncode == 0, result.stderr[-3000:]
    assert 0 <= json.loads(result.stdout.splitlines()[-1])["mAP"] <= 1


@pytest.mark.slow
def test_scratch_a2d(a2d: Path, folder: Path) -> None:
    options = ["--data.root", a2d, "--model.backbone_weights", "null"]
    checkpoint = train("train_scratch_a2d.sh", folder / "a2d_scratch", *options)
    assert settings(checkpoint)["optim"]["accumulate_steps"] == 4


@pytest.fixture
def dry(tmp_path: Path) -> dict[str, str]:
    """A `python` that says what it was called with, rather than train."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho "$@"\n')
    python.chmod(0o755)
    return {"VENV": str(tmp_path / "venv")}


LAUNCHERS = {
    "train_pretrain_refcoco": 16,
    "train_finetune_ytvos": 8,
    "train_scratch_ytvos": 8,
    "train_joint_ytvos": 64,
    "train_finetune_a2d": 16,
    "train_scratch_a2d": 16,
    "train_finetune_mevis": 8,
}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_published_batch_on_any_number_of_gpus(name: str, dry: dict[str, str]) -> None:
    from util.cli import parse

    for gpus in (1, 2, 4, 8):
        result = launch(f"{name}.sh", "--train.seed", "7", GPUS=str(gpus), **dry)
        assert result.returncode == 0, result.stderr
        launched, _, arguments = result.stdout.partition(" main.py ")
        assert launched == f"-m torch.distributed.run --standalone --nproc_per_node {gpus}"
        config = parse([str(ROOT / a) if a.startswith("configs/") else a for a in arguments.split()])
        assert gpus * config.optim.batch_size * config.optim.accumulate_steps == LAUNCHERS[name]
        assert config.train.seed == 7


def test_several_machines(dry: dict[str, str]) -> None:
    variables = {"GPUS": "8", "NODES": "4", "MASTER_ADDR": "first", "MASTER_PORT": "1234"}
    result = launch("train_joint_ytvos.sh", **variables, **dry)
    assert "--nnodes 4 --rdzv_backend c10d --rdzv_endpoint first:1234" in result.stdout
    assert "--nproc_per_node 8 main.py" in result.stdout and "--optim.accumulate_steps 1" in result.stdout
    result = launch("train_joint_ytvos.sh", GPUS="8", NODES="4", **dry)
    assert result.returncode == 1 and "name the first machine in MASTER_ADDR" in result.stderr


def test_own_steps_and_impossible_batches(dry: dict[str, str]) -> None:
    result = launch("train_finetune_ytvos.sh", "--optim.accumulate_steps=3", GPUS="3", **dry)
    assert result.returncode == 0 and result.stdout.count("accumulate_steps") == 1
    result = launch("train_finetune_ytvos.sh", "--config", "configs/smoke.yaml", GPUS="2", **dry)
    assert "--optim.accumulate_steps 2 --config configs/smoke.yaml" in result.stdout, "batches of 2, by a file"
    result = launch("train_finetune_ytvos.sh", "--optim.nonsense", "1", **dry)
    assert result.returncode == 2 and "nonsense" in result.stderr and not result.stdout
    result = launch("train_finetune_ytvos.sh", GPUS="3", **dry)
    assert result.returncode == 1 and "3 clips at once" in result.stderr and "no multiple" in result.stderr
    result = launch("train_finetune_ytvos.sh", GPUS="none", **dry)
    assert result.returncode == 1 and "GPUS is 'none'" in result.stderr
    assert launch("test_refcoco.sh", **dry).returncode == 1


def test_slurm_starts_the_launcher_on_every_machine(dry: dict[str, str], tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "scontrol").write_text("#!/bin/sh\nprintf 'node7\\nnode8\\n'\n")
    (commands / "srun").write_text('#!/bin/sh\necho "srun $1 $2"\nshift 2\nexec "$@"\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    variables = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "77"}
    variables |= {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_GPUS_ON_NODE": "4", "GPUS": ""}
    result = launch("slurm.sh", "scripts/train_joint_ytvos.sh", "--train.seed", "7", **variables, **dry)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("srun --ntasks=2 --ntasks-per-node=1")
    assert "--nnodes 2 --rdzv_backend c10d --rdzv_endpoint node7:10077 --rdzv_id 77 --nproc_per_node 4" in result.stdout
    assert "--optim.accumulate_steps 4 --train.resume auto --train.seed 7" in result.stdout
    assert launch("slurm.sh", "scripts/nothing.sh", **variables, **dry).returncode == 1
