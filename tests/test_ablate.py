"""Ablations: each file changes what its name says, and the script trains a set of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import ablate
from util.cli import parse

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
    assert set(ablate.names()) == {"full", *CHANGES}
    base = ["--config", str(ROOT / "configs" / "ytvos_scratch_r50.yaml")]
    full = parse(base).to_dict()
    for name, (section, field, value) in CHANGES.items():
        changed = parse([*base, "--config", str(ROOT / "configs" / "ablations" / f"{name}.yaml")]).to_dict()
        expected = full | {section: full[section] | {field: value}}
        assert changed == expected and full[section][field] != value, name


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
    arguments += ["--output_dir", str(tmp_path), "--only", "full", "no_relative_coordinates", "class_discriminative"]
    options = ["--", "--optim.epochs", "1", "--optim.lr_drops", "[]", "--data.num_workers", "0"]
    options += ["--optim.batch_size", "4", "--train.num_threads", "1", "--train.device", "cpu"]
    results = ablate.main([*arguments, *options])
    assert list(results) == ["full", "no_relative_coordinates", "class_discriminative"]
    assert all(0 < row["J&F"] < 1 and row["seconds"] > 0 for row in results.values())
    config = json.loads((tmp_path / "class_discriminative" / "config.json").read_text())
    assert config["model"]["num_classes"] == 65 and config["optim"]["epochs"] == 1
    assert (tmp_path / "table.md").read_text() in capfd.readouterr().out
    before = (tmp_path / "full" / "checkpoint.pth").stat().st_mtime_ns
    assert ablate.main([*arguments, *options]) == results  # what is there is kept
    assert (tmp_path / "full" / "checkpoint.pth").stat().st_mtime_ns == before
    with pytest.raises(RuntimeError, match="full: the training failed"):
        ablate.main([*arguments, "--", "--optim.epochs", "-1"])
