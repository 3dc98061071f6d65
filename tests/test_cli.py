from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from util.cli import parse
from util.config import Config


def _file(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def _error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        parse(argv)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    return lines[-1]


def test_no_arguments_give_the_defaults() -> None:
    assert parse([]) == Config()


def test_options_and_files_override_from_left_to_right(tmp_path: Path) -> None:
    first = _file(tmp_path, "first.yaml", "optim: {lr: 1e-3, lr_drops: [1, 2, 4]}\nmodel: {num_queries: 7}\n")
    second = _file(tmp_path, "second.yaml", "model:\n  num_queries: 9\n  backbone_options: {channels: [8, 8, 8, 8]}\n")
    config = parse(["--config", first, f"--config={second}", "--optim.lr_drops", "[2]", "--test.max_long_side", "640"])
    assert config.optim.lr == 1e-3  # a file's difference survives the next file
    assert config.optim.lr_drops == (2,)
    assert config.model.num_queries == 9
    assert config.model.backbone_options == {"channels": [8, 8, 8, 8]}
    assert config.test.max_long_side == 640
    assert parse(["--config", second, "--config", first]).model.num_queries == 7
    assert parse(["--model.num_queries", "3", "--config", first]).model.num_queries == 7


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--model.num_querie", "8"], ["num_querie"]),
        (["--model.num_queries", "eight"], ["model.num_queries", "eight"]),
        (["--model.num_queries", "0"], ["model.num_queries", "positive"]),
        (["--model.num_heads", "3.5"], ["model.num_heads", "3.5"]),
        (["--optim.precision", "fp16"], ["optim.precision", "bfloat16", "fp16"]),
        (["--optim.lr", "nan"], ["optim.lr"]),
        (["--optim.lr_drops", "[5, 3]"], ["optim.lr_drops", "rise"]),
        (["--config"], ["--config"]),
        (["stray"], ["stray"]),
    ],
)
def test_wrong_options_are_named(argv: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    message = _error(argv, capsys)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: {num_querie: 8}", ["num_querie", "bad.yaml"]),
        ("modle: {num_queries: 8}", ["modle", "bad.yaml"]),
        ("model: {num_queries: eight}", ["model.num_queries", "eight", "bad.yaml"]),
        ("optim: {lr: true}", ["optim.lr", "bad.yaml"]),
        ("model: [", ["bad.yaml"]),
        ("", ["bad.yaml"]),
        ("train: {num_threads: -1}", ["train.num_threads"]),
    ],
)
def test_wrong_files_are_named(text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = _file(tmp_path, "good.yaml", "model: {num_queries: 2}")
    message = _error(["--config", good, "--config", _file(tmp_path, "bad.yaml", text)], capsys)
    assert all(word in message for word in words), message
    assert "good.yaml" not in message


def test_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "absent.yaml" in _error(["--config", str(tmp_path / "absent.yaml")], capsys)


def test_help_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"], description="What the program does.")
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "What the program does." in text
    assert "keep the text encoder's weights" in text
    for section, fields in Config().to_dict().items():
        for name in fields:
            assert f"--{section}.{name}" in text


def test_printed_configuration_parses_to_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--optim.lr_drops", "[1]", "--model.box_refine", "false", "--data.crop_sizes", "[10, 20]"]
    with pytest.raises(SystemExit):
        parse([*argv, "--print_config"])
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["optim"]["lr_drops"] == [1]
    assert parse(["--config", _file(tmp_path, "all.yaml", printed)]) == parse(argv)
