"""The words of the generated benchmark: reading them, and which objects of a scene written by hand they fit."""

import numpy as np
import pytest

from datasets.shapes_expressions import write_sentence
from datasets.shapes_language import (
    ATTRIBUTES,
    Description,
    has_look_alike,
    is_expression_of_kind,
    matching_objects,
    parse,
)
from datasets.shapes_scene import COLOURS, MOTIONS, SHAPES, SIZES, Look, Scene, VideoSettings

LOOKS = (
    Look("circle", "red", "big", "left"),
    Look("circle", "red", "small", "still"),
    Look("circle", "blue", "small", "still"),
    Look("star", "red", "small", "up"),
)
CENTRES = ((60.0, 40.0), (200.0, 60.0), (120.0, 130.0), (40.0, 120.0))


def hand_made_scene() -> tuple[Scene, np.ndarray]:
    """Three frames of 160 x 240 with the objects of LOOKS, all visible; the positions hardly change."""
    settings = VideoSettings(num_frames=3)
    steps = {"left": (-3, 0), "up": (0, -3), "still": (0, 0)}
    velocities = np.array([steps[look.motion] for look in LOOKS])
    centres = np.array(CENTRES) + np.arange(3)[:, None, None] * velocities
    shape = centres.shape[:2]
    scene = Scene(settings, ("size", "motion"), LOOKS, np.full(4, 30.0), centres, np.zeros(shape), (0, 1, 2, 3))
    return scene, np.ones(shape, dtype=bool)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("the red circle", Description(shape="circle", colour="red")),
        ("a star that is blue", Description(shape="star", colour="blue")),
        ("the smallest green one", Description(size="small", colour="green")),
        ("a large object on the left side", Description(size="big", place="left")),
        ("the leftmost cyan ring", Description(shape="ring", colour="cyan", place="left")),
        ("the cross in the lower part", Description(shape="cross", place="bottom")),
        ("the highest shape", Description(place="top")),
        ("the purple square moving left", Description(shape="square", colour="purple", motion="left")),
        ("the ring at the right that goes to the left", Description(shape="ring", place="right", motion="left")),
        ("the triangle heading upwards", Description(shape="triangle", motion="up")),
        ("the little star that does not move", Description(shape="star", size="small", motion="still")),
        ("an orange one that stays in place", Description(colour="orange", motion="still")),
    ],
)
def test_parse_reads_what_is_said(sentence, expected):
    assert parse(sentence) == expected


def test_parse_refuses_a_contradiction():
    with pytest.raises(ValueError, match="colour"):
        parse("the red blue circle")


def test_every_sentence_is_read_back_as_it_was_meant():
    rng = np.random.default_rng(0)
    words = {"shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES, "motion": MOTIONS}
    words["place"] = ("left", "right", "top", "bottom")
    vocabulary = set()
    for _ in range(4000):
        said = {name: str(rng.choice(words[name])) for name in ATTRIBUTES if rng.random() < 0.5}
        sentence = write_sentence(rng, Description(**said), superlative=bool(rng.random() < 0.5))
        assert parse(sentence) == Description(**said), sentence
        assert sentence.split()[0] in ("the", "a", "an")
        vocabulary.update(sentence.split())
    assert len(vocabulary) < 100


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("the object", [1, 2, 3, 4]),
        ("the circle", [1, 2, 3]),
        ("the red one", [1, 2, 4]),
        ("the red circle", [1, 2]),
        ("the small red circle", [2]),
        ("the red circle standing still", [2]),
        ("the circle moving left", [1]),
        ("the red circle on the left", [1]),
        ("the red circle on the right", [2]),
        ("the circle at the bottom", [3]),
        ("the red one on the left", []),  # the circle and the star are too close in x
        ("the star at the bottom", [4]),
        ("the star at the top", []),
        ("the green circle", []),
    ],
)
def test_matching_objects(sentence, expected):
    scene, visible = hand_made_scene()
    assert matching_objects(parse(sentence), scene, visible) == expected


def test_a_place_must_hold_in_every_frame_that_shows_both():
    scene, visible = hand_made_scene()
    description = parse("the red circle on the left")
    scene.centres[2, 1, 0] = 80.0  # in the last frame the two are almost one above the other
    assert matching_objects(description, scene, visible) == []
    visible[2, 0] = False
    assert matching_objects(description, scene, visible) == [1]


@pytest.mark.parametrize(
    ("sentence", "kind", "expected"),
    [
        ("the blue circle", "colour", True),
        ("the red star", "shape", True),
        ("the small red circle", "size", True),
        ("the red circle moving left", "motion", True),
        ("the red circle on the right", "place", True),
        ("the small red circle moving left", "motion", False),  # fits nothing
        ("the big circle", "colour", False),  # says no colour
        ("the small red circle standing still", "size", False),  # motion would do instead of size
        ("the big red circle on the left", "size", False),  # place would do instead
        ("the small red circle", "colour", False),  # needs the size as well, which is harder
        ("the red star moving up", "motion", False),  # needs no motion
    ],
)
def test_the_kind_is_the_attribute_that_is_needed(sentence, kind, expected):
    scene, visible = hand_made_scene()
    description = parse(sentence)
    matches = matching_objects(description, scene, visible)
    object_id = matches[0] if matches else 1
    found = is_expression_of_kind(
        kind, object_id, description, scene.looks, lambda said: matching_objects(said, scene, visible)
    )
    assert found is expected


def test_look_alikes():
    assert has_look_alike("size", 1, LOOKS)
    assert has_look_alike("motion", 1, LOOKS)
    assert has_look_alike("colour", 3, LOOKS)
    assert has_look_alike("shape", 4, LOOKS)
    assert not has_look_alike("colour", 4, LOOKS)
    assert not has_look_alike("shape", 3, LOOKS)
    assert not has_look_alike("place", 3, LOOKS)
