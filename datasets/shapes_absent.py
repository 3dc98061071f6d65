"""Sentences of the generated benchmark whose object is not in the video: the right answer to them is an empty mask."""

from __future__ import annotations

import numpy as np

from datasets.shapes_expressions import Expression, write_sentence
from datasets.shapes_language import Description
from datasets.shapes_scene import COLOURS, SHAPES, SIZES, Scene

NO_OBJECT = 0  # as the object of an expression; in the annotations it is the background
SIMILAR, STRANGE = "absent_similar", "absent_strange"  # kinds


def write_absent_expressions(rng: np.random.Generator, scene: Scene, count: int) -> list[Expression]:
    """Different sentences that name a shape and a colour, at times a size, which no object of the scene has together.

    Kinds in turn: `absent_similar`, an object of the scene has the shape and another one the colour, so that both
    words must be read; `absent_strange`, no object has either.

    Args:
        rng: chooses.
        scene: the video.
        count: of sentences; there are fewer where a kind has no more.
    """
    shapes, colours = {look.shape for look in scene.looks}, {look.colour for look in scene.looks}
    pairs = {(look.shape, look.colour) for look in scene.looks}
    free = {
        SIMILAR: [(s, c) for s in SHAPES for c in COLOURS if s in shapes and c in colours and (s, c) not in pairs],
        STRANGE: [(s, c) for s in SHAPES for c in COLOURS if s not in shapes and c not in colours],
    }
    order = {kind: [options[i] for i in rng.permutation(len(options))] for kind, options in free.items()}
    expressions = []
    for i in range(count):
        kind = (SIMILAR, STRANGE)[i % 2]
        if order[kind]:
            shape, colour = order[kind].pop()
            size = SIZES[int(rng.integers(len(SIZES)))] if rng.random() < 0.25 else None
            sentence = write_sentence(rng, Description(shape=shape, colour=colour, size=size), superlative=False)
            expressions.append(Expression(sentence, NO_OBJECT, kind))
    return expressions
