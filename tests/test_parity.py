"""This project's model against numbers measured on the published one; see tests/parity.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests import parity

DATA = Path(__file__).parent / "data"
CASES = sorted(DATA.glob("*.npz"))


@pytest.mark.slow
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case_agrees_with_the_published_model(path: Path):
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
