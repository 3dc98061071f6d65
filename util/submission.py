"""The submission of Ref-YouTube-VOS: which masks it must hold, whether it holds them, and the zip of them.

A submission is `Annotations/<video>/<expression id>/<frame>.png`, one mask for each listed frame of each expression.
The server answers NaN to a malformed one, so nothing is zipped that was not read back whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from util.disk import explain
from util.masks import decode_mask

logger = logging.getLogger(__name__)

FOLDER = "Annotations"


@dataclass(frozen=True)
class VideoMasks:
    """The masks of one video that a submission must hold.

    Attributes:
        video: its name.
        size: (h, w) of its frames.
        frames: their names.
        expression_ids: as in the meta file.

    Raises:
        ValueError: a name that would be unsafe as part of a path.
    """

    video: str
    size: tuple[int, int]
    frames: tuple[str, ...]
    expression_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        check_name(self.video, "video")
        for expression_id in self.expression_ids:
            check_name(expression_id, f"expression id of video {self.video}")
        for frame in self.frames:
            check_name(frame, f"frame of video {self.video}")

    def paths(self) -> Iterator[str]:
        """Relative to the folder of annotations."""
        for expression_id in self.expression_ids:
            for frame in self.frames:
                yield f"{self.video}/{expression_id}/{frame}.png"


@dataclass(frozen=True)
class Fault:
    """A mask that is missing or malformed.

    Attributes:
        video: whose mask it is.
        message: what is wrong, with the file's name.
    """

    video: str
    message: str


class SubmissionError(ValueError):
    """An incomplete or malformed result.

    Attributes:
        faults: every fault; the message lists the first few.
    """

    def __init__(self, where: str | os.PathLike[str], faults: Sequence[Fault], cure: str, shown: int = 5) -> None:
        self.faults = list(faults)
        lines = [f"{where}: {len(faults)} masks are missing or malformed; {cure}"]
        lines += [f"  {fault.message}" for fault in faults[:shown]]
        if len(faults) > shown:
            lines.append(f"  ... and {len(faults) - shown} more")
        super().__init__("\n".join(lines))


def check_name(name: str, what: str) -> str:
    """`name`, if it may become one component of a path.

    Raises:
        ValueError: it is empty, leaves the folder (`../x`), is hidden, or holds separators or control characters.
    """
    if not isinstance(name, str) or not name or name.startswith(".") or len(name) > 200:
        unsafe = True
    else:
        unsafe = any(character in '/\\:*?"<>|' or not character.isprintable() for character in name)
    if unsafe:
        raise ValueError(
            f"{what} {name!r} cannot name a file or folder; rename it in the meta file and on disk "
            "(no separators, no leading dot, at most 200 characters)"
        )
    return name


def find_faults(
    annotations: str | os.PathLike[str], videos: Sequence[VideoMasks], num_threads: int = 4, progress: bool = False
) -> list[Fault]:
    """Read every mask that a submission must hold.

    Args:
        annotations: the folder `Annotations`.
        videos: what it must hold.
        num_threads: that read and decode.
        progress: show a bar on stderr.

    Returns:
        One fault for each mask that is missing, unreadable, of another size, or not an 8-bit grey PNG with values 0
        and 255, in the order of `videos`.
    """
    root = Path(annotations)

    def read(path: str) -> bytes | None:
        file = root / path
        return file.read_bytes() if file.is_file() else None

    with ThreadPoolExecutor(num_threads) as pool:
        checked = pool.map(lambda video: _faults_of(video, read), videos)
        bar = tqdm(checked, total=len(videos), desc="checking", unit="video", disable=not progress)
        return [fault for faults in bar for fault in faults]


def write_submission(
    annotations: str | os.PathLike[str],
    videos: Sequence[VideoMasks],
    path: str | os.PathLike[str],
    progress: bool = False,
    prefix: str = f"{FOLDER}/",
) -> int:
    """Check all masks, then zip them. Equal masks give equal bytes; files that nobody asked for stay out.

    Args:
        annotations: the folder `Annotations`.
        videos: what the submission must hold.
        path: of the zip, which appears whole or not at all; an older one is replaced, or removed when this one fails.
        progress: show bars on stderr.
        prefix: what paths in the zip begin with; MeViS wants none.

    Returns:
        The number of masks in the zip.

    Raises:
        SubmissionError: masks are missing or malformed.
        ValueError: there is nothing to submit.
    """
    path = Path(path)
    path.unlink(missing_ok=True)  # a zip of an older result must not pass for this one
    names = [name for video in videos for name in video.paths()]
    if not names:
        raise ValueError(f"{annotations}: no expression is listed, so there is nothing to submit")
    if faults := find_faults(annotations, videos, progress=progress):
        raise SubmissionError(annotations, faults, "nothing was zipped. Run the inference again to complete it")
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in tqdm(names, desc="zipping", unit="mask", disable=not progress):
                entry = zipfile.ZipInfo(f"{prefix}{name}")  # dated 1980, whenever it was written
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, Path(annotations, name).read_bytes())
        partial.replace(path)
    except OSError as error:
        raise explain(error, path, "free some space, and start again to zip what is there") from error
    finally:
        with contextlib.suppress(OSError):  # where the file could not be, it is not
            partial.unlink()
    return len(names)


def check_zip(path: str | os.PathLike[str], videos: Sequence[VideoMasks], prefix: str = f"{FOLDER}/") -> None:
    """Check a finished zip as the server would read it. Arguments as in `write_submission`.

    Raises:
        FileNotFoundError: there is no such file.
        SubmissionError: masks are missing or malformed.
        ValueError: it is no zip, or holds files outside `Annotations/` or unknown to the meta file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such submission")
    try:
        with zipfile.ZipFile(path) as archive:
            present = {entry.filename for entry in archive.infolist() if not entry.is_dir()}
            wanted = {f"{prefix}{name}" for video in videos for name in video.paths()}
            if strange := sorted(present - wanted):
                raise ValueError(f"{path}: holds {len(strange)} files that do not belong there, first {strange[0]!r}")

            def read(name: str) -> bytes | None:
                return archive.read(f"{prefix}{name}") if f"{prefix}{name}" in present else None

            faults = [fault for video in videos for fault in _faults_of(video, read)]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a readable zip ({error}); write it again") from error
    if faults:
        raise SubmissionError(path, faults, "the server would refuse it")


def _faults_of(video: VideoMasks, read: Callable[[str], bytes | None]) -> list[Fault]:
    faults = []
    for name in video.paths():
        try:
            data = read(name)
            if data is None:
                raise ValueError(f"{name}: missing")
            decode_mask(data, video.size, name)
        except (ValueError, OSError) as error:
            faults.append(Fault(video.video, str(error)))
    return faults
