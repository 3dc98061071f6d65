from __future__ import annotations

import dataclasses
import json
import math
import re
import typing
from pathlib import Path

import pytest
import yaml

from models.build import build_criterion, build_model
from util.cli import parse
from util.config import Config, DataConfig, LossConfig, ModelConfig, OptimConfig, TestConfig, TrainConfig
from util.optim import build_optimizer, build_schedule, learning_rates

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "configs").glob("*.yaml"))
BELOW = {"quickstart_pretrain": ["quickstart"]}  # files that go on top of others


def _options(path: Path) -> list[str]:
    """The file with those below it."""
    files = [path.with_stem(stem) for stem in BELOW.get(path.stem, [])]
    return [argument for file in (*files, path) for argument in ("--config", str(file))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_parses_and_says_how_to_run_it(path: Path) -> None:
    config = parse(_options(path))
    assert config != Config() or path.stem == "default"
    opening = path.read_text().split("\n\n")[0]
    commands = (f"--config configs/{path.name}", "./scripts/")
    assert opening.startswith("#") and any(c in opening for c in commands), "a file opens with its command"
    assert "Expect" in opening or "score" in opening, "and with the score to expect"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_states_only_differences(path: Path) -> None:
    defaults = parse(_options(path)[:-2]).to_dict()
    for section, fields in yaml.safe_load(path.read_text()).items():
        for name, value in fields.items():
            default = defaults[section][name]
            assert value != (list(default) if isinstance(default, tuple) else default), f"{section}.{name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_builds(path: Path) -> None:
    """With a small text encoder and random weights, since nothing may be downloaded."""
    config = parse(_options(path))
    text = {"text_encoder": str(ROOT / "configs" / "text_encoder_small"), "text_encoder_pretrained": False}
    model = build_model(dataclasses.replace(config.model, **text), weights_follow=True)
    build_criterion(config.loss)
    groups = learning_rates(build_optimizer(model, config.optim))
    build_schedule(config.optim)
    assert groups["backbone"] == config.optim.backbone_lr and groups["rest"] == config.optim.lr
    assert ("text_encoder" in groups) != config.model.freeze_text_encoder
    assert "offsets" in groups


def test_the_pretraining_of_the_quickstart_has_its_model() -> None:
    path = ROOT / "configs" / "quickstart_pretrain.yaml"
    pretraining = parse(_options(path))
    assert pretraining.model == parse(["--config", str(path.with_stem("quickstart"))]).model != ModelConfig()
    assert pretraining.data.num_frames == 1 and pretraining.train.output_dir == "runs/quickstart_pretrain"
    script = (ROOT / "scripts" / "pretrain_quickstart.sh").read_text()
    assert "configs=(--config configs/quickstart.yaml --config configs/quickstart_pretrain.yaml)" in script


def test_there_are_configurations() -> None:
    assert FILES


def test_dict_round_trip_survives_json() -> None:
    config = Config(
        model=ModelConfig(backbone="timm/resnet10t", backbone_options={"channels": [32, 32, 64, 64]}),
        optim=OptimConfig(lr_drops=(1,)),
        data=DataConfig(crop_sizes=(3, 4)),
    )
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_from_dict_names_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="modle"):
        Config.from_dict({"modle": {}})
    with pytest.raises(ValueError, match=r"optim\.learning_rate"):
        Config.from_dict({"optim": {"learning_rate": 1.0}})


@pytest.mark.parametrize(
    ("section", "values", "name"),
    [
        (ModelConfig, {"num_queries": 0}, "model.num_queries"),
        (ModelConfig, {"dropout": 1.5}, "model.dropout"),
        (ModelConfig, {"hidden_dim": 48}, "model.hidden_dim"),
        (ModelConfig, {"num_feature_levels": 2}, "model.num_feature_levels"),
        (ModelConfig, {"position_in_content": -1.0}, "model.position_in_content"),
        (LossConfig, {"dice_weight": -1.0}, "loss.dice_weight"),
        (LossConfig, {"focal_alpha": 1.5}, "loss.focal_alpha"),
        (DataConfig, {"num_frames": 0}, "data.num_frames"),
        (DataConfig, {"num_workers": -1}, "data.num_workers"),
        (DataConfig, {"absent_share": 1.0}, "data.absent_share"),
        (DataConfig, {"absent_share": -0.1}, "data.absent_share"),
        (DataConfig, {"absent_share": 0.2, "dataset": "a2d"}, "data.absent_share"),
        (DataConfig, {"short_sides": ()}, "data.short_sides"),
        (DataConfig, {"crop_sizes": (5, 4)}, "data.crop_sizes"),
        (OptimConfig, {"lr": 0.0}, "optim.lr"),
        (OptimConfig, {"lr": float("nan")}, "optim.lr"),
        (OptimConfig, {"lr_drops": (3, 3)}, "optim.lr_drops"),
        (OptimConfig, {"warmup_steps": -1}, "optim.warmup_steps"),
        (OptimConfig, {"weight_decay": -0.1}, "optim.weight_decay"),
        (TrainConfig, {"log_every_steps": 0}, "train.log_every_steps"),
        (TrainConfig, {"save_every_steps": -5}, "train.save_every_steps"),
        (TestConfig, {"threshold": 2.0}, "test.threshold"),
        (TestConfig, {"max_long_side": 10}, "test.max_long_side"),
    ],
)
def test_bad_values_are_refused_by_name(section: type, values: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        section(**values)


SECTIONS = (ModelConfig, LossConfig, DataConfig, OptimConfig, TrainConfig, TestConfig)
REAL = [
    (section, name)
    for section in SECTIONS
    for name, hint in typing.get_type_hints(section).items()
    if hint in (float, float | None)
]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize(("section", "name"), REAL, ids=[name for _, name in REAL])
def test_every_real_number_is_finite(section: type, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"\.{name} is {value}"):
        section(**{name: value})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": {"backbone": 5}}, "model.backbone is 5"),
        ({"model": {"num_queries": "8"}}, "model.num_queries is '8'"),
        ({"model": {"num_queries": True}}, "model.num_queries is True"),
        ({"model": {"box_refine": 1}}, "model.box_refine is 1"),
        ({"model": {"drop_path": "none"}}, "model.drop_path is 'none'"),
        ({"model": {"backbone_options": 3}}, "model.backbone_options is 3"),
        ({"optim": {"lr_drops": [1.5]}}, "optim.lr_drops is"),
        ({"optim": {"precision": "fp16"}}, "optim.precision is 'fp16'"),
        ({"optim": [1, 2]}, "section optim"),
    ],
)
def test_from_dict_names_a_wrong_type(values: dict, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Config.from_dict(values)


def test_configurations_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().optim.lr = 1.0
