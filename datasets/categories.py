"""Numbers of the categories, for class-discriminative heads."""

from __future__ import annotations

from collections.abc import Iterable

# alphabetical, as in the releases of YouTube-VOS; published class heads are in this order
# fmt: off
YTVOS_CATEGORIES = (
    "airplane", "ape", "bear", "bike", "bird", "boat", "bucket", "bus", "camel", "cat", "cow", "crocodile", "deer",
    "dog", "dolphin", "duck", "eagle", "earless_seal", "elephant", "fish", "fox", "frisbee", "frog", "giant_panda",
    "giraffe", "hand", "hat", "hedgehog", "horse", "knife", "leopard", "lion", "lizard", "monkey", "motorbike",
    "mouse", "others", "owl", "paddle", "parachute", "parrot", "penguin", "person", "plant", "rabbit", "raccoon",
    "sedan", "shark", "sheep", "sign", "skateboard", "snail", "snake", "snowboard", "squirrel", "surfboard",
    "tennis_racket", "tiger", "toilet", "train", "truck", "turtle", "umbrella", "whale", "zebra",
)
# fmt: on


def category_labels(found: Iterable[str], num_classes: int) -> dict[str, int]:
    """{category: label} for the categories of a data set.

    Class-agnostic heads (`num_classes` 1) know the label 0 only. Otherwise a label is the place in the list of
    YouTube-VOS when it has all the categories, else the place among the sorted categories found.

    Raises:
        ValueError: a label is not below `num_classes`.
    """
    names = sorted(set(found))
    if num_classes == 1:
        return dict.fromkeys(names, 0)
    known = YTVOS_CATEGORIES if set(names) <= set(YTVOS_CATEGORIES) else names
    if names and len(known) > num_classes:
        raise ValueError(
            f"model.num_classes is {num_classes} but the data set has {len(known)} categories "
            f"({', '.join(known[:5])} ...); set it to {len(known)}, or to 1 for class-agnostic heads"
        )
    return {name: known.index(name) for name in names}
