"""What the words of the generated benchmark mean: descriptions, the objects they fit, and reading a sentence back.

`parse` and `matching_objects` together say which objects a sentence fits, knowing nothing of how it was made.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from datasets.shapes_scene import COLOURS, MOTIONS, SHAPES, Look, Scene
from datasets.shapes_tracks import PLACE_MARGIN

ATTRIBUTES = ("shape", "colour", "size", "place", "motion")
PLACES = ("left", "right", "top", "bottom")

Fits = Callable[["Description"], list[int]]

_SIZE_WORDS = {
    **dict.fromkeys(("small", "little", "smaller", "smallest"), "small"),
    **dict.fromkeys(("big", "large", "bigger", "biggest", "largest"), "big"),
}
_PLACE_PHRASES = {
    r"(?:on|at) the (left|right|top|bottom)": None,
    r"in the (upper|lower) part": {"upper": "top", "lower": "bottom"},
    r"(leftmost|rightmost)": {"leftmost": "left", "rightmost": "right"},
    r"(highest|lowest)": {"highest": "top", "lowest": "bottom"},
}
_MOTION_PHRASE = r"\b(?:mov|go|head)(?:es|ing|s)(?: to the)? (?P<direction>left|right|up|upwards|down|downwards)\b"
_STILL_PHRASE = r"\b(?:still|not move|stays?|staying)\b"


@dataclass(frozen=True)
class Description:
    """What a sentence says of its object; None where it is silent. `place` is one of PLACES, the rest as in Look."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None
    motion: str | None = None

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes that are said."""
        return tuple(name for name in ATTRIBUTES if getattr(self, name) is not None)

    def without(self, *attributes: str) -> Description:
        """The same description, silent on some attributes."""
        kept = {name: getattr(self, name) for name in self.attributes if name not in attributes}
        return Description(**kept)


def matching_objects(description: Description, scene: Scene, visible: np.ndarray) -> list[int]:
    """Ids of the objects that a description fits.

    Shape, colour, size and motion hold of an object by itself. A place holds against the others that fit so far: in
    all frames that show both, the object is further that way by PLACE_MARGIN of the frame, and on the mean over its
    own frames it is in that half. An object that is alone so far must be in that half in all of its frames.

    Args:
        description: what is said.
        scene: the video.
        visible: (T, O) whether each frame shows any of each object.
    """
    own = [name for name in description.attributes if name != "place"]
    fitting = [
        index
        for index, look in enumerate(scene.looks)
        if all(getattr(look, name) == getattr(description, name) for name in own)
    ]
    if description.place is not None:
        fitting = [index for index in fitting if place_holds(description.place, index, fitting, scene, visible)]
    return [index + 1 for index in fitting]


def place_holds(place: str, index: int, among: list[int], scene: Scene, visible: np.ndarray) -> bool:
    """Whether an object (by index) is at a place among others; the rules are those of `matching_objects`."""
    axis = 0 if place in ("left", "right") else 1
    extent = (scene.settings.width, scene.settings.height)[axis]
    sign = 1 if place in ("right", "bottom") else -1
    towards = sign * (scene.centres[:, :, axis] / extent - 0.5)  # (T, O), positive in that half
    own = towards[visible[:, index], index]
    others = [other for other in among if other != index]
    if not others:
        return bool(len(own) and own.min() > 0.05)
    if not len(own) or own.mean() <= 0:
        return False
    for other in others:
        both = visible[:, index] & visible[:, other]
        if both.sum() * 2 < len(both) or (towards[both, index] - towards[both, other]).min() < PLACE_MARGIN:
            return False
    return True


def has_look_alike(kind: str, object_id: int, looks: tuple[Look, ...]) -> bool:
    """Whether another object makes the attribute of `kind` worth saying: alike, but for that attribute."""
    own = looks[object_id - 1]
    others = [look for index, look in enumerate(looks) if index != object_id - 1]
    if kind == "colour":
        return any(look.shape == own.shape and look.colour != own.colour for look in others)
    if kind == "shape":
        return any(look.colour == own.colour and look.shape != own.shape for look in others)
    alike = [look for look in others if (look.shape, look.colour) == (own.shape, own.colour)]
    if kind == "place":
        return bool(alike)
    return any(getattr(look, kind) != getattr(own, kind) for look in alike)


def is_expression_of_kind(
    kind: str, object_id: int, description: Description, looks: tuple[Look, ...], fits: Fits
) -> bool:
    """Whether a description singles out one object, needs the attribute of `kind` to do so, and nothing harder.

    Harder than colour and shape is size, then place, then motion: without all words harder than its kind the
    description must still fit its object alone (one of kind motion does without place), without those of its kind it
    must fit others too.

    Args:
        kind: one of KINDS.
        object_id: the object that is meant.
        description: what is said.
        looks: of all objects of the scene.
        fits: ids of the objects that a description fits: `matching_objects` in that scene.
    """
    harder = {"size": ("place", "motion"), "place": ("motion",), "motion": ("place",)}
    plain = description.without(*harder.get(kind, ("size", "place", "motion")))
    return (
        fits(description) == [object_id]
        and fits(plain) == [object_id]
        and len(fits(description.without(kind))) > 1
        and has_look_alike(kind, object_id, looks)
    )


def parse(sentence: str) -> Description:
    """Reads a sentence of the generated benchmark back into what it says.

    Raises:
        ValueError: if an attribute is said twice over with different words.
    """
    text = sentence.lower()
    said: dict[str, set[str]] = {name: set() for name in ATTRIBUTES}
    for match in re.finditer(_MOTION_PHRASE, text):
        said["motion"].add(match["direction"].removesuffix("wards"))
    if re.search(_STILL_PHRASE, text):
        said["motion"].add("still")
    text = re.sub(_MOTION_PHRASE, " ", text)  # its "left" is no place
    for pattern, meanings in _PLACE_PHRASES.items():
        for word in re.findall(pattern, text):
            said["place"].add(meanings[word] if meanings else word)
    for word in re.findall(r"\w+", text):
        if word in SHAPES:
            said["shape"].add(word)
        elif word in COLOURS:
            said["colour"].add(word)
        elif word in _SIZE_WORDS:
            said["size"].add(_SIZE_WORDS[word])
    for name, values in said.items():
        if len(values) > 1:
            raise ValueError(f"{sentence!r} says two things about {name}: {sorted(values)}")
    assert said["motion"] <= set(MOTIONS)
    assert said["place"] <= set(PLACES)
    return Description(**{name: values.pop() for name, values in said.items() if values})
