"""What a generated video shows: its objects, what they look like, and which look-alikes they are given.

A scene is composed around kinds of expression. A kind is the attribute that an expression needs to single out its
object, so each kind asks for a look-alike which differs in that attribute alone (as far as words go).

Letters: T frames, O objects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

KINDS = ("colour", "shape", "size", "place", "motion")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = ("small", "big")
MOTIONS = ("still", "left", "right", "up", "down")

# Hue in degrees, saturation, value of each colour name; jitter stays well within half the distance to a neighbour.
COLOURS = {
    "red": (357.0, 0.88, 0.85),
    "orange": (27.0, 0.95, 0.97),
    "yellow": (55.0, 0.90, 0.97),
    "green": (120.0, 0.80, 0.65),
    "cyan": (184.0, 0.75, 0.92),
    "blue": (226.0, 0.85, 0.85),
    "purple": (285.0, 0.72, 0.72),
}

# Sides in pixels at the reference frame of 160 x 240; the gap keeps the words "small" and "big" apart.
SIDE_RANGES = {"small": (24.0, 34.0), "big": (50.0, 68.0)}
REFERENCE_SIZE = (160, 240)
MAX_BIG_OBJECTS = 3


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """Size and length of every generated video.

    Args:
        num_frames: frames per video T; 1 makes single images, which have no motion.
        height: of the frames, in pixels.
        width: of the frames, in pixels.

    Raises:
        ValueError: for a size below 64 pixels or no frames.
    """

    num_frames: int = 12
    height: int = 160
    width: int = 240

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}; a video has at least 1 frame")
        for name in ("height", "width"):
            if getattr(self, name) < 64:
                raise ValueError(f"{name} is {getattr(self, name)}; shapes need frames of at least 64 x 64 pixels")

    @property
    def pixel_scale(self) -> float:
        """Lengths of the reference frame times this are lengths in this one."""
        return min(self.height / REFERENCE_SIZE[0], self.width / REFERENCE_SIZE[1])


@dataclass(frozen=True)
class Look:
    """The attributes of one object, each in the word that expressions use for it."""

    shape: str
    colour: str
    size: str
    motion: str


@dataclass(frozen=True)
class Composition:
    """The objects of a scene before they have positions.

    `apart` holds (first, second, axis): two look-alikes to be kept apart along x (axis 0) or y (axis 1) in all frames.
    """

    kinds: tuple[str, ...]
    looks: tuple[Look, ...]
    apart: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Scene:
    """One video in symbols. Object ids are positions in `looks` plus one.

    Args:
        settings: frame size and count.
        kinds: the kinds of expression the scene was composed for.
        looks: attributes per object.
        sides: (O,) side of each shape's square in pixels.
        centres: (T, O, 2) centres (x, y) in pixels; may lie outside the frame.
        angles: (T, O) rotation in degrees.
        depth_order: object indices from the rearmost to the foremost.
    """

    settings: VideoSettings
    kinds: tuple[str, ...]
    looks: tuple[Look, ...]
    sides: np.ndarray
    centres: np.ndarray
    angles: np.ndarray
    depth_order: tuple[int, ...]


def available_kinds(num_frames: int) -> tuple[str, ...]:
    """Kinds of expression that a video of this length can have: one frame shows no motion."""
    return KINDS if num_frames > 1 else tuple(kind for kind in KINDS if kind != "motion")


def choose_kinds(rng: np.random.Generator, index: int, num_frames: int) -> tuple[str, str]:
    """Two different kinds: the first goes round with the video's index, so that all are equally frequent."""
    kinds = available_kinds(num_frames)
    first = index % len(kinds)
    second = (first + int(rng.integers(1, len(kinds)))) % len(kinds)
    return kinds[first], kinds[second]


def compose(rng: np.random.Generator, kinds: tuple[str, ...], num_frames: int) -> Composition:
    """Three to five objects: for each kind an object and its look-alike, then distractors.

    The group of the second kind may be built upon an object of the first, so one object can have two look-alikes.
    """
    motions = MOTIONS if num_frames > 1 else MOTIONS[:1]
    looks: list[Look] = []
    apart: list[tuple[int, int, int]] = []
    for kind in kinds:
        if looks and rng.random() < 0.5:
            base = int(rng.integers(len(looks)))
        else:
            looks.append(_fresh_look(rng, looks, motions))
            base = len(looks) - 1
        looks.append(_look_alike(rng, looks[base], kind, motions))
        if kind == "place":
            apart.append((base, len(looks) - 1, int(rng.integers(2))))
    num_objects = max(len(looks), int(rng.integers(3, 6)))
    while len(looks) < num_objects:
        looks.append(_distractor(rng, looks, motions))
    return Composition(kinds, tuple(looks), tuple(apart))


def draw_sides(rng: np.random.Generator, looks: tuple[Look, ...], settings: VideoSettings) -> np.ndarray:
    """(O,) sides in pixels, within the range of each object's size word."""
    ranges = np.array([SIDE_RANGES[look.size] for look in looks])
    return rng.uniform(ranges[:, 0], ranges[:, 1]) * settings.pixel_scale


def _fresh_look(rng: np.random.Generator, looks: list[Look], motions: tuple[str, ...]) -> Look:
    """An object whose colour and shape together are new to the scene."""
    taken = {(look.shape, look.colour) for look in looks}
    free = [(shape, colour) for shape in SHAPES for colour in COLOURS if (shape, colour) not in taken]
    shape, colour = free[int(rng.integers(len(free)))]
    return Look(shape, colour, _choose(rng, SIZES), _choose(rng, motions))


def _look_alike(rng: np.random.Generator, look: Look, kind: str, motions: tuple[str, ...]) -> Look:
    """An object that differs from `look` in what `kind` names; what the kind leaves open is drawn anew at times."""
    motion = _choose(rng, motions)
    if kind == "colour":
        return replace(look, colour=_other(rng, COLOURS, look.colour), size=_choose(rng, SIZES), motion=motion)
    if kind == "shape":
        return replace(look, shape=_other(rng, SHAPES, look.shape), size=_choose(rng, SIZES), motion=motion)
    if kind == "size":
        return replace(look, size=_other(rng, SIZES, look.size), motion=motion)
    size = look.size if rng.random() < 0.75 else _other(rng, SIZES, look.size)
    if kind == "place":
        return replace(look, size=size, motion=look.motion if rng.random() < 0.5 else motion)
    return replace(look, size=size, motion=_other(rng, motions, look.motion))


def _distractor(rng: np.random.Generator, looks: list[Look], motions: tuple[str, ...]) -> Look:
    """An object that shares the colour or the shape of another, but repeats no pair of both."""
    taken = {(look.shape, look.colour) for look in looks}
    model = looks[int(rng.integers(len(looks)))]
    same_shape = [(model.shape, colour) for colour in COLOURS if (model.shape, colour) not in taken]
    same_colour = [(shape, model.colour) for shape in SHAPES if (shape, model.colour) not in taken]
    options = same_shape if rng.random() < 0.5 else same_colour
    shape, colour = options[int(rng.integers(len(options)))]
    return Look(shape, colour, _choose(rng, SIZES), _choose(rng, motions))


def _choose(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def _other(rng: np.random.Generator, words, word: str) -> str:
    return _choose(rng, tuple(other for other in words if other != word))
