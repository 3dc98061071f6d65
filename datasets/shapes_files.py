"""What every layout of the generated benchmark is written with: folders, pictures, JSON, several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from util.disk import writing

SPLITS = ("train", "valid")
JPEG_QUALITY = 90
PROGRAM = "datasets.shapes"
_MARKER = "generated.json"  # tells a folder that this program wrote from any other


def video_generator(seed: int, split: str, index: int, purpose: int = 0) -> np.random.Generator:
    """The source of all that is random in one video; another `purpose` has a source of its own."""
    return np.random.default_rng((seed, SPLITS.index(split), index, *([purpose] if purpose else [])))


def choose_counts(num_videos: int, num_valid_videos: int | None, seed: int, num_workers: int) -> dict[str, int]:
    """{split: number of videos}; `valid` gets a quarter of `num_videos`, at least 2, when nothing is said.

    Raises:
        ValueError: a count is not positive, or the seed is negative.
    """
    if num_valid_videos is None:
        num_valid_videos = max(2, num_videos // 4)
    counts = {"num_videos": num_videos, "num_valid_videos": num_valid_videos, "num_workers": num_workers}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    return dict(zip(SPLITS, (num_videos, num_valid_videos), strict=True))


def write_videos(
    write: Callable[[tuple[str, int]], Any], counts: Mapping[str, int], num_workers: int
) -> dict[str, list[Any]]:
    """Call `write((split, index))` for every video; {split: what it returned, in order}."""
    jobs = [(split, index) for split, count in counts.items() for index in range(count)]
    results = zip(jobs, tqdm(_map(write, jobs, num_workers), "videos", len(jobs), unit="video"), strict=True)
    records: dict[str, list[Any]] = {split: [] for split in counts}
    for (split, _), record in results:
        records[split].append(record)
    return records


def count_written(records: Mapping[str, Sequence[Any]], unit: str, num_expressions: int) -> dict[str, int]:
    """{what: how many} of the records of `write_videos`, for people: `train videos`, `valid videos`, `expressions`."""
    counts = {f"{split} {unit}": len(found) for split, found in records.items()}
    return {**counts, "expressions": num_expressions}


@contextmanager
def new_folder(root: Path, description: dict[str, Any], *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `root` that takes its place when all of it is written, and is removed on an error.

    Args:
        root: the folder to make, or to make again.
        description: layout and settings, by which what an earlier run left is told from what this one writes.
        overwrite: also replace what an earlier run wrote from another description.

    Raises:
        FileExistsError: if `root` exists and this program did not write it, or not from this description.
    """
    _check_replaceable(Path(root), None if overwrite else description)
    root = Path(root).resolve()
    partial_root = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial_root, ignore_errors=True)
    with writing(root, "choose another folder"):
        partial_root.mkdir(parents=True)
    try:
        yield partial_root
        record = {"program": PROGRAM, **description, "holds": sorted(_entries(partial_root))}
        (partial_root / _MARKER).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if root.exists():
            shutil.rmtree(root)
        partial_root.rename(root)
    except BaseException:
        shutil.rmtree(partial_root, ignore_errors=True)
        raise


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Writes an RGB image (H, W, 3) uint8."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    path.write_bytes(data.tobytes())


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes an RGB image (H, W, 3) uint8 without loss."""
    _, data = cv2.imencode(".png", image[..., ::-1])
    path.write_bytes(data.tobytes())


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, and the folder it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _entries(root: Path) -> set[str]:
    """All folders below one, those of the videos too, and the files of the upper two levels, as "train/meta.json"."""
    upper = {path for pattern in ("*", "*/*") for path in root.glob(pattern)}
    folders = {Path(folder) / name for folder, names, _ in os.walk(root) for name in names}
    return {path.relative_to(root).as_posix() for path in upper | folders}


def _check_replaceable(root: Path, description: dict[str, Any] | None) -> None:
    """Raises FileExistsError unless `root` is absent, empty, or what an earlier run wrote with nothing added.

    And from the same description, where there is one.
    """
    if not root.exists():
        return
    if not root.is_dir():
        raise FileExistsError(f"{root} is a file; give a folder that does not exist yet")
    record: dict[str, Any] = {}
    try:
        record = json.loads((root / _MARKER).read_text(encoding="utf-8"))
        known = {*record["holds"], _MARKER} if record["program"] == PROGRAM else set()
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    foreign = sorted(_entries(root) - known)
    if foreign:
        held = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        raise FileExistsError(
            f"{root} holds something this program did not write ({held}); choose another folder or empty this one"
        )
    if description is not None and known:
        _check_same(root, record, description)


def _check_same(root: Path, record: dict[str, Any], description: dict[str, Any]) -> None:
    """Raises FileExistsError where a set was generated in another layout or from other settings."""
    old = {name: value for name, value in record.items() if name not in ("program", "holds")}
    if old == description:
        return
    if old.get("layout") != description["layout"]:
        found = f"a generated set of the layout {old.get('layout')}, not {description['layout']}"
    else:
        names = [name for name in {**old, **description} if old.get(name) != description.get(name)]
        changes = ", ".join(f"{name} {_words(old.get(name))} -> {_words(description.get(name))}" for name in names)
        found = f"a generated {old['layout']} set of other settings ({changes})"
    raise FileExistsError(f"{root} holds {found}; replace it with --overwrite, or give another folder")


def _words(value: Any) -> str:
    """A setting for people; what the description of a set leaves out is none."""
    if isinstance(value, dict):
        return " + ".join(str(part) for part in value.values())
    return "none" if value is None else str(value)


def _map(function: Callable[[Any], Any], jobs: list[Any], num_workers: int) -> Iterator[Any]:
    """Results in the order of the jobs."""
    if num_workers == 1:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has threads can hang
    with ProcessPoolExecutor(num_workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(function, jobs, chunksize=max(1, min(16, len(jobs) // (4 * num_workers))))
