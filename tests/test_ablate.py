"""Ablations: each file changes what its name says, and the script trains a set of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models.build import build_criterion, build_model
from scripts import ablate
from tests.small_model import small_clips, small_targets
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
    rows = {"full": {"J": 0.5, "F": 0.6, "J&F": 0.55, "seconds": 90}}
    rows["queries_1"] = {"J": 0.4, "F": 0.5, "J&F": 0.45, "seconds": 60}
    lines = ablate.format_table(rows).splitlines()
    assert lines[2] == "| full | 55.0 | 50.0 | 60.0 |  | 1.5 |"
    assert lines[3] == "| queries_1 | 45.0 | 40.0 | 50.0 | -10.0 | 1.0 |"
    assert ablate.format_table({"queries_1": rows["queries_1"]}).splitlines()[2].endswith("|  | 1.0 |")


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
    with pytest.raises(RuntimeError, match="full: the training failed"):
        ablate.main([*arguments, "--", "--optim.epochs", "-1"])
