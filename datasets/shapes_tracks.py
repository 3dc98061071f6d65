"""Where the objects of a generated video go: straight tracks that cross, hide one another and leave the frame.

Letters: T frames, O objects, K candidate layouts drawn together.
"""

from __future__ import annotations

import numpy as np

from datasets.shapes_scene import Composition, Look, VideoSettings

DIRECTIONS = {"still": (0.0, 0.0), "left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
SPEED_RANGE = (2.5, 6.0)  # pixels per frame at the reference frame
MAX_ANGLE = 14.0  # degrees: a square must not become a diamond, nor a cross an X

# "on the left" must be plain: look-alikes stay this share of the frame's width (or height) apart.
PLACE_MARGIN = 0.2

_NUM_CANDIDATES = 48
_MIN_SHARE_INSIDE = 0.5  # of the frames, with the centre inside the frame
_EDGE_SHARE = 0.6  # of the scenes in which something moves: one object leaves the frame, or comes in
_MIN_EDGE_FRAMES = 5  # shorter videos would show half an object, and nothing of the crossing
_MAX_HIDDEN = 0.2  # mean depth of overlap of any pair, 1 = one centre upon the other


def draw_tracks(
    rng: np.random.Generator, composition: Composition, sides: np.ndarray, settings: VideoSettings
) -> np.ndarray | None:
    """Draws centres (T, O, 2) in pixels that respect the composition; None if no candidate does.

    Every object moves straight and evenly all the time, in the direction its look names. Half of the scenes take the
    candidate with the deepest overlaps, so that occlusion is common without being everywhere.
    """
    size_xy = np.array([settings.width, settings.height], dtype=np.float64)
    velocities = _draw_velocities(rng, composition.looks, settings)  # (K, O, 2)
    border = 0.5 * sides[:, None] / size_xy  # (O, 2)
    moving = np.array([look.motion != "still" for look in composition.looks])[:, None]
    # Still objects stay mostly inside; moving ones may have half their way outside.
    border = np.where(moving, 0.3 * border, 0.85 * border)
    middles = rng.uniform(border, 1 - border, size=(_NUM_CANDIDATES, *border.shape)) * size_xy
    _pull_apart(rng, middles, composition.apart, size_xy)
    if settings.num_frames >= _MIN_EDGE_FRAMES and rng.random() < _EDGE_SHARE:
        _send_over_edge(rng, middles, composition, sides, size_xy)

    times = np.arange(settings.num_frames) - (settings.num_frames - 1) / 2
    centres = middles[:, None] + times[:, None, None] * velocities[:, None]  # (K, T, O, 2)
    hidden = _overlap_depth(centres, sides)  # (K, O, O)
    valid = _inside_enough(centres, size_xy) & (hidden.max(axis=(1, 2)) <= _MAX_HIDDEN)
    for first, second, axis in composition.apart:
        gaps = centres[:, :, second, axis] - centres[:, :, first, axis]
        valid &= (gaps >= 1.1 * PLACE_MARGIN * size_xy[axis]).all(axis=1)
    choices = np.flatnonzero(valid)
    if not len(choices):
        return None
    if rng.random() < 0.5:
        return centres[choices[np.argmax(hidden.sum(axis=(1, 2))[choices])]]
    return centres[choices[0]]


def draw_angles(rng: np.random.Generator, num_objects: int, num_frames: int) -> np.ndarray:
    """(T, O) small rotations in degrees that turn evenly over the video."""
    ends = rng.uniform(-MAX_ANGLE, MAX_ANGLE, size=(2, num_objects))
    return np.linspace(ends[0], ends[1], num_frames)


def _draw_velocities(rng: np.random.Generator, looks: tuple[Look, ...], settings: VideoSettings) -> np.ndarray:
    """(K, O, 2) pixels per frame: along the named direction, with a little drift across it."""
    directions = np.array([DIRECTIONS[look.motion] for look in looks])
    extents = np.abs(directions) @ np.array([settings.width, settings.height])  # along the motion; 0 if still
    low, high = (speed * settings.pixel_scale for speed in SPEED_RANGE)
    # In long videos objects are slower, or they would be outside most of the time.
    fastest = np.minimum(high, np.where(extents > 0, extents, np.inf) / max(settings.num_frames - 1, 1))
    speeds = rng.uniform(np.minimum(low, 0.6 * fastest), fastest, size=(_NUM_CANDIDATES, len(looks)))
    drift = rng.uniform(-0.12, 0.12, size=speeds.shape)
    return speeds[..., None] * (directions + drift[..., None] * directions[:, ::-1])


def _pull_apart(
    rng: np.random.Generator, middles: np.ndarray, apart: tuple[tuple[int, int, int], ...], size_xy: np.ndarray
) -> None:
    """Moves the pairs of `apart` to opposite halves, the first to the left or top; writes into `middles` (K, O, 2)."""
    for first, second, axis in apart:
        low = rng.uniform(0.08, 0.42, size=len(middles)) * size_xy[axis]
        high = rng.uniform(0.58, 0.92, size=len(middles)) * size_xy[axis]
        middles[:, first, axis], middles[:, second, axis] = low, high


def _send_over_edge(
    rng: np.random.Generator, middles: np.ndarray, composition: Composition, sides: np.ndarray, size_xy: np.ndarray
) -> None:
    """Has one moving object cross the frame's edge at half time, outwards or inwards; writes into `middles` (K, O, 2).

    Pairs kept apart stay as they are. Small objects are preferred: they are gone sooner.
    """
    bound = {index for pair in composition.apart for index in pair[:2]}
    free = [i for i, look in enumerate(composition.looks) if look.motion != "still" and i not in bound]
    free = [i for i in free if composition.looks[i].size == "small"] or free
    if not free:
        return
    index = free[int(rng.integers(len(free)))]
    direction = np.array(DIRECTIONS[composition.looks[index].motion])
    axis = int(np.argmax(np.abs(direction)))
    outwards = rng.random() < 0.5
    inset = rng.uniform(0, 0.15, size=len(middles)) * sides[index]
    at_far_edge = (direction[axis] > 0) == outwards
    middles[:, index, axis] = size_xy[axis] - inset if at_far_edge else inset


def _inside_enough(centres: np.ndarray, size_xy: np.ndarray) -> np.ndarray:
    """(K,) whether every object's centre is inside the frame most of the time."""
    inside = ((centres >= 0) & (centres <= size_xy)).all(axis=-1)  # (K, T, O)
    return (inside.mean(axis=1) >= _MIN_SHARE_INSIDE).all(axis=1)


def _overlap_depth(centres: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """(K, O, O) how deep each pair overlaps, mean over frames: 0 apart, 1 centre upon centre; the diagonal is 0."""
    distances = np.linalg.norm(centres[:, :, :, None] - centres[:, :, None], axis=-1)  # (K, T, O, O)
    reach = 0.5 * (sides[:, None] + sides[None])
    depth = np.clip(1 - distances / reach, 0, 1).mean(axis=1)
    return depth * (1 - np.eye(len(sides)))
