"""Files of a result: overlay video, mask PNGs, a JSON of boxes and scores, a contact sheet."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from util.answers import Answer, Segmentation
from util.disk import make_folder
from util.frame_source import FrameSource
from util.masks import write_bytes, write_mask
from util.pictures import RGB
from util.results import BackgroundWriter
from util.submission import check_name
from util.video_writer import VideoWriter
from util.visualize import Colour, Instance, draw_instances, make_grid, with_caption, write_image

Progress = Callable[[int], None]

PROGRAM = "referformer"  # marks a folder as ours
SHEET_FRAMES = 6
OVERLAY_SIDE = 480  # pixels: smaller videos are enlarged by a whole number up to this short side
LEGEND_LETTERS = 120  # of a sentence, in pictures


@dataclass(frozen=True)
class SavedFiles:
    """What `save` wrote.

    Attributes:
        overlay: H.264 in MP4.
        results: JSON of boxes and scores.
        sheet: contact sheet.
        masks: one folder per sentence with a PNG per frame, 0 and 255; empty where no masks were asked for.
    """

    overlay: Path
    results: Path
    sheet: Path
    masks: tuple[Path, ...]


def save(segmentation: Segmentation, folder: Path, *, masks: bool, progress: Progress | None) -> SavedFiles:
    """See `Segmentation.save`."""
    _make_room(folder)
    names = [mask_folder_name(i, a.sentence) for i, a in enumerate(segmentation.answers)]
    mask_folders = tuple(folder / "masks" / name for name in names) if masks else ()
    for mask_folder in mask_folders:
        mask_folder.mkdir(parents=True)
    files = SavedFiles(folder / "overlay.mp4", folder / "results.json", folder / "sheet.jpg", mask_folders)
    chosen = _spread(len(segmentation), SHEET_FRAMES)
    sheet: dict[int, RGB] = {}
    with BackgroundWriter() as writer, VideoWriter(files.overlay, segmentation.source.rate) as video:
        for t, (frame, overlay, instances) in enumerate(overlays(segmentation)):
            video.write(overlay, float(segmentation.times[t]))
            for drawn, mask_folder in zip(instances, mask_folders, strict=True) if masks else ():
                writer.submit(write_mask, mask_folder / f"{t:05d}.png", drawn.mask)
            if t in chosen:
                sheet[t] = frame
            if progress is not None:
                progress(1)
    write_image(files.sheet, _draw_sheet(segmentation, sheet))
    write_bytes(files.results, json.dumps(as_json(segmentation, names if masks else None)).encode())
    return files


def result_folder(parent: Path, source: FrameSource) -> Path:
    """The folder in `parent` for the results of a video: one that is free, or that holds its earlier results.

    That is `own` for own.mp4, and `own.gif` for own.gif after it.
    """
    names = [_safe_name(source.name), _safe_name(source.file or source.name)]
    numbered = (f"{names[-1]}_{number}" for number in itertools.count(2))
    return next(parent / name for name in itertools.chain(names, numbered) if _is_free_for(source, parent / name))


def overlays(segmentation: Segmentation) -> Iterator[tuple[RGB, RGB, list[Instance]]]:
    """(frame, the frame with masks, boxes and scores under the legend, every answer in it), in order."""
    legend: RGB | None = None
    height = segmentation.size[0] * max(1, OVERLAY_SIDE // min(segmentation.size))
    for t, timed in enumerate(segmentation.frames()):
        instances = [instance(a, t) for a in segmentation.answers]
        shown = [one for one, a in zip(instances, segmentation.answers, strict=True) if a.present[t]]
        drawn = draw_instances(timed.image, shown, height)
        if legend is None:
            legend = with_caption(drawn[:0], legend_lines(segmentation.answers))
        yield timed.image, np.concatenate((legend, drawn)), instances


def contact_sheet(segmentation: Segmentation, num_frames: int = SHEET_FRAMES) -> RGB:
    """Frames spread over the video, a row per sentence."""
    chosen = _spread(len(segmentation), num_frames)
    frames = {t: timed.image for t, timed in enumerate(segmentation.frames()) if t in chosen}
    return _draw_sheet(segmentation, frames)


def as_json(segmentation: Segmentation, mask_folders: Sequence[str] | None = None) -> dict[str, Any]:
    """Boxes (xyxy, pixels) and scores of every frame, as plain data; a frame without the object has the box null."""
    h, w = segmentation.size
    times = [round(float(time), 4) for time in segmentation.times]
    sentences = []
    for i, a in enumerate(segmentation.answers):
        boxes = [[round(float(x), 1) for x in box] if p else None for box, p in zip(a.boxes, a.present, strict=True)]
        sentences.append(
            {
                "sentence": a.sentence,
                "colour": list(a.colour),
                "found": a.found,
                "score": round(a.score, 4),
                "masks": f"masks/{mask_folders[i]}" if mask_folders else None,
                "scores": [round(float(score), 4) for score in a.scores],
                "present": a.present.tolist(),
                "boxes": boxes,
            }
        )
    return {
        "program": PROGRAM,
        "video": segmentation.source.name,
        "file": segmentation.source.file,
        "height": h,
        "width": w,
        "rate": round(segmentation.source.rate, 4),
        "num_frames": len(segmentation),
        "times": times,
        "sentences": sentences,
    }


def instance(answer: Answer, t: int, *, with_mask: bool = True, with_box: bool = True) -> Instance:
    """An answer in one frame, to draw."""
    mask = answer.mask(t) if with_mask else np.zeros(answer.raw_masks.size, dtype=bool)
    return Instance(mask, answer.colour, answer.boxes[t].tolist() if with_box else None, f"{answer.scores[t]:.2f}")


def legend_lines(answers: Sequence[Answer]) -> list[tuple[str, Colour]]:
    """The sentences, cut where they are long, each in its colour."""
    lines = []
    for a in answers:
        sentence = a.sentence if len(a.sentence) <= LEGEND_LETTERS else f"{a.sentence[: LEGEND_LETTERS - 3]}..."
        lines.append((sentence if a.found else f"{sentence}: not there ({a.score:.2f})", a.colour))
    return lines


def mask_folder_name(index: int, sentence: str) -> str:
    """`1_the-red-square`: what a sentence says never leads out of the folder, and two sentences never share one."""
    slug = re.sub(r"[^a-z0-9]+", "-", sentence.lower()).strip("-")[:40].strip("-")
    return f"{index + 1}_{slug}" if slug else str(index + 1)


def _safe_name(name: str) -> str:
    try:
        return check_name(name, "video")
    except ValueError:
        return "video"


def _is_free_for(source: FrameSource, folder: Path) -> bool:
    """Whether a folder holds no results, or those of the same video as far as they say; `_make_room` judges others."""
    try:
        found = json.loads((folder / "results.json").read_text())
        return (found["video"], found.get("file", source.file)) == (source.name, source.file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True


def _draw_sheet(segmentation: Segmentation, frames: dict[int, RGB]) -> RGB:
    rows = []
    for answer, line in zip(segmentation.answers, legend_lines(segmentation.answers), strict=True):
        shown = [instance(answer, t) if answer.present[t] else None for t in sorted(frames)]
        height = min(max(segmentation.size[0], 120), 240)
        images = [
            draw_instances(frames[t], [s] if s else [], height) for t, s in zip(sorted(frames), shown, strict=True)
        ]
        rows.append([with_caption(make_grid([images]), [line])])
    return make_grid(rows)


def _spread(num_frames: int, wanted: int) -> set[int]:
    return set(np.linspace(0, num_frames - 1, min(wanted, num_frames)).round().astype(int).tolist())


def _make_room(folder: Path) -> None:
    """Remove what an earlier result left here, and nothing else."""
    masks, results = folder / "masks", folder / "results.json"
    if masks.exists() or results.exists():
        try:
            ours = json.loads(results.read_text())["program"] == PROGRAM
        except (OSError, ValueError, KeyError, TypeError):
            ours = False
        if not ours:
            raise FileExistsError(f"{folder} holds masks or results of something else; choose another folder")
        results.unlink()
        shutil.rmtree(masks, ignore_errors=True)
    make_folder(folder)
