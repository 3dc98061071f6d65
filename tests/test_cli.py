from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from inference_options import build_parser, parse_arguments
from util.cli import parse
from util.config import Config


def _file(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, errors="surrogateescape")
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
        (["--model", "3"], ["model"]),
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
        ("- 1", ["bad.yaml"]),
        ("config: good.yaml", ["bad.yaml: a file does not name another", "--config"]),
        ("model: 3", ["bad.yaml", "model is 3", "fields and values"]),
        ("model: {a: \udcff}", ["bad.yaml", "utf-8"]),
        ("train: {num_threads: -1}", ["bad.yaml", "train.num_threads is -1"]),
        ("optim: {lr: .nan}", ["bad.yaml", "optim.lr is nan"]),
        ("test: {max_long_side: 100}", ["bad.yaml", "test.max_long_side is 100"]),
        ("optim:\n  lr: 1.0\n  epochs: 2\n  lr: 2.0\n", ["bad.yaml: line 4: the key 'lr' was given in line 2 already"]),
        ("optim: {lr: 1.0, lr: 1.0}", ["bad.yaml: line 1: the key 'lr' was given in line 1"]),
        ("optim: {lr: 1.0}\ndata: {}\noptim: {epochs: 3}", ["bad.yaml: line 3: the key 'optim' was given in line 1"]),
    ],
)
def test_wrong_files_are_named(text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = _file(tmp_path, "good.yaml", "model: {num_queries: 2}")
    message = _error(["--config", good, "--config", _file(tmp_path, "bad.yaml", text)], capsys)
    assert all(word in message for word in words), message
    assert "good.yaml" not in message, "that file is fine"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--optim.lrr", "1"], "unrecognized arguments: --optim.lrr 1; did you mean --optim.lr?"),
        (["--optim.lrr=1"], "unrecognized arguments: --optim.lrr=1; did you mean --optim.lr?"),
        (["--lr_drops", "[1]"], "unrecognized arguments: --lr_drops [1]; did you mean --optim.lr_drops?"),
        (["--precision", "x"], "unrecognized arguments: --precision x; did you mean --optim.precision or --test.prec"),
        (["--xyzzy", "1"], "unrecognized arguments: --xyzzy 1\n"),
        (["--optim.lr", "x"], "optim.lr: expected a number, got x"),
        (["--model.num_queries", "3.5"], "model.num_queries: expected a whole number, got 3.5"),
        (["--optim.precision", "bf16"], "optim.precision: expected one of float32, bfloat16, got bf16"),
        (["--test.max_long_side", "x"], "test.max_long_side: expected a whole number or null, got x"),
        (["--train.keep_epochs", "maybe"], "train.keep_epochs: expected true or false, got maybe"),
        (["--optim.lr_drops", "x"], "optim.lr_drops: expected a list, as [1, 2], got x"),
        (["--data.crop_sizes", "[1]"], "data.crop_sizes: expected a list of 2 elements, got [1]"),
        (["--model", "3"], "model takes no value of its own; give one of its fields, as --model.FIELD VALUE"),
        (["--config", "no.yaml"], "no.yaml: no such file"),
    ],
)
def test_mistakes_are_told_without_python(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (_error(argv, capsys) + "\n").startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lrr: 1}", "unknown key optim.lrr; did you mean optim.lr?"),
        ("modle: {num_queries: 1}", "unknown key modle.num_queries; did you mean model.num_queries?"),
        ("modle: 1", "unknown key modle; did you mean model?"),
        ("lr: 1", "unknown key lr; did you mean optim.lr?"),
        ("optim: {xyzzy: 1}", "unknown key optim.xyzzy\n"),
        ("optim: {precision: bf16}", "optim.precision: expected one of float32, bfloat16, got bf16"),
    ],
)
def test_mistakes_in_files_are_told_without_python(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _file(tmp_path, "bad.yaml", text)
    assert (_error(["--config", path], capsys) + "\n").startswith(f"error: {path}: {message}")


def test_programs_that_run_a_checkpoint_tell_mistakes_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    required = ["--checkpoint", "a", "--data_root", "b", "--output_dir", "c"]
    for options, message in (
        (["--test.windw", "3"], "unrecognized arguments: --test.windw 3; did you mean --test.window?"),
        (["--test.precision", "bf16"], "test.precision: expected one of float32, bfloat16, got bf16"),
        (["--device", "gpu"], "device: expected one of auto, cpu, cuda, got gpu"),
    ):
        with pytest.raises(SystemExit):
            parse_arguments(build_parser(), [*required, *options])
        assert capsys.readouterr().err.splitlines()[-1] == f"error: {message}"


def test_one_key_in_two_places_and_an_alias_are_no_repetition(tmp_path: Path) -> None:
    text = "data: {short_sides: &sides [64, 64], crop_short_sides: *sides}\noptim: {lr: 1.0}\nmodel:\n  dropout: 0.5\n"
    assert parse(["--config", _file(tmp_path, "fine.yaml", text)]).data.crop_short_sides == (64, 64)


def test_a_value_is_blamed_on_where_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = _file(tmp_path, "bad.yaml", "optim: {lr: -1.0, weight_decay: -2.0}")
    mending = _file(tmp_path, "mending.yaml", "optim: {lr: 1.0}")
    message = _error(["--config", bad, "--config", mending], capsys)
    assert message.startswith(f"error: {bad}: optim.weight_decay is -2.0")
    message = _error(["--config", bad, "--optim.weight_decay", "0", "--optim.lr", "-3"], capsys)
    assert message.startswith("error: optim.lr is -3.0"), "an option's value is no file's"
    fine = _file(tmp_path, "fine.yaml", "test: {short_side: 700}")
    together = _error(["--config", fine, "--config", _file(tmp_path, "b.yaml", "test: {max_long_side: 640}")], capsys)
    assert "b.yaml: test.max_long_side is 640" in together and "fine.yaml" not in together
    other = _file(tmp_path, "heads.yaml", "model: {num_heads: 3}")
    assert "heads.yaml: model.hidden_dim is 256" in _error(["--config", fine, "--config", other], capsys)


def test_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "absent.yaml" in _error(["--config", str(tmp_path / "absent.yaml")], capsys)


def test_help_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"], description="What the program does.\n\npython main.py\npython main.py --help\n")
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "What the program does.\n\npython main.py\npython main.py --help\n" in printed, "its own lines"
    text = " ".join(printed.split())
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
