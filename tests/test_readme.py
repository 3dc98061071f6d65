"""What the README says: its files exist, its settings are known, its Python example runs."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

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


def programs() -> list[list[str]]:
    """Commands that run a Python program, from its name or `-m MODULE` on, without launcher and its options."""
    matches = [re.search(r"(?:^|\s)((?:-m )?[\w./]+\.py\b|-m [\w.]+)(.*)", command) for command in commands()]
    return [[*match[1].split(), *shlex.split(match[2])] for match in matches if match]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", [c for c in programs() if c[0] != "ops/setup.py"], ids=" ".join)
def test_programs_have_the_options_that_are_used(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    command = command[: command.index("--")] if "--" in command else command  # what follows goes to another program
    at = next((i for i, argument in enumerate(command) if argument.startswith("--")), len(command))
    used = {a for a in command if a.startswith("--")} - {"--help"}
    module, program = command[0] == "-m", command[command[0] == "-m"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.setattr(sys, "argv", [program, *command[1 + module : at], "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module(program, run_name="__main__") if module else runpy.run_path(program, run_name="__main__")
    assert left.value.code in (None, 0)
    assert used - set(re.findall(r"--[\w.]+", capsys.readouterr().out)) == set()


def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(block for language, block in BLOCKS if language == "python"), "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert out.count("(36, 160, 240)") == 2
    assert 'found: "the red square at the bottom"' in out
    assert 'not there: "the green ring"' in out
    written = tmp_path / "runs/demo/from_python"
    assert {path.name for path in written.iterdir()} == {"overlay.mp4", "masks", "results.json", "sheet.jpg"}
