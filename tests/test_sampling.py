from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.sampling import anchors, sample_frames


@given(st.integers(1, 40), st.data(), st.integers(1, 12), st.integers(0, 10**6))
@settings(max_examples=400, deadline=None)
def test_any_video_and_any_number_of_frames(n: int, data: st.DataObject, t: int, seed: int) -> None:
    anchor = data.draw(st.integers(0, n - 1))
    frames = sample_frames(n, anchor, t, np.random.default_rng(seed))
    assert len(frames) == t and frames == sorted(frames) and all(type(frame) is int for frame in frames)
    assert frames[0] >= 0 and frames[-1] < n and anchor in frames
    counts = Counter(frames)
    if t <= n:
        assert max(counts.values()) == 1
    else:
        assert len(counts) == n and max(counts.values()) - min(counts.values()) <= 1
    assert frames == sample_frames(n, anchor, t, np.random.default_rng(seed))


def test_local_and_global_frames() -> None:
    """With five frames in a long video: one 1-3 before, one 1-3 after, two outside of these."""
    seen = Counter()
    for seed in range(500):
        frames = sample_frames(30, 15, 5, np.random.default_rng(seed))
        near = [frame for frame in frames if 12 <= frame <= 18]
        before, after = max(f for f in frames if f < 15), min(f for f in frames if f > 15)
        assert before >= 12 and after <= 18 and len(near) >= 3
        seen.update(frames)
    assert set(seen) == set(range(30))


def test_three_frames_are_neighbours() -> None:
    pairs = {tuple(sample_frames(30, 15, 3, np.random.default_rng(seed))) for seed in range(300)}
    assert pairs == {(15 - b, 15, 15 + a) for a in (1, 2, 3) for b in (1, 2, 3)}


def test_two_frames_are_the_anchor_and_one_neighbour() -> None:
    others = {
        frame for seed in range(200) for frame in sample_frames(30, 15, 2, np.random.default_rng(seed)) if frame != 15
    }
    assert others == {12, 13, 14, 16, 17, 18}
    first = {tuple(sample_frames(30, 0, 2, np.random.default_rng(seed))) for seed in range(100)}
    assert first == {(0, 1), (0, 2), (0, 3)}


def test_anchors_step_by_the_clip_length() -> None:
    assert list(anchors(12, 5)) == [0, 5, 10]
    assert list(anchors(3, 5)) == [0]


@pytest.mark.parametrize(("n", "anchor", "t"), [(5, 5, 2), (5, -1, 2), (5, 0, 0), (0, 0, 1)])
def test_impossible_clips(n: int, anchor: int, t: int) -> None:
    with pytest.raises(ValueError, match="no clip of"):
        sample_frames(n, anchor, t, np.random.default_rng(0))
