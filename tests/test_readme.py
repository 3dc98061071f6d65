"""What the README and its pages say: files exist, settings are known, links lead somewhere, examples run."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from util.cli import parse

ROOT = Path(__file__).parents[1]
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
BLOCKS = [
    block for text in PAGES.values() for block in re.findall(r"```(bash|python)\n(.*?)```", text, flags=re.DOTALL)
]


def commands() -> list[str]:
    """Every command of the shell blocks, continued lines joined, comments left out."""
    text = "\n".join(block for language, block in BLOCKS if language == "bash").replace("\\\n", " ")
    return [
        " ".join(shlex.split(line, comments=True)) for line in text.splitlines() if shlex.split(line, comments=True)
    ]


def test_named_files_exist():
    named = re.findall(
        r"(?:^|[\s`(])((?:\./)?(?:configs|scripts|models|datasets|util|ops|tests|docs)/[\w/.]+\.\w+)",
        "\n".join(PAGES.values()),
    )
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_links_lead_to_pages_and_headings():
    linked = set()
    for path, text in PAGES.items():
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
            page = (path.parent / target).resolve() if target else path
            assert page.exists(), f"{path.name}: {target}"
            linked.add(page)
            headings = re.findall(r"^#+ (.*)", PAGES.get(page, ""), flags=re.MULTILINE)
            assert not anchor or anchor in [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
    assert set(PAGES) - linked == {ROOT / "README.md"}  # every page can be found


@pytest.mark.slow
def test_every_benchmark_can_be_tried(tmp_path: Path):
    """The page's commands as they stand, in a copy of the checkout made of links."""
    for entry in ROOT.iterdir():
        if entry.name not in ("data", "runs", "results"):
            (tmp_path / entry.name).symlink_to(entry)
    page = PAGES[ROOT / "docs" / "try_it.md"]
    script = "set -e\n" + "\n".join(re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    scores = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    davis, a2d, jhmdb, refcoco, mevis = scores[:5]
    assert set(davis) >= {"anno_0", "anno_1", "anno_2", "anno_3", "mean"}
    assert 0.4 < davis["mean"]["J&F"] <= 1  # the weights know shapes
    assert min(a2d["mAP"], jhmdb["mean_IoU"], mevis["J&F"]) > 0.2
    assert set(refcoco) == {"refcoco testA", "refcoco testB"}
    assert (tmp_path / "runs" / "try_a2d" / "checkpoint.pth").is_file()


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
