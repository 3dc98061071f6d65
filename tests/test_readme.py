"""What the README says: its files exist, its settings are known, its Python example runs."""

import re
import shlex
from pathlib import Path

import pytest

from datasets.shapes import main as write_shapes
from util.cli import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """Every command of the README's shell blocks, continued lines joined, comments left out."""
    text = "\n".join(block for language, block in BLOCKS if language == "bash").replace("\\\n", " ")
    return [
        " ".join(shlex.split(line, comments=True)) for line in text.splitlines() if shlex.split(line, comments=True)
    ]


def test_named_files_exist():
    named = re.findall(
        r"(?:^|[\s`(])((?:\./)?(?:configs|scripts|models|datasets|util|ops|tests|docs)/[\w/.]+\.\w+)", README
    )
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("command", [c for c in commands() if " main.py " in c and "--help" not in c])
def test_training_commands_parse(command: str):
    arguments = shlex.split(command.partition(" main.py ")[2])
    arguments = [str(ROOT / a) if a.startswith("configs/") else a for a in arguments if a != "--print_config"]
    if "my_changes.yaml" in arguments:
        at = arguments.index("my_changes.yaml")
        del arguments[at - 1 : at + 1]
    parse(arguments)


def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    data = tmp_path / "runs/quickstart/data"
    write_shapes(["ytvos", str(data), "--num_videos", "1", "--num_valid_videos", "2", "--num_workers", "1"])
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile("\n".join(block for language, block in BLOCKS if language == "python"), "README.md", "exec"), {})
    assert capsys.readouterr().out.count("torch.Size([12, 160, 240])") == 2
