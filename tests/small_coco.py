"""A small generated release of RefCOCO/+/g, converted, for tests."""

from __future__ import annotations

from pathlib import Path

from datasets.refcoco_release import REF_SETS
from datasets.shapes import main as write_shapes
from scripts import prepare_refcoco


def write_coco(root: Path, num_images: int = 6, num_valid_images: int = 2) -> Path:
    """Writes all sets, prepared, with images of 96 x 128."""
    counts = ["--num_videos", str(num_images), "--num_valid_videos", str(num_valid_images)]
    write_shapes(["refcoco", str(root), *counts, "--height", "96", "--width", "128", "--num_workers", "1"])
    prepare_refcoco.main(["--root", str(root), "--sets", *REF_SETS])
    return root
