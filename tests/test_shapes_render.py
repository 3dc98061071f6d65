"""Drawing the shapes of the generated benchmark: areas, occlusion, borders and colours."""

import colorsys

import cv2
import numpy as np
import pytest

from datasets.shapes_render import draw_background, draw_texture, full_areas, rasterise, render_frames, render_masks
from datasets.shapes_scene import COLOURS, SHAPES, Look, Scene, VideoSettings


def scene_of(shapes, sides, centres, angles=None, order=None, colours=None) -> Scene:
    """One frame of 160 x 240."""
    looks = tuple(
        Look(shape, colour, "big", "still")
        for shape, colour in zip(shapes, colours or ["red"] * len(shapes), strict=True)
    )
    angles = np.zeros(len(shapes)) if angles is None else np.array(angles)
    order = tuple(range(len(shapes))) if order is None else order
    settings = VideoSettings(num_frames=1)
    return Scene(settings, (), looks, np.array(sides, float), np.array([centres], float), angles[None], order)


def mask_of(scene: Scene) -> np.ndarray:
    return render_masks(scene, rasterise(scene))[0]


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", np.pi / 4),
        ("ring", np.pi / 4 * (1 - 0.52**2)),
        ("square", 0.81),
        ("triangle", 0.475),
        ("cross", 2 * 0.34 - 0.34**2),
        ("star", 5 * 0.55 * 0.24 * np.sin(np.pi / 5)),
    ],
)
@pytest.mark.parametrize("angle", [0.0, 11.0])
def test_masks_have_the_area_and_centre_of_the_shape(shape, area, angle):
    side = 60.0
    mask = mask_of(scene_of([shape], [side], [(100.3, 80.7)], [angle])) == 1
    assert mask.sum() == pytest.approx(area * side**2, rel=0.05)
    coverage = rasterise(scene_of([shape], [side], [(100.3, 80.7)], [angle]))[0][0].coverage
    assert coverage.sum() == pytest.approx(area * side**2, rel=0.03)
    if shape in ("circle", "ring", "square", "cross"):
        rows, columns = np.nonzero(mask)
        assert columns.mean() + 0.5 == pytest.approx(100.3, abs=0.3)
        assert rows.mean() + 0.5 == pytest.approx(80.7, abs=0.3)


def test_the_front_object_hides_the_one_behind_and_a_ring_shows_through():
    shapes, sides, centres = ["square", "ring"], [40, 60], [(100, 80), (100, 80)]
    front_ring = mask_of(scene_of(shapes, sides, centres, order=(0, 1)))
    front_square = mask_of(scene_of(shapes, sides, centres, order=(1, 0)))
    assert front_ring[80, 100] == front_square[80, 100] == 1  # through the hole
    assert front_ring[80, 100 + 17] == 2
    assert front_square[80, 100 + 17] == 1
    assert (front_square == 1).sum() == (40 * 0.9) ** 2


@pytest.mark.parametrize("centre", [(0, 0), (240, 160), (-10, 80), (120, 168), (-100, 80), (500, 500), (120, -300)])
@pytest.mark.parametrize("shape", SHAPES)
def test_objects_are_cut_at_the_border(shape, centre):
    scene = scene_of([shape], [50], [centre])
    patches = rasterise(scene)
    mask = render_masks(scene, patches)[0]
    frames = render_frames(np.random.default_rng(0), scene, patches)
    assert frames.shape == (1, 160, 240, 3)
    assert (mask == 1).sum() < full_areas(patches)[0, 0]
    if not (-25 < centre[0] < 265 and -25 < centre[1] < 185):
        assert not mask.any()


def test_the_image_changes_where_the_mask_is_and_nowhere_else():
    scene = scene_of(SHAPES, [50] * 6, [(x, y) for y in (40, 120) for x in (40, 120, 200)], [9.0] * 6)
    empty = scene_of([], [], np.zeros((0, 2)))
    patches = rasterise(scene)
    mask = render_masks(scene, patches)[0] > 0
    with_objects = render_frames(np.random.default_rng(3), scene, patches)[0].astype(int)
    # The background is drawn first, so the same seed gives the same one; only the grain differs.
    background = draw_background(np.random.default_rng(3), empty.settings)
    difference = np.abs(with_objects - background).max(axis=-1)
    assert (difference[mask] > 25).mean() > 0.97
    far = np.ones_like(mask)
    far[1:-1, 1:-1] = ~np.lib.stride_tricks.sliding_window_view(mask, (3, 3)).any(axis=(-1, -2))
    far[[0, -1]] = far[:, [0, -1]] = False
    assert (difference[far] > 25).mean() < 0.001


def test_textures_keep_their_colour_and_backgrounds_are_muted():
    rng = np.random.default_rng(0)
    hues = {name: hue for name, (hue, _, _) in COLOURS.items()}
    for colour in COLOURS:
        for _ in range(20):
            red, green, blue = draw_texture(rng, colour, 30.0).mean(axis=(0, 1)) / 255
            hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
            distances = {name: abs((360 * hue - other + 180) % 360 - 180) for name, other in hues.items()}
            assert min(distances, key=distances.get) == colour
            assert saturation > 0.45
    for _ in range(20):
        image = draw_background(rng, VideoSettings())
        assert np.median((image.max(axis=-1) - image.min(axis=-1)) / 255) < 0.3


@pytest.mark.parametrize("seed", range(4))
def test_texture_turns_and_moves_with_its_object(seed):
    """Stripes that ran upwards run sideways once the object is turned by a quarter, and keep their place in it."""

    def crop(centre: tuple[int, int], angle: float) -> np.ndarray:
        scene = scene_of(["circle"], [60], [centre], [angle])
        frame = render_frames(np.random.default_rng(seed), scene, rasterise(scene))[0]
        frame = cv2.blur(frame, (5, 5)).astype(float)  # without the grain
        return frame[centre[1] - 20 : centre[1] + 20, centre[0] - 20 : centre[0] + 20]

    straight = crop((120, 80), 0.0)
    turned = np.rot90(straight, k=-1)  # clockwise, as angles are
    assert np.abs(crop((120, 80), 90.0) - turned).mean() < 3
    assert np.abs(crop((60, 100), 0.0) - straight).mean() < 3


def test_colours_are_well_apart():
    hues = sorted(hue for hue, _, _ in COLOURS.values())
    gaps = np.diff([*hues, hues[0] + 360])
    assert gaps.min() >= 25
