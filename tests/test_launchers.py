"""The launchers, each on generated data with a tiny model and two CPU processes, in the order of a real project."""

from __future__ import annotations

import json
import os
import socket
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


def start(script: str, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    launched_here = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "SLURM_NODEID", "NODES", "MASTER_ADDR")
    environment = {k: v for k, v in os.environ.items() if k not in launched_here}
    environment |= {"VENV": sys.prefix, "GPUS": "2", "OMP_NUM_THREADS": "1"} | variables
    command, pipe = [str(SCRIPTS / script), *map(str, arguments)], subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    try:
        output, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def launch(script: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return finish(start(script, *arguments, **variables))


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
@pytest.mark.parametrize("numbered", [True, False], ids=["numbered machines", "found by address"])
def test_two_machines_train_together(numbered: bool, ytvos: Path, tmp_path: Path) -> None:
    """The same command on each, as in the README; both are this one."""
    options = [*TINY, "--data.root", ytvos, "--model.backbone_weights", "null", "--train.output_dir", tmp_path / "run"]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    meeting = {"GPUS": "1", "NODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    numbers: list[dict[str, str]] = [{"NODE_RANK": "0"}, {"NODE_RANK": "1"}] if numbered else [{}, {}]
    processes = [start("train_scratch_ytvos.sh", *options, **meeting, **number) for number in numbers]
    results = [finish(process) for process in processes]
    assert [result.returncode for result in results] == [0, 0], results[0].stderr[-3000:] + results[1].stderr[-3000:]
    assert sorted("training from the start" in result.stdout + result.stderr for result in results) == [False, True]
    checkpoint = tmp_path / "run" / "checkpoint.pth"
    assert len(load_checkpoint(checkpoint)["rng"]) == 2, "two processes, one on each"
    config = settings(checkpoint)["optim"]
    assert 2 * config["batch_size"] * config["accumulate_steps"] == 8


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
        launched, _, arguments = result.stdout.partition("main.py ")
        assert launched == (f"-m torch.distributed.run --standalone --nproc_per_node {gpus} " if gpus > 1 else "")
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


def test_how_machines_meet(dry: dict[str, str]) -> None:
    """torchrun compares an address with nothing and tells the others this machine's name; the launcher does better."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))  # an address of no machine; nothing is sent
            own = probe.getsockname()[0]
        except OSError:
            own = None
    variables = {"GPUS": "1", "NODES": "2"} | dry
    expected = {("127.0.0.1", ""): "", ("127.0.0.1", "0"): "--rdzv_conf is_host=1"}
    expected |= {("127.0.0.1", "1"): "--rdzv_conf is_host=0", ("no.such.name.invalid", ""): ""}
    if own is not None and not own.startswith("127."):
        expected[own, ""] = f"--local_addr {own} --rdzv_conf is_host=1"
        expected[own, "3"] = f"--local_addr {own} --rdzv_conf is_host=0"
        expected["203.0.113.1", ""] = f"--local_addr {own} --rdzv_conf is_host=0"
    for (address, number), options in expected.items():
        result = launch("train_scratch_ytvos.sh", MASTER_ADDR=address, NODE_RANK=number, **variables)
        found = result.stdout.partition("--rdzv_id referformer")[2].partition("--nproc_per_node")[0]
        assert found.strip() == options, (address, number, result.stderr)
    result = launch("train_scratch_ytvos.sh", MASTER_ADDR="127.0.0.1", NODE_RANK="first", **variables)
    assert result.returncode == 1 and "NODE_RANK is 'first'" in result.stderr


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
    # as srun does: the options are its own, and each machine gets its number
    (commands / "srun").write_text('#!/bin/sh\necho "srun $1 $2 $3 $4"\nshift 4\nSLURM_NODEID=1 exec "$@"\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    variables = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "77"}
    variables |= {"SLURM_CPUS_PER_TASK": "40", "SLURM_GPUS_ON_NODE": "4", "GPUS": ""}
    variables |= {"PATH": f"{commands}:{os.environ['PATH']}"} | dry
    result = launch("slurm.sh", "scripts/train_joint_ytvos.sh", "--train.seed", "7", **variables)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("srun --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task=40\n")
    assert "--nnodes 2 --rdzv_backend c10d --rdzv_endpoint node7:10077 --rdzv_id 77" in result.stdout
    assert "--rdzv_conf is_host=0 --nproc_per_node 4" in result.stdout
    assert "--optim.accumulate_steps 4 --train.resume auto --train.seed 7" in result.stdout
    assert launch("slurm.sh", "scripts/nothing.sh", **variables).returncode == 1
