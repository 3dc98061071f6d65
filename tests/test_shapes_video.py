"""Whole generated videos, checked against what their pixels show rather than against the symbols they came from."""

import colorsys
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from datasets.shapes_files import video_generator
from datasets.shapes_language import is_expression_of_kind, matching_objects, parse
from datasets.shapes_render import full_areas, rasterise
from datasets.shapes_scene import COLOURS, KINDS, VideoSettings
from datasets.shapes_video import GeneratedVideo, generate_video

NUM_VIDEOS = 45
NUM_IMAGES = 80


def generate(num_videos: int, seed: int = 0, **settings) -> list[GeneratedVideo]:
    video_settings = VideoSettings(**settings)
    return [generate_video(video_generator(seed, "train", index), video_settings, index) for index in range(num_videos)]


@pytest.fixture(scope="module")
def videos() -> list[GeneratedVideo]:
    return generate(NUM_VIDEOS, num_frames=10)


@pytest.fixture(scope="module")
def images() -> list[GeneratedVideo]:
    return generate(NUM_IMAGES, num_frames=1)


@dataclass
class Seen:
    """What the pixels show of one object: (T,) whole, (T, 2) centroid and (T, 2) extent in (x, y), and the colour."""

    whole: np.ndarray
    centroids: np.ndarray
    extents: np.ndarray
    colour: str

    def motion(self) -> str | None:
        """Direction between the first and the last frame that show all of the object; None if they are too close."""
        times = np.flatnonzero(self.whole)
        if len(times) < 2 or times[-1] - times[0] < 4:
            return None
        step = (self.centroids[times[-1]] - self.centroids[times[0]]) / (times[-1] - times[0])
        if np.abs(step).max() < 1:
            return "still"
        axis = int(np.argmax(np.abs(step)))
        return (("left", "right"), ("up", "down"))[axis][int(step[axis] > 0)]


def look_at(video: GeneratedVideo) -> list[Seen]:
    """Measures every object in the frames and masks."""
    num_objects = len(video.scene.looks)
    areas = full_areas(rasterise(video.scene))
    num_frames, height, width = video.masks.shape
    seen = []
    for index in range(num_objects):
        whole = np.zeros(num_frames, dtype=bool)
        centroids, extents = np.full((2, num_frames, 2), np.nan)
        for time, mask in enumerate(video.masks == index + 1):
            rows, columns = np.nonzero(mask)
            if not len(rows):
                continue
            inside = rows.min() > 0 and columns.min() > 0 and rows.max() < height - 1 and columns.max() < width - 1
            whole[time] = inside and len(rows) >= 0.97 * areas[time, index]
            centroids[time] = columns.mean(), rows.mean()
            extents[time] = np.ptp(columns) + 1, np.ptp(rows) + 1
        pixels = video.frames[video.masks == index + 1] / 255
        hue = 360 * colorsys.rgb_to_hsv(*np.median(pixels, axis=0))[0]
        distances = {name: abs((hue - other + 180) % 360 - 180) for name, (other, _, _) in COLOURS.items()}
        seen.append(Seen(whole, centroids, extents, min(distances, key=distances.get)))
    return seen


def test_every_expression_fits_its_object_alone_and_needs_its_kind(videos, images):
    for video in videos + images:
        for expression in video.expressions:
            said = parse(expression.sentence)
            assert matching_objects(said, video.scene, video.visible) == [expression.object_id], expression
            assert expression.kind in said.attributes
            assert is_expression_of_kind(
                expression.kind,
                expression.object_id,
                said,
                video.scene.looks,
                lambda description, video=video: matching_objects(description, video.scene, video.visible),
            )


def test_every_kind_has_its_distractor(videos, images):
    for video in videos + images:
        for expression in video.expressions:
            own = video.scene.looks[expression.object_id - 1]
            others = [look for index, look in enumerate(video.scene.looks) if index != expression.object_id - 1]
            alike = {
                "colour": [look for look in others if look.shape == own.shape and look.colour != own.colour],
                "shape": [look for look in others if look.colour == own.colour and look.shape != own.shape],
            }
            twins = [look for look in others if (look.shape, look.colour) == (own.shape, own.colour)]
            alike["size"] = [look for look in twins if look.size != own.size]
            alike["motion"] = [look for look in twins if look.motion != own.motion]
            alike["place"] = twins
            assert alike[expression.kind], (expression, video.scene.looks)


def test_kinds_are_balanced(videos, images):
    for sample, kinds in ((videos, KINDS), (images, KINDS[:-1])):
        counts = Counter(expression.kind for video in sample for expression in video.expressions)
        assert set(counts) == set(kinds)
        fair = sum(counts.values()) / len(kinds)
        assert all(0.7 * fair < count < 1.4 * fair for count in counts.values()), counts


def test_videos_have_three_to_five_objects_and_expressions_for_several(videos, images):
    for video in videos + images:
        assert 3 <= len(video.scene.looks) <= 5
        meant = [expression.object_id for expression in video.expressions]
        assert len(set(meant)) >= 2
        sentences = [expression.sentence for expression in video.expressions]
        assert len(set(sentences)) == len(sentences)
        assert len({expression.kind for expression in video.expressions}) == 2


