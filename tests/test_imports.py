"""Imports go one way, read from the source: util <- ops <- models, util <- datasets; programs at the top see all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "util": {"util"},
    "ops": {"util", "ops"},
    "models": {"util", "ops", "models"},
    "datasets": {"util", "datasets"},
}
FOLDERS = {*MAY_IMPORT, "scripts", "tests"}
PROGRAMS = {path.stem for path in ROOT.glob("*.py")}
HOUSE = FOLDERS | PROGRAMS


def imported_roots(source: str) -> set[str]:
    """First part of every module that a source file imports, wherever the import stands."""
    roots = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that this test can follow them"
            roots.add((node.module or "").split(".")[0])
    return roots


def _files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_sees_only_what_is_below_it(folder: str) -> None:
    files = _files(folder)
    assert files
    for path in files:
        if path == ROOT / "ops" / "setup.py":
            continue  # the build script runs by itself
        forbidden = imported_roots(path.read_text()) & HOUSE - MAY_IMPORT[folder]
        assert not forbidden, f"{path.relative_to(ROOT)} imports {sorted(forbidden)}"


def test_nothing_imports_tests_or_scripts() -> None:
    for path in [*ROOT.glob("*.py"), *(p for folder in MAY_IMPORT for p in _files(folder)), *_files("scripts")]:
        forbidden = imported_roots(path.read_text()) & {"tests"}
        assert not forbidden, f"{path.relative_to(ROOT)} imports {sorted(forbidden)}"
    for path in ROOT.glob("*.py"):
        assert "scripts" not in imported_roots(path.read_text()), path.name


def test_only_build_files_see_a_configuration() -> None:
    """Constructors take plain values; a configuration ends in `build.py` (or in the predictor)."""
    for path in [*_files("models"), *_files("datasets"), *_files("ops")]:
        if path.name in ("build.py", "predictor.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("util.config", "util.model_config"), (
                    f"{path.relative_to(ROOT)} sees the configuration"
                )


def test_the_reading_finds_nested_and_dotted_imports() -> None:
    source = "import os.path, models.build as b\ndef f():\n    from datasets.clips import x\n"
    assert imported_roots(source) == {"os", "models", "datasets"}
