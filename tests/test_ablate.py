"""Ablations: each file changes what its name says, and the script trains a set of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from models.build import build_criterion, build_model, load_model
from scripts import ablate
from tests.small_model import small_clips, small_config, small_targets, write_small_checkpoint
from util.checkpoint_io import load_checkpoint
from util.cli import parse
from util.optim import build_optimizer

ROOT = Path(__file__).parent.parent
CHANGES = {
    "queries_1": ("model", "num_queries", 1),
    "queries_3": ("model", "num_queries", 3),
    "queries_8": ("model", "num_queries", 8),
    "frames_1": ("data", "num_frames", 1),
    "frames_3": ("data", "num_frames", 3),
    "no_fpn_fusion": ("model", "fpn_fusion", False),
    "no_box_cost": ("loss", "match_boxes", False),
    "no_mask_cost": ("loss", "match_masks", False),
    "no_relative_coordinates": ("model", "relative_coordinates", False),
    "class_discriminative": ("model", "num_classes", 65),
}

FRESH = {
    "full": (),
    "frames_1": (),
    "no_fpn_fusion": (),
    "queries_1": ("query_embed.",),
    "queries_8": ("query_embed.",),
    "class_discriminative": ("class_heads.",),
    "no_relative_coordinates": ("mask_head.controller.layers.2.",),
    "no_queries": ("encoder_layers.", "mask_output."),
}


def test_every_file_changes_one_thing() -> None:
    assert set(ablate.names()) == {"full", "no_queries", *CHANGES}
    full = _settings()
    for name, (section, field, value) in CHANGES.items():
        expected = full | {section: full[section] | {field: value}}
        assert _settings(name) == expected and full[section][field] != value, name
    baseline = _settings("no_queries")
    assert baseline["model"] == full["model"] | {"architecture": "baseline"} and baseline["data"] == full["data"]
    assert baseline["test"]["window"] == full["data"]["num_frames"] == 5


def _settings(name: str | None = None) -> dict:
    files = ["configs/ytvos_scratch_r50.yaml"] + ([f"configs/ablations/{name}.yaml"] if name else [])
    return parse([word for file in files for word in ("--config", str(ROOT / file))]).to_dict()


@pytest.mark.parametrize("name", ablate.names())
def test_every_ablation_takes_a_step(name: str) -> None:
    files = ["configs/smoke.yaml"] + ([f"configs/ablations/{name}.yaml"] if name != "full" else [])
    config = parse([word for file in files for word in ("--config", str(ROOT / file))])
    torch.manual_seed(0)
    model, criterion = build_model(config.model).train(), build_criterion(config.loss)
    sizes, num_frames = [(64, 96), (64, 96)], config.data.num_frames
    clips = small_clips(sizes, num_frames)
    targets = small_targets(sizes, num_frames, label=config.model.num_classes - 1)
    optimizer = build_optimizer(model, config.optim)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    loss = sum(criterion(model(**clips), targets).values())
    loss.backward()
    optimizer.step()
    assert loss.isfinite() and loss > 0
    unmoved = {name for name, p in model.named_parameters() if name in before and torch.equal(p, before[name])}
    # residual branches of timm start at zero, and the baseline needs no sentence
    idle = ("backbone.body.layer", "text_encoder.encoder.pooler")
    assert not [name for name in unmoved if not name.startswith(idle)]


def test_table_compares_with_the_full_model() -> None:
    rows = {"full": {"J": 0.5, "F": 0.6, "J&F": 0.55, "seconds": 90, "pretrained": 0.0}}
    rows["queries_1"] = {"J": 0.4, "F": 0.5, "J&F": 0.45, "seconds": 60, "pretrained": 0.984}
    lines = ablate.format_table(rows).splitlines()
    assert lines[2] == "| full | 55.0 | 50.0 | 60.0 |  | 0% | 1.5 |"
    assert lines[3] == "| queries_1 | 45.0 | 40.0 | 50.0 | -10.0 | 98% | 1.0 |"
    assert ablate.format_table({"queries_1": rows["queries_1"]}).splitlines()[2].endswith("|  | 98% | 1.0 |")


@pytest.mark.parametrize(("name", "fresh"), FRESH.items())
def test_an_ablation_starts_from_the_weights_that_fit(name: str, fresh: tuple[str, ...], tmp_path: Path) -> None:
    pretrained = write_small_checkpoint(tmp_path / "pretrained.pth", seed=5, num_queries=5)
    base = tmp_path / "base.yaml"
    base.write_text(json.dumps({"model": dataclasses.asdict(small_config())}))
    own = [] if name == "full" else ["--config", str(ROOT / "configs" / "ablations" / f"{name}.yaml")]
    settings = ["--config", str(base), "--model.num_queries", "5", *own]
    share = ablate.write_start(settings, pretrained, tmp_path / "start.pth")
    weights, start = (load_checkpoint(path)["model"] for path in (pretrained, tmp_path / "start.pth"))
    assert start.keys() == build_model(parse(settings).model).state_dict().keys()
    same = {key for key, value in start.items() if key in weights and torch.equal(weights[key], value)}
    other = {key for key in start if key not in same}
    assert all(any(key.startswith(part) for key in other) for part in fresh)
    assert all(key.startswith(fresh) for key in other), other
    parameters = dict(build_model(parse(settings).model).named_parameters())
    fitting = sum(parameters[key].numel() for key in same if key in parameters)
    if "query_embed.weight" in other:
        fitting += min(5, len(start["query_embed.weight"])) * start["query_embed.weight"].shape[1]
    assert share == pytest.approx(fitting / sum(p.numel() for p in parameters.values()))
    if "queries" in name and name != "no_queries":
        num_common = min(5, len(start["query_embed.weight"]))
        assert len(start["query_embed.weight"]) == int(name[-1])
        assert torch.equal(start["query_embed.weight"][:num_common], weights["query_embed.weight"][:num_common])
    model, _ = load_model(tmp_path / "start.pth")  # a whole checkpoint, tokenizer and all
    assert len(model.text_encoder.assets()) > 0


@pytest.mark.slow
def test_a_chosen_set_is_trained(shapes_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    arguments = ["--base", str(ROOT / "configs" / "smoke.yaml"), "--data_root", str(shapes_root)]
    arguments += ["--output_dir", str(tmp_path), "--only", "full", "no_queries", "class_discriminative"]
    options = ["--", "--optim.epochs", "1", "--optim.lr_drops", "[]", "--data.num_workers", "0"]
    options += ["--optim.batch_size", "4", "--train.num_threads", "1", "--train.device", "cpu"]
    results = ablate.main([*arguments, *options])
    assert list(results) == ["full", "no_queries", "class_discriminative"]
    assert all(0 < row["J&F"] < 1 and row["seconds"] > 0 for row in results.values())
    config = json.loads((tmp_path / "class_discriminative" / "config.json").read_text())
    assert config["model"]["num_classes"] == 65 and config["optim"]["epochs"] == 1
    assert (tmp_path / "table.md").read_text() in capfd.readouterr().out
    before = (tmp_path / "full" / "checkpoint.pth").stat().st_mtime_ns
    assert ablate.main([*arguments, *options]) == results  # what is there is kept
    assert (tmp_path / "full" / "checkpoint.pth").stat().st_mtime_ns == before
    start = ["--init_checkpoint", str(tmp_path / "full" / "checkpoint.pth")]
    results = ablate.main([*arguments[:-3], "queries_1", *start, *options])
    assert results["queries_1"]["pretrained"] > 0.9 and results["queries_1"]["init_checkpoint"] == start[1]
    assert f"training from {(tmp_path / 'queries_1_start.pth').resolve()}" in capfd.readouterr().err
    with pytest.raises(RuntimeError, match="full: the training failed"):
        ablate.main([*arguments, "--", "--optim.epochs", "-1"])
