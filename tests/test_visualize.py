from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import contact_sheet
from tests.small_ytvos import ids, write_tree
from util.masks import write_mask
from util.visualize import (
    Instance,
    draw_instances,
    make_grid,
    palette,
    with_caption,
    write_gif,
    write_image,
)

RED = (255, 0, 0)


def blank(height: int = 40, width: int = 60, value: int = 100) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def square_mask() -> np.ndarray:
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:30, 20:50] = True
    return mask


def around(mask: np.ndarray, distance: int) -> np.ndarray:
    """(H, W) bool, where the mask is no further than `distance` steps along rows and columns."""
    ys, xs = np.nonzero(mask)
    y, x = np.indices(mask.shape)
    return (np.abs(y[..., None] - ys) + np.abs(x[..., None] - xs)).min(-1) <= distance


@pytest.mark.parametrize("colour", [RED, (0, 0, 0), (255, 255, 255), (128, 128, 128)])
def test_a_mask_of_the_colour_of_its_object_is_seen(colour: tuple[int, int, int]) -> None:
    frame, mask = np.full((40, 60, 3), colour, np.uint8), square_mask()
    image = draw_instances(frame, [Instance(mask, colour)])
    near, far = around(mask, 1), around(mask, 2)
    assert (image[near & ~mask] == 255).all()
    assert (image[far & ~near] == 0).all()
    assert (image[~far] == frame[~far]).all()


def test_lines_around_a_mask_end_with_the_frame() -> None:
    mask = np.ones((40, 60), bool)
    mask[20:22, 30:32] = False
    assert draw_instances(blank(), [Instance(mask, RED)])[20, 30].tolist() == [255, 255, 255]
    large = draw_instances(blank(), [Instance(square_mask(), RED)], height=320)
    assert large[75:80, 280].tolist() == [[0] * 3, [0] * 3, [255] * 3, [255] * 3, list(RED)]


def test_a_mask_is_tinted_outlined_and_nothing_else_changes() -> None:
    frame, mask = blank(), square_mask()
    image = draw_instances(frame, [Instance(mask, RED)], opacity=0.5)
    assert image.shape == frame.shape and image.dtype == np.uint8
    assert image[20, 35].tolist() == [178, 50, 50]  # half red, half grey
    assert image[10, 20].tolist() == [255, 0, 0]
    assert (image[~around(mask, 2)] == 100).all()
    assert (frame == 100).all()  # the input is left alone


def test_an_empty_mask_and_no_instance_leave_the_frame() -> None:
    frame = blank()
    assert np.array_equal(draw_instances(frame, []), frame)
    assert np.array_equal(draw_instances(frame, [Instance(np.zeros((40, 60), dtype=bool), RED)]), frame)


def test_a_box_covers_its_first_and_last_pixel() -> None:
    nothing = np.zeros((40, 60), dtype=bool)
    image = draw_instances(blank(), [Instance(nothing, RED, box=(20, 10, 50, 30))])
    drawn = (image != 100).any(-1)
    assert drawn[10, 20] and drawn[29, 49] and drawn[10, 49]
    assert not drawn[30].any() and not drawn[:, 50].any() and not drawn[20, 35]


def test_frames_are_enlarged_with_their_masks_and_boxes() -> None:
    image = draw_instances(blank(), [Instance(square_mask(), RED, box=(20, 10, 50, 30))], height=120)
    assert image.shape == (120, 180, 3)
    assert image[60, 105, 0] > 150 and image[100, 105, 0] == 100
    assert image[30, 60].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 2560), (2560, 1), (1, 1), (2, 9000)])
def test_flat_frames_stay_within_limits(size: tuple[int, int]) -> None:
    frame, mask = np.zeros((*size, 3), np.uint8), np.ones(size, bool)
    drawn = draw_instances(frame, [Instance(mask, (255, 0, 0), (0, 0, size[1], size[0]), "0.50")], height=480)
    assert max(drawn.shape) <= max(4096, *size) and min(drawn.shape) >= 1
    assert drawn.shape[0] <= 480 or size[0] > 480


