"""One generated video, whatever the layout it is written in: frames, masks and expressions from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.shapes_expressions import Expression, write_expressions
from datasets.shapes_render import full_areas, rasterise, render_frames, render_masks
from datasets.shapes_scene import Scene, VideoSettings, choose_kinds, compose, draw_sides
from datasets.shapes_tracks import draw_angles, draw_tracks

_MAX_ATTEMPTS = 2000
_MIN_VISIBLE_SHARE = 0.45  # of an object's own area, in at least half of the frames


@dataclass(frozen=True)
class GeneratedVideo:
    """A video with its truth.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        masks: (T, H, W) uint8, object ids from 1, 0 for background.
        scene: the objects in symbols.
        expressions: sentences that each single out one object; at least two objects have one.
    """

    frames: np.ndarray
    masks: np.ndarray
    scene: Scene
    expressions: list[Expression]

    @property
    def visible(self) -> np.ndarray:
        """(T, O) whether each frame shows any of each object."""
        return visible_objects(self.masks, len(self.scene.looks))


def generate_video(rng: np.random.Generator, settings: VideoSettings, index: int) -> GeneratedVideo:
    """Makes a video; all that is random comes from `rng`. `index` only turns the kinds of expression round."""
    kinds = choose_kinds(rng, index, settings.num_frames)
    for _ in range(_MAX_ATTEMPTS):
        scene = _draw_scene(rng, kinds, settings)
        if scene is None:
            continue
        patches = rasterise(scene)
        masks = render_masks(scene, patches)
        if not _visible_enough(masks, full_areas(patches)):
            continue
        expressions = write_expressions(rng, scene, visible_objects(masks, len(scene.looks)))
        if len({expression.object_id for expression in expressions}) >= 2:
            return GeneratedVideo(render_frames(rng, scene, patches), masks, scene, expressions)
    raise RuntimeError(f"no scene of the kinds {kinds} fits {settings}; try larger frames")


def visible_objects(masks: np.ndarray, num_objects: int) -> np.ndarray:
    """(T, O) whether each of the frames (T, H, W) shows any pixel of each object."""
    return _areas(masks, num_objects) > 0


def _draw_scene(rng: np.random.Generator, kinds: tuple[str, ...], settings: VideoSettings) -> Scene | None:
    composition = compose(rng, kinds, settings.num_frames)
    sides = draw_sides(rng, composition.looks, settings)
    centres = draw_tracks(rng, composition, sides, settings)
    if centres is None:
        return None
    num_objects = len(composition.looks)
    angles = draw_angles(rng, num_objects, settings.num_frames)
    depth_order = tuple(rng.permutation(num_objects).tolist())
    return Scene(settings, kinds, composition.looks, sides, centres, angles, depth_order)


def _visible_enough(masks: np.ndarray, areas: np.ndarray) -> bool:
    """Whether each object shows a good part of itself in at least half of the frames."""
    shown = _areas(masks, areas.shape[1]) >= _MIN_VISIBLE_SHARE * areas
    return bool((shown.mean(axis=0) >= 0.5).all())


def _areas(masks: np.ndarray, num_objects: int) -> np.ndarray:
    return np.stack([np.bincount(mask.ravel(), minlength=num_objects + 1)[1:] for mask in masks])
