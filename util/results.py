"""The folder of an inference run that can be interrupted and started again.

`inference.json` says whose results it holds, `finished/<video>.json` that all masks of a video are written.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from util.disk import make_folder
from util.masks import write_bytes
from util.submission import FOLDER, VideoMasks, check_name

logger = logging.getLogger(__name__)


class ResultFolder:
    """Masks of one checkpoint with one set of settings, and what of them is finished.

    Args:
        path: the folder; made when something is written.
        parts: names of the folders in it that hold the masks, where there are several.

    Attributes:
        annotations: what the paths of masks are relative to: their folder, or `path` where there are several.
        submission: the zip of them.
    """

    def __init__(self, path: str | os.PathLike[str], parts: Sequence[str] = ()) -> None:
        self.path = Path(path)
        self.annotations = self.path if parts else self.path / FOLDER
        self._parts = [self.path / name for name in parts or (FOLDER,)]
        self.submission = self.path / "submission.zip"
        self._identity = self.path / "inference.json"
        self._finished = self.path / "finished"

    def check_identity(self, identity: dict[str, Any]) -> None:
        """Refuse results of another checkpoint, of other settings, or of unknown origin.

        Raises:
            ValueError: names what differs.
        """
        self.check_ownership()
        cure = "choose another --output_dir, or pass --overwrite to delete the old results"
        if not self._identity.is_file():
            return
        try:
            old = json.loads(self._identity.read_text())
        except ValueError as error:
            raise ValueError(f"{self._identity}: broken JSON ({error}); {cure}") from error
        old = old if isinstance(old, dict) else {}
        if differing := sorted(key for key in old.keys() | identity.keys() if old.get(key) != identity.get(key)):
            changes = ", ".join(f"{key} {_short(old.get(key))} -> {_short(identity.get(key))}" for key in differing)
            raise ValueError(f"{self.path} holds the results of another run ({changes}); {cure}")

    def check_ownership(self) -> None:
        """Refuse a folder whose masks no inference run wrote: the annotations of a data set, for instance.

        Raises:
            ValueError: names the folder.
        """
        for part in self._parts:
            if not self._identity.is_file() and part.is_dir() and any(part.iterdir()):
                raise ValueError(
                    f"{part} holds files that no inference run wrote (there is no {self._identity}); "
                    "choose another --output_dir"
                )

    def write_identity(self, identity: dict[str, Any]) -> None:
        """Make the folder, and say whose results it holds from now on."""
        for folder in (self.path, *self._parts, self._finished):
            make_folder(folder)
        write_bytes(self._identity, json.dumps(identity, indent=2).encode())

    def clear(self) -> None:
        """Delete what an inference run wrote here, and nothing else. Raises as `check_ownership` does."""
        self.check_ownership()
        for folder in (*self._parts, self._finished, self.path / "visualize"):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self._identity, self.submission):
            file.unlink(missing_ok=True)

    def is_finished(self, masks: VideoMasks, captions: list[str], source: str = "") -> bool:
        """Whether the video was finished, from the same captions and source, and all its masks are still there."""
        try:
            if json.loads(self._marker(masks).read_text()) != _content(masks, captions, source):
                return False
        except (OSError, ValueError):
            return False
        return all((self.annotations / path).is_file() for path in masks.paths())

    def mark_finished(self, masks: VideoMasks, captions: list[str], source: str = "") -> None:
        """Remember that all masks of the video are written.

        Args:
            masks: they.
            captions: of the expressions, in the order of `masks.expression_ids`.
            source: what stands for the pixels, a digest for instance.
        """
        write_bytes(self._marker(masks), json.dumps(_content(masks, captions, source)).encode())

    def forget(self, video: str) -> None:
        """Let the next run do a video again."""
        (self._finished / f"{check_name(video, 'video')}.json").unlink(missing_ok=True)

    def mask_path(self, video: str, expression_id: str, frame: str) -> Path:
        """Where a mask lies."""
        return self.annotations / video / expression_id / f"{frame}.png"

    def _marker(self, masks: VideoMasks) -> Path:
        return self._finished / f"{masks.video}.json"


class BackgroundWriter:
    """Threads that encode and write files while the model goes on. As a context, it waits for all of them at its end.

    Args:
        num_threads: that write.
        max_pending: tasks that may wait, with what they hold in memory; a further one waits for the oldest.
    """

    def __init__(self, num_threads: int = 2, max_pending: int = 128) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="writer")
        self._pending: deque[Future[None]] = deque()
        self._max_pending = max_pending

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, task: Callable[..., None], *args: Any) -> None:
        """Run `task(*args)` in a thread. Raises what an earlier task raised."""
        while len(self._pending) >= self._max_pending or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(task, *args))

    def wait(self) -> None:
        """Return once everything is written. Raises what a task raised."""
        while self._pending:
            self._pending.popleft().result()


def _content(masks: VideoMasks, captions: list[str], source: str) -> dict[str, Any]:
    expressions = dict(zip(masks.expression_ids, captions, strict=True))
    return {"size": list(masks.size), "frames": list(masks.frames), "expressions": expressions, "source": source}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."
