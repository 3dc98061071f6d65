"""The folder of an inference run that can be interrupted and started again.

`inference.json` says whose results it holds, `finished/<video>.json` that all masks of a video are written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from util.masks import write_bytes
from util.submission import FOLDER, VideoMasks, check_name

logger = logging.getLogger(__name__)


class ResultFolder:
    """Masks of one checkpoint with one set of settings, and what of them is finished.

    Args:
        path: the folder; made when something is written.

    Attributes:
        annotations: the folder of the masks.
        submission: the zip of them.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.annotations = self.path / FOLDER
        self.submission = self.path / "submission.zip"
        self._identity = self.path / "inference.json"
        self._finished = self.path / "finished"

    def check_identity(self, identity: dict[str, Any]) -> None:
        """Refuse results of another checkpoint, of other settings, or of unknown origin.

        Raises:
            ValueError: names what differs.
        """
        cure = "choose another --output_dir, or pass --overwrite to delete the old results"
        if not self._identity.is_file():
            if self.annotations.is_dir() and any(self.annotations.iterdir()):
                raise ValueError(f"{self.annotations} holds results and no {self._identity.name} says whose; {cure}")
            return
        try:
            old = json.loads(self._identity.read_text())
        except ValueError as error:
            raise ValueError(f"{self._identity}: broken JSON ({error}); {cure}") from error
        old = old if isinstance(old, dict) else {}
        if differing := sorted(key for key in old.keys() | identity.keys() if old.get(key) != identity.get(key)):
            changes = ", ".join(f"{key} {_short(old.get(key))} -> {_short(identity.get(key))}" for key in differing)
            raise ValueError(f"{self.path} holds the results of another run ({changes}); {cure}")

    def write_identity(self, identity: dict[str, Any]) -> None:
        """Make the folder, and say whose results it holds from now on."""
        self.annotations.mkdir(parents=True, exist_ok=True)
        self._finished.mkdir(exist_ok=True)
        write_bytes(self._identity, json.dumps(identity, indent=2).encode())

    def clear(self) -> None:
        """Delete what an inference run writes here, and nothing else."""
        for folder in (self.annotations, self._finished, self.path / "visualize"):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self._identity, self.submission):
            file.unlink(missing_ok=True)

    def is_finished(self, masks: VideoMasks, captions: list[str]) -> bool:
        """Whether the video was finished with the same frames and captions, and all its masks are still there."""
        try:
            if json.loads(self._marker(masks).read_text()) != _content(masks, captions):
                return False
        except (OSError, ValueError):
            return False
        return all((self.annotations / path).is_file() for path in masks.paths())

    def mark_finished(self, masks: VideoMasks, captions: list[str]) -> None:
        """Remember that all masks of the video are written."""
        write_bytes(self._marker(masks), json.dumps(_content(masks, captions)).encode())

    def forget(self, video: str) -> None:
        """Let the next run do a video again."""
        (self._finished / f"{check_name(video, 'video')}.json").unlink(missing_ok=True)

    def mask_path(self, video: str, expression_id: str, frame: str) -> Path:
        """Where a mask lies."""
        return self.annotations / video / expression_id / f"{frame}.png"

    def _marker(self, masks: VideoMasks) -> Path:
        return self._finished / f"{masks.video}.json"


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such checkpoint")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(masks: VideoMasks, captions: list[str]) -> dict[str, Any]:
    expressions = dict(zip(masks.expression_ids, captions, strict=True))
    return {"size": list(masks.size), "frames": list(masks.frames), "expressions": expressions}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."
