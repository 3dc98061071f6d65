"""The program that writes the generated benchmark, and the Ref-YouTube-VOS layout it writes."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.shapes import LAYOUTS, main
from datasets.shapes_files import SPLITS, new_folder, video_generator
from datasets.shapes_scene import KINDS, SHAPES, VideoSettings
from datasets.shapes_video import generate_video
from datasets.shapes_ytvos import write_ytvos

SETTINGS = VideoSettings(num_frames=4, height=96, width=144)


def write(root: Path, **changes) -> Path:
    options = {"num_videos": 3, "num_valid_videos": 2, "seed": 5, "num_workers": 1, **changes}
    write_ytvos(root, SETTINGS, **options)
    return root


def all_bytes(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("shapes") / "ytvos")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))["videos"]


def test_the_layout_is_that_of_ref_youtube_vos(tree):
    assert sorted(path.name for path in tree.iterdir()) == ["generated.json", "meta_expressions", "train", "valid"]
    for split, num_videos in (("train", 3), ("valid", 2)):
        videos = read(tree / "meta_expressions" / split / "meta_expressions.json")
        objects = read(tree / split / "meta.json")
        assert list(videos) == list(objects) == [f"{split}_{index:05d}" for index in range(num_videos)]
        for name, video in videos.items():
            assert video["frames"] == ["00000", "00005", "00010", "00015"]
            assert list(video["expressions"]) == [str(index) for index in range(len(video["expressions"]))]
            for expression in video["expressions"].values():
                assert set(expression) == {"exp", "obj_id", "kind"}
                assert expression["obj_id"] in objects[name]["objects"]
                assert expression["kind"] in KINDS
            for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
                files = sorted(path.name for path in (tree / split / folder / name).iterdir())
                assert files == [f"{frame}.{suffix}" for frame in video["frames"]]


def test_masks_are_palette_images_and_meta_lists_the_frames_of_each_object(tree):
    for split in ("train", "valid"):
        for name, video in read(tree / split / "meta.json").items():
            shown = {object_id: [] for object_id in video["objects"]}
            for path in sorted((tree / split / "Annotations" / name).iterdir()):
                with Image.open(path) as image:
                    assert image.mode == "P"
                    assert image.size == (144, 96)
                    ids = np.unique(np.array(image))
                    palette = np.array(image.getpalette()).reshape(-1, 3)
                assert len(np.unique(palette[: len(shown) + 1], axis=0)) == len(shown) + 1
                for object_id in ids[ids > 0]:
                    shown[str(object_id)].append(path.stem)
            assert {object_id: entry["frames"] for object_id, entry in video["objects"].items()} == shown
            assert {entry["category"] for entry in video["objects"].values()} <= set(SHAPES)


def test_files_show_the_generated_video(tree):
    video = generate_video(video_generator(5, "valid", 1), SETTINGS, 1)
    for time in range(4):
        image = cv2.imread(str(tree / "valid/JPEGImages/valid_00001" / f"{5 * time:05d}.jpg"))[..., ::-1]
        assert np.abs(image.astype(int) - video.frames[time]).mean() < 8
        with Image.open(tree / "valid/Annotations/valid_00001" / f"{5 * time:05d}.png") as mask:
            np.testing.assert_array_equal(np.array(mask), video.masks[time])


def test_same_seed_same_bytes_whatever_the_number_of_workers(tree, tmp_path):
    expected = all_bytes(tree)
    assert all_bytes(write(tmp_path / "again")) == expected
    assert all_bytes(write(tmp_path / "two", num_workers=2)) == expected
    assert all_bytes(write(tmp_path / "other", seed=6)) != expected


def test_more_videos_leave_the_first_ones_as_they_were(tree, tmp_path):
    longer = all_bytes(write(tmp_path / "longer", num_videos=4))
    for name, content in all_bytes(tree).items():
        if "/train_" in name or "/valid_" in name:
            assert longer[name] == content


def test_a_second_run_replaces_the_first(tmp_path):
    root = write(tmp_path / "out", num_videos=2)
    (root / "train/JPEGImages/train_00000/00000.jpg").write_bytes(b"damaged")
    write(root, num_videos=2)
    assert all_bytes(root) == all_bytes(write(tmp_path / "fresh", num_videos=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "out"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"num_videos": 2}, r"ytvos set of other settings \(num_videos 1 \+ 2 -> 2 \+ 2\)"),
        ({"seed": 6}, r"ytvos set of other settings \(seed 5 -> 6\)"),
        ({"num_absent": 1}, r"ytvos set of other settings \(num_absent none -> 1\)"),
    ],
)
def test_a_set_of_other_settings_is_replaced_on_purpose_only(tmp_path, changes, found):
    root = write(tmp_path / "out", num_videos=1)
    before = all_bytes(root)
    with pytest.raises(FileExistsError, match=f"out holds a generated {found}; replace it with --overwrite"):
        write(root, **{"num_videos": 1, **changes})
    assert all_bytes(root) == before
    write(root, **{"num_videos": 1, **changes}, overwrite=True)
    assert all_bytes(root) == all_bytes(write(tmp_path / "fresh", **{"num_videos": 1, **changes}))


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_the_program_keeps_a_set_of_another_layout_and_says_what_it_wrote(tmp_path, layout, capsys):
    root = write(tmp_path / "out", num_videos=1)
    before = all_bytes(root)
    sizes = ["--num_videos", "1", "--num_frames", "2", "--height", "64", "--width", "96", "--num_workers", "1"]
    with pytest.raises(SystemExit, match=r"error: .*out holds a generated .*; replace it with --overwrite"):
        main([layout, str(root), *sizes])
    assert all_bytes(root) == before
    capsys.readouterr()
    main([layout, str(root), *sizes, "--overwrite"])
    assert json.loads((root / "generated.json").read_text())["layout"] == layout
    line = capsys.readouterr().out
    assert re.fullmatch(rf"{root}: {layout}, 1 (train )?(videos|images), .*\b[1-9]\d* expressions\n", line), line


def test_the_counts_are_those_of_the_files(tmp_path):
    counts = write_ytvos(tmp_path / "out", SETTINGS, num_videos=2, num_valid_videos=1, num_workers=1)
    splits = {split: read(tmp_path / f"out/meta_expressions/{split}/meta_expressions.json") for split in SPLITS}
    num_expressions = sum(len(video["expressions"]) for videos in splits.values() for video in videos.values())
    assert counts == {"train videos": 2, "valid videos": 1, "expressions": num_expressions}


def test_help_says_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["ytvos", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for option, default in (("--height HEIGHT", 160), ("--width WIDTH", 240), ("--seed SEED", 0)):
        assert re.search(rf"{option} [a-z][^-]*\(default: {default}\)", text), option


@pytest.mark.parametrize(
    "foreign",
    ["notes.txt", "train/mine", "meta_expressions/test/meta_expressions.json", "train/JPEGImages/my_video/00000.jpg"],
)
def test_refuses_a_folder_with_anything_else_in_it(tmp_path, foreign):
    root = write(tmp_path / "out", num_videos=1)
    (root / foreign).parent.mkdir(parents=True, exist_ok=True)
    (root / foreign).write_text("mine")
    before = all_bytes(root)
    with pytest.raises(
        FileExistsError, match=foreign.removesuffix("/meta_expressions.json").removesuffix("/00000.jpg")
    ):
        write(root)
    assert all_bytes(root) == before


@pytest.mark.parametrize("marker", [None, "{}", "[1]", "no json", '{"program": "another", "holds": ["train"]}'])
def test_refuses_a_folder_it_did_not_write(tmp_path, marker):
    root = tmp_path / "real"
    (root / "train").mkdir(parents=True)
    if marker is not None:
        (root / "generated.json").write_text(marker)
    with pytest.raises(FileExistsError, match="did not write"):
        write(root)
    assert (root / "train").is_dir()


def test_takes_an_empty_folder_but_no_file(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", num_videos=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        write(tmp_path / "file")


def test_an_interrupted_run_leaves_the_old_set_and_no_rubbish(tmp_path):
    root = write(tmp_path / "out", num_videos=1)
    before = all_bytes(root)
    with pytest.raises(KeyboardInterrupt), new_folder(root, {}, overwrite=True) as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt
    assert all_bytes(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_program_writes_single_images(tmp_path):
    main(["ytvos", str(tmp_path / "out"), "--num_videos", "12", "--num_frames", "1", "--num_workers", "1"])
    videos = read(tmp_path / "out/meta_expressions/train/meta_expressions.json")
    assert len(videos) == 12
    assert len(read(tmp_path / "out/valid/meta.json")) == 3
    assert all(video["frames"] == ["00000"] for video in videos.values())
    kinds = {expression["kind"] for video in videos.values() for expression in video["expressions"].values()}
    assert kinds == set(KINDS) - {"motion"}


@pytest.mark.parametrize(
    ("option", "value"), [("--num_videos", "0"), ("--num_frames", "0"), ("--width", "10"), ("--seed", "-1")]
)
def test_the_program_names_a_bad_option(tmp_path, option, value):
    with pytest.raises(SystemExit, match=option.strip("-")):
        main(["ytvos", str(tmp_path / "out"), option, value])
    assert not (tmp_path / "out").exists()
