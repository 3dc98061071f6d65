"""A tiny tree in the Ref-YouTube-VOS layout, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PALETTE = [0, 0, 0, 200, 30, 30, 30, 200, 30, 30, 30, 200]


def write_tree(
    root: Path,
    split: str = "train",
    *,
    num_videos: int = 2,
    num_frames: int = 6,
    size: tuple[int, int] = (48, 64),
    annotated: bool = True,
) -> Path:
    """Videos of two squares: object 1 moves right, object 2 is in the first half of the frames only."""
    meta, expressions = {}, {}
    for number in range(num_videos):
        video, frames = f"video{number}", [f"{5 * index:05d}" for index in range(num_frames)]
        for index, frame in enumerate(frames):
            write_frame(root / split, video, frame, ids(index, num_frames, size), number, annotated)
        meta[video] = {"objects": {"1": {"category": "person"}, "2": {"category": "dog"}}}
        sentences = [("The  Red square on the LEFT ", "1", "colour"), ("a green dog in bright light", "2", "place")]
        expressions[video] = {
            "frames": frames,
            "expressions": {
                str(key): {"exp": text, "obj_id": obj_id, "kind": kind} if annotated else {"exp": text}
                for key, (text, obj_id, kind) in enumerate(sentences)
            },
        }
    if annotated:
        write_json(root / split / "meta.json", {"videos": meta})
    write_json(meta_path(root, split), {"videos": expressions})
    return root


def ids(index: int, num_frames: int, size: tuple[int, int]) -> np.ndarray:
    """Object ids (h, w) of a frame."""
    h, w = size
    mask = np.zeros(size, np.uint8)
    left = index * (w // 2) // num_frames
    mask[h // 4 : h // 2, left : left + w // 4] = 1
    if index < (num_frames + 1) // 2:
        mask[h // 2 + 2 : h - 2, w // 2 : w - 4] = 2
    return mask


def write_frame(folder: Path, video: str, frame: str, mask: np.ndarray, seed: int, annotated: bool = True) -> None:
    """A noisy picture whose objects have the palette's colours, and its annotation."""
    rng = np.random.default_rng((seed, int(frame)))
    picture = np.array(PALETTE, np.uint8).reshape(-1, 3)[mask] + rng.integers(0, 40, (*mask.shape, 3), dtype=np.uint8)
    images, masks = folder / "JPEGImages" / video, folder / "Annotations" / video
    images.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(images / f"{frame}.jpg", quality=95)
    if annotated:
        masks.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(mask)
        image.putpalette(PALETTE)
        image.save(masks / f"{frame}.png")


def meta_path(root: Path, split: str) -> Path:
    return root / "meta_expressions" / split / "meta_expressions.json"


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))


def change_meta(root: Path, split: str, change: Any) -> None:
    """Apply `change` to the `videos` of meta_expressions.json, in place."""
    content = json.loads(meta_path(root, split).read_text())
    change(content["videos"])
    write_json(meta_path(root, split), content)
