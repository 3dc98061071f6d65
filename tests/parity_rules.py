"""The weights and inputs of a parity case, all from its seed: what the published model was measured with."""

import zlib

import numpy as np


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of the floating-point entry `name` (published key) of the state dict."""
    rng = np.random.default_rng(zlib.crc32(name.replace("transformer.decoder.bbox_embed", "bbox_embed").encode()))
    noise = rng.standard_normal(shape)
    if name.endswith("running_var"):
        value = 1 + 0.1 * np.abs(noise)
    elif len(shape) > 1:
        value = noise / np.sqrt(int(np.prod(shape[1:])))
    elif name.endswith("weight"):
        value = 1 + 0.1 * noise
    else:
        value = 0.1 * noise
    return np.asarray(value, dtype=np.float32)


def frames(case: dict) -> list[np.ndarray]:
    """One normalised clip (T, 3, h, w) per entry of case['sizes']."""
    rng = np.random.default_rng(case["seed"])
    return [rng.standard_normal((case["T"], 3, h, w), dtype=np.float32) for h, w in case["sizes"]]


def token_ids(case: dict) -> list[list[int]]:
    """RoBERTa ids per caption: <s>, words, </s>. Shorter captions are padded with id 1, attention mask 0."""
    rng = np.random.default_rng(case["seed"] + 1)
    return [[0, *rng.integers(5, 50000, n).tolist(), 2] for n in case["ntok"]]


def targets(case: dict) -> list[dict]:
    """Per clip: masks (T, h, w), boxes cxcywh in [0, 1] (T, 4), visible (T,), labels (T,); T = 1 with a valid_index."""
    rng = np.random.default_rng(case["seed"] + 2)
    out = []
    for h, w in case["sizes"]:
        length = 1 if case.get("valid_index") is not None else case["T"]
        masks, boxes = np.zeros((length, h, w), np.float32), np.zeros((length, 4), np.float32)
        visible = np.ones(length, np.int64)
        for t in range(length):
            bw, bh = int(rng.integers(w // 6, w // 2)), int(rng.integers(h // 6, h // 2))
            x, y = int(rng.integers(0, w - bw)), int(rng.integers(0, h - bh))
            masks[t, y : y + bh, x : x + bw] = 1
            boxes[t] = (x + bw / 2) / w, (y + bh / 2) / h, bw / w, bh / h
        if length > 2:
            masks[1], boxes[1], visible[1] = 0, 0, 0
        out.append(
            {"masks": masks, "boxes": boxes, "visible": visible, "labels": np.full(length, case.get("label", 0))}
        )
    return out