@pytest.mark.parametrize("box", [(20, 10, 50, 30), (-5, -5, 3, 3), (55, 35, 80, 80), (0, 0, 0, 0)])
def test_labels_stay_within_the_frame(box: tuple[int, ...]) -> None:
    nothing = np.zeros((40, 60), dtype=bool)
    plain = draw_instances(blank(), [Instance(nothing, RED, box=box)])
    labelled = draw_instances(blank(), [Instance(nothing, RED, box=box, label="0.97")])
    assert (plain != labelled).any(-1).sum() > 30


def test_a_caption_is_wrapped_above_the_image() -> None:
    image = blank(width=120)
    short = with_caption(image, [("a dog", RED)])
    long = with_caption(image, [("a dog that runs after a ball on the wide green lawn", RED), ("a cat", RED)])
    assert np.array_equal(short[-40:], image) and np.array_equal(long[-40:], image)
    assert 40 < short.shape[0] < long.shape[0]
    assert short.shape[1] == long.shape[1] == 120
    assert (short[:-40] < 200).any()  # there is ink


def test_a_grid_places_every_image() -> None:
    sheet = make_grid([[blank(value=1), blank(value=2)], [blank(20, 30, value=3)]], gap=5)
    assert sheet.shape == (5 + 40 + 5 + 20 + 5, 5 + 60 + 5 + 60 + 5, 3)
    assert [(sheet == value).all(-1).sum() for value in (1, 2, 3)] == [2400, 2400, 600]
    assert (sheet[5:45, 70:130] == 2).all() and (sheet[50:70, 5:35] == 3).all()
    with pytest.raises(ValueError, match="at least one"):
        make_grid([[]])


def test_neighbouring_colours_differ() -> None:
    colours = np.array([palette(i) for i in range(8)], dtype=int)
    distances = np.abs(colours[:, None] - colours[None]).sum(-1)[~np.eye(8, dtype=bool)]
    assert distances.min() > 60


def test_files(tmp_path: Path) -> None:
    frames = [blank(value=value) for value in (50, 150, 250)]
    write_gif(tmp_path / "a.gif", frames, frames_per_second=4)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"], gif.info["loop"]) == (3, (60, 40), 250, 0)
        gif.seek(2)
        assert abs(int(np.asarray(gif.convert("RGB"))[0, 0, 0]) - 250) < 6
    with pytest.raises(ValueError, match=r"b\.gif.*one size"):
        write_gif(tmp_path / "b.gif", [blank(), blank(20)])
    with pytest.raises(ValueError, match="one size"):
        write_gif(tmp_path / "b.gif", [])
    write_image(tmp_path / "a.png", frames[0])
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), frames[0])
    write_image(tmp_path / "a.jpg", frames[0])
    assert (tmp_path / "a.jpg").read_bytes()[:2] == b"\xff\xd8"
    with pytest.raises(ValueError, match=r"a\.txt: pictures are written as \.png or \.jpg"):
        write_image(tmp_path / "a.txt", frames[0])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_tree(tmp_path / "data", "valid", num_videos=2, num_frames=6)
    for video in ("video0", "video1"):
        for expression_id in ("0", "1"):
            folder = tmp_path / "Annotations" / video / expression_id
            folder.mkdir(parents=True)
            for t in range(6):
                write_mask(folder / f"{5 * t:05}.png", ids(t, 6, (48, 64)) == int(expression_id) + 1)
    return tmp_path


def test_contact_sheet_and_gif_of_a_result(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--results", str(tree / "Annotations"), "--data_root", str(tree / "data")]
    files = ["--output", str(tree / "pictures" / "sheet.png"), "--gif", str(tree / "pictures" / "one.gif")]
    contact_sheet.main([*places, *files, "--num_frames", "3", "--height", "96"])
    assert capsys.readouterr().out.split() == [files[1], files[3]]
    with Image.open(files[1]) as sheet:
        assert sheet.width == 3 * 128 + 4 * 4
        assert sheet.height > 4 * 96  # two expressions of two videos
    with Image.open(files[3]) as gif:
        assert gif.n_frames == 6
    (tree / "Annotations" / "video0" / "1" / "00025.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"video0/1/00025\.png"):
        contact_sheet.main([*places, *files])
    contact_sheet.main([*places, *files, "--videos", "video1"])
    with pytest.raises(ValueError, match="video9"):
        contact_sheet.main([*places, *files, "--videos", "video9"])
