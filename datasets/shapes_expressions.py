"""Sentences for the objects of a generated scene: which object, by which attributes, in which words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, combinations, product

import numpy as np

from datasets.shapes_language import PLACES, Description, Fits, has_look_alike, is_expression_of_kind, matching_objects
from datasets.shapes_scene import Scene

_SIZES = {"small": ("small", "little"), "big": ("big", "large")}
_SUPERLATIVES = {"small": ("smallest",), "big": ("biggest", "largest")}
_NOUNS = ("object", "one", "shape")
_PLACES = {
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "top": ("at the top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
}
_PLACE_ADJECTIVES = {"left": "leftmost", "right": "rightmost", "top": "highest", "bottom": "lowest"}
_MOVES = {
    "left": ("left", "to the left"),
    "right": ("right", "to the right"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
}
_RESTS = ("standing still", "that stands still", "that does not move", "that stays in place", "staying in place")


@dataclass(frozen=True)
class Expression:
    """A sentence, the id of the object it means, and the attribute it needs to single it out."""

    sentence: str
    object_id: int
    kind: str


def write_expressions(rng: np.random.Generator, scene: Scene, visible: np.ndarray) -> list[Expression]:
    """Expressions of the scene's kinds, for two or three objects of each kind.

    Args:
        rng: chooses objects, attributes and words.
        scene: the video.
        visible: (T, O) whether each frame shows any of each object.

    Returns:
        The expressions in random order, or none if one of the kinds cannot tell apart two objects in this scene.
    """
    # The same few descriptions are asked about again and again.
    fits = cache(partial(matching_objects, scene=scene, visible=visible))
    expressions: list[Expression] = []
    for kind in scene.kinds:
        options = {object_id: describe(kind, object_id, scene, fits) for object_id in range(1, len(scene.looks) + 1)}
        candidates = rng.permutation([object_id for object_id, found in options.items() if found]).tolist()
        if len(candidates) < 2:
            return []
        # Objects without an expression first, so that a video's expressions spread over its objects.
        meant = {expression.object_id for expression in expressions}
        candidates.sort(key=meant.__contains__)
        for object_id in candidates[: int(rng.integers(2, 4))]:
            description = _draw_description(rng, kind, options[object_id])
            sentence = write_sentence(rng, description, _superlative_holds(description, object_id, fits))
            if all(sentence != other.sentence for other in expressions):
                expressions.append(Expression(sentence, object_id, kind))
    return [expressions[index] for index in rng.permutation(len(expressions))]


def describe(kind: str, object_id: int, scene: Scene, fits: Fits) -> list[Description]:
    """Descriptions of an object that are of the given kind (see `is_expression_of_kind`).

    They name any of shape and colour, what the kind needs, and at most one attribute more.
    """
    if not has_look_alike(kind, object_id, scene.looks):
        return []
    look = scene.looks[object_id - 1]
    facts = {name: (getattr(look, name),) for name in ("shape", "colour", "size", "motion")} | {"place": PLACES}
    if scene.settings.num_frames == 1:
        del facts["motion"]
    main = [name for name in ("shape", "colour") if name != kind]
    extras = [name for name in facts if name not in (*main, kind)]
    descriptions = []
    for named in chain.from_iterable(combinations(main, count) for count in range(len(main) + 1)):
        for extra in ((), *((name,) for name in extras)):
            said = (*named, kind, *extra)
            descriptions += [
                Description(**dict(zip(said, values, strict=True))) for values in product(*map(facts.get, said))
            ]
    return [
        description
        for description in descriptions
        if is_expression_of_kind(kind, object_id, description, scene.looks, fits)
    ]


def write_sentence(rng: np.random.Generator, description: Description, superlative: bool) -> str:
    """Puts a description into words: "the small red circle on the left".

    Args:
        rng: chooses among the ways to say the same.
        description: what to say.
        superlative: whether the object is also the smallest or biggest of those that share its other attributes.
    """
    noun = description.shape or _choose(rng, _NOUNS)
    words, clauses = [], []
    if description.place and rng.random() < 0.2:
        words.append(_PLACE_ADJECTIVES[description.place])
    elif description.place:
        clauses.append(_choose(rng, _PLACES[description.place]))
    if description.size:
        choices = _SUPERLATIVES if superlative and not words and rng.random() < 0.3 else _SIZES
        words.append(_choose(rng, choices[description.size]))
    unique = bool(words) and words[0].endswith("st")
    if description.colour and not clauses and not description.motion and rng.random() < 0.12:
        clauses.append(f"that is {description.colour}")
    elif description.colour:
        words.append(description.colour)
    if description.motion:
        clauses.append(_motion_clause(rng, description.motion))
    article = "the" if unique or rng.random() < 0.8 else "a"
    phrase = " ".join([*words, noun, *clauses])
    return f"an {phrase}" if article == "a" and phrase[0] in "aeiou" else f"{article} {phrase}"


def _draw_description(rng: np.random.Generator, kind: str, options: list[Description]) -> Description:
    """Prefers the shape and the colour to be named, and little else beyond what is needed."""
    weights = []
    for description in options:
        said = set(description.attributes)
        extra = len(said - {"shape", "colour", kind})
        missing = len({"shape", "colour"} - said)
        weights.append(0.3**extra * 0.25**missing)
    return options[int(rng.choice(len(options), p=np.array(weights) / sum(weights)))]


def _superlative_holds(description: Description, object_id: int, fits: Fits) -> bool:
    """Whether "smallest" or "biggest" is true of the object among all that share its shape and colour as said.

    Words for place and motion narrow that circle no further: "the smallest circle on the left" would be unclear.
    """
    rivals = fits(description.without("size", "place", "motion"))
    alike = fits(description.without("place", "motion"))
    return description.size is not None and alike == [object_id] and len(rivals) > 1


def _motion_clause(rng: np.random.Generator, motion: str) -> str:
    if motion == "still":
        return _choose(rng, _RESTS)
    verb = _choose(rng, ("moving", "going", "heading", "that moves", "that goes"))
    return f"{verb} {_choose(rng, _MOVES[motion])}"


def _choose(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
