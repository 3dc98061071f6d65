"""This project's model against numbers measured on the published one; see tests/parity.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from ops import library
from ops.dispatch import BACKEND_VARIABLE
from tests import parity

DATA = Path(__file__).parent / "data"
CASES = sorted(DATA.glob("*.npz"))


BACKENDS = ["torch", *(["compiled"] if library.has_kernels("cpu") else [])]
ARRAYS = {
    *(f"backbone{i}" for i in range(4)),
    *(f"memory{i}" for i in range(3)),
    *("text_words", "text_sentence", "hs", "mask_features", "reference_points"),
    *("pred_logits", "pred_boxes", "pred_masks"),
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case_agrees_with_the_published_model(path: Path, backend: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(BACKEND_VARIABLE, backend)
    stored = dict(np.load(path))
    case = json.loads(str(stored.pop("case")))
    computed = parity.compute(case)
    assert set(stored) <= set(computed)
    worst = {}
    for name, expected in stored.items():
        assert computed[name].shape == expected.shape, name
        if name == "match_query":
            assert np.array_equal(computed[name], expected)
            continue
        limit = 1e-3 if name.startswith("grad") else 1e-4
        worst[name] = np.abs(computed[name] - expected).max() / np.abs(expected).max() / limit
    too_far = {name: f"{ratio:.2f} times the limit" for name, ratio in worst.items() if not ratio <= 1}
    assert not too_far


def _unlike(name: str, computed: np.ndarray, expected: np.ndarray) -> float:
    return np.abs(computed - expected).max() / np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": "resnet50", "T": 2, "flags": ["--num_queries 8"], "label": 64, "binary": False},
        {"backbone": "swin_t_p4w7", "T": 3, "flags": "--no_rel_coord --num_queries 8", "box_refine": False},
        {"backbone": "video_swin_t_p4w7", "T": 10, "valid_index": [9, 2], "label": 3, "binary": False},
    ],
    ids=lambda fields: fields["backbone"],
)
def test_every_field_of_a_case_is_understood(fields: dict):
    """Two clips of different size, as the table has them: every array is there, of its shape."""
    case = {"seed": 5, "sizes": [[64, 96], [60, 70]], "ntok": [3, 6], "div": 32, "loss": True, "grads": ["input_proj"]}
    case |= fields
    arrays = parity.compute(case)
    assert {name for name in arrays if "/" not in name} == ARRAYS | {"match_query", "loss_total", "grad_total"}
    b, n, k = 2, 5 if fields["backbone"].startswith("video") else 8, 1 if case.get("binary", True) else 65
    t = 1 if "valid_index" in case else case["T"]
    assert arrays["pred_logits"].shape == (b, t, n, k) and arrays["pred_boxes"].shape == (b, t, n, 4)
    assert arrays["pred_masks"].shape == (b, t, n, 16, 24) and arrays["reference_points"].shape == (b, t, n, 2)
    assert arrays["hs"].shape == (4, b * t, n, 256) and arrays["text_words"].shape == (b, 8, 256)
    assert arrays["backbone3"].shape == (b * case["T"], 6, 2, 3) and arrays["match_query"].shape == (b,)
    assert len([name for name in arrays if name.startswith("loss/")]) == 5 * 4
    gradients = [name for name in arrays if name.startswith("gradnorm/")]
    assert len(gradients) == 4 * 4 and all(arrays[name] > 0 for name in gradients)
    assert all(np.isfinite(value).all() for value in arrays.values())
    if "valid_index" in case:  # the targets and all after the backbone are of the annotated frames
        other = parity.compute(case | {"valid_index": [0, 2], "loss": False})
        assert _unlike("pred_masks", other["pred_masks"][0], arrays["pred_masks"][0]) > 1e-3
        assert _unlike("pred_masks", other["pred_masks"][1], arrays["pred_masks"][1]) < 1e-5