def test_permuted_captions_mean_other_objects(videos):
    """Swapping the sentences of two meant objects must change the answer, or the words would not matter."""
    for video in videos:
        by_object = {expression.object_id: parse(expression.sentence) for expression in video.expressions}
        ids = list(by_object)
        for own, other in zip(ids, ids[1:] + ids[:1], strict=True):
            assert own not in matching_objects(by_object[other], video.scene, video.visible)


def test_masks_hold_the_ids_of_the_scene(videos, images):
    for video in videos + images:
        assert video.masks.dtype == np.uint8
        assert video.masks.shape == video.frames.shape[:3]
        assert set(np.unique(video.masks)) <= set(range(len(video.scene.looks) + 1))


def test_meant_objects_are_visible_in_half_of_the_frames(videos, images):
    for video in videos + images:
        areas = full_areas(rasterise(video.scene))
        for expression in video.expressions:
            pixels = (video.masks == expression.object_id).sum(axis=(1, 2))
            assert ((pixels >= 60) & (pixels > 0.4 * areas[:, expression.object_id - 1])).mean() >= 0.5


def test_motion_colour_and_size_words_agree_with_the_pixels(videos):
    num_motions = 0
    for video in videos:
        extents = {"small": [], "big": []}
        for look, seen in zip(video.scene.looks, look_at(video), strict=True):
            assert seen.colour == look.colour
            motion = seen.motion()
            if motion is not None:
                num_motions += 1
                assert motion == look.motion
            if seen.whole.any():
                extents[look.size].append(seen.extents[seen.whole].max(axis=1).mean())
        if all(extents.values()):
            assert max(extents["small"]) * 1.2 < min(extents["big"])
    assert num_motions > NUM_VIDEOS


def test_motion_is_clear_and_steady(videos):
    for video in videos:
        for look, track in zip(video.scene.looks, video.scene.centres.swapaxes(0, 1), strict=True):
            steps = np.diff(track, axis=0)
            np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-9)
            speed = np.abs(steps[0]).max()
            assert speed == 0 if look.motion == "still" else 2.4 < speed < 6.1


def test_place_words_agree_with_the_pixels(videos, images):
    signs = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
    num_checked = 0
    for video in videos + images:
        seen = look_at(video)
        for expression in video.expressions:
            said = parse(expression.sentence)
            if said.place is None:
                continue
            axis, sign = signs[said.place]
            rivals = matching_objects(said.without("place"), video.scene, video.visible)
            own = seen[expression.object_id - 1]
            for rival in set(rivals) - {expression.object_id}:
                both = own.whole & seen[rival - 1].whole
                gaps = sign * (own.centroids - seen[rival - 1].centroids)[both, axis]
                assert (gaps > 0.15 * (video.scene.settings.width, video.scene.settings.height)[axis]).all()
                num_checked += len(gaps)
    assert num_checked > NUM_VIDEOS


def test_objects_hide_one_another_leave_and_come_in(videos):
    hiding = leaving = coming = 0
    for video in videos:
        shown = np.stack([np.bincount(mask.ravel(), minlength=len(video.scene.looks) + 1)[1:] for mask in video.masks])
        margin = 0.7 * video.scene.sides[:, None]
        size_xy = (video.scene.settings.width, video.scene.settings.height)
        inside = ((video.scene.centres > margin) & (video.scene.centres < size_xy - margin)).all(axis=-1)
        hiding += bool((inside & (shown < 0.9 * full_areas(rasterise(video.scene)))).any())
        visible = video.visible
        leaving += bool((visible[0] & ~visible[-1]).any())
        coming += bool((~visible[0] & visible[-1]).any())
    assert hiding > 0.3 * len(videos)
    assert leaving > 0.05 * len(videos)
    assert coming > 0.05 * len(videos)


def test_single_images_say_nothing_of_motion(images):
    for video in images:
        assert video.frames.shape[0] == 1
        for expression in video.expressions:
            assert parse(expression.sentence).motion is None


@pytest.mark.parametrize(
    "settings",
    [
        {"num_frames": 2},
        {"num_frames": 40},
        {"num_frames": 6, "height": 64, "width": 96},
        {"num_frames": 3, "height": 240, "width": 136},
        {"num_frames": 1, "height": 64, "width": 64},
    ],
)
def test_other_lengths_and_sizes(settings):
    for video in generate(5, seed=3, **settings):
        expected = tuple(settings.get(name, default) for name, default in (("height", 160), ("width", 240)))
        assert video.frames.shape == (settings["num_frames"], *expected, 3)
        for expression in video.expressions:
            assert matching_objects(parse(expression.sentence), video.scene, video.visible) == [expression.object_id]


def test_all_videos_differ():
    starts = {
        video_generator(seed, split, index).random()
        for seed in (0, 1)
        for split in ("train", "valid")
        for index in range(3)
    }
    assert len(starts) == 12


def test_a_seed_fixes_the_video_and_another_changes_it():
    first, again, other = (
        generate(1, num_frames=3)[0],
        generate(1, num_frames=3)[0],
        generate(1, seed=1, num_frames=3)[0],
    )
    np.testing.assert_array_equal(first.frames, again.frames)
    assert first.expressions == again.expressions
    assert not np.array_equal(first.frames, other.frames)


@pytest.mark.parametrize(("settings", "name"), [({"num_frames": 0}, "num_frames"), ({"height": 63}, "height")])
def test_impossible_settings_are_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        VideoSettings(**settings)
