"""Mask propagation with SAM 2 (Ravi et al. 2024), as transformers has it: `Sam2VideoModel`.

h x w the video's size, S the side of the square that the model sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from util.frames import normalise


class Sam2Propagator:
    """Tracks a mask with SAM 2's memory, frame by frame, so that a video of any length takes the same memory.

    Args:
        model: with weights.
        device: where it runs.
    """

    def __init__(self, model: Sam2VideoModel, device: torch.device | str = "cpu") -> None:
        self.model, self.device = model.to(device).eval(), torch.device(device)

    @classmethod
    def from_pretrained(cls, weights: str | Path, device: torch.device | str = "cpu") -> Sam2Propagator:
        """From a hub name or a folder.

        Raises:
            FileNotFoundError: there are no such weights, or the hub cannot be reached.
        """
        try:
            model = Sam2VideoModel.from_pretrained(str(weights))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"{weights}: no weights of SAM 2 there; give a folder, or a name of huggingface.co such as "
                f"facebook/sam2.1-hiera-tiny while it can be reached ({str(error).splitlines()[0]})"
            ) from error
        return cls(model, device)

    @torch.inference_mode()
    def walk(
        self, frames: Iterator[NDArray[np.uint8]], masks: Iterator[NDArray[np.bool_]]
    ) -> Iterator[NDArray[np.bool_]]:
        """See `util.propagation.Propagator`. Of `masks`, only the first is looked at."""
        session = Sam2VideoInferenceSession(
            inference_device=self.device, inference_state_device=self.device, dtype=self.model.dtype
        )
        index = session.obj_id_to_idx(1)
        session.add_mask_inputs(index, 0, self._prompt(next(masks)))
        session.obj_with_new_inputs = [1]
        for t, frame in enumerate(frames):
            output = self.model(session, frame=self._pixels(frame), frame_idx=t)
            self._forget(session, index, t)
            if t:
                size = frame.shape[:2]
                logits = F.interpolate(output.pred_masks.float(), size=size, mode="bilinear", align_corners=False)
                yield (logits[0, 0] > 0).cpu().numpy()

    def _pixels(self, frame: NDArray[np.uint8]) -> Tensor:
        """(h, w, 3) uint8 -> (3, S, S) normalised."""
        pixels = normalise(torch.from_numpy(frame).permute(2, 0, 1).to(self.device))
        return F.interpolate(pixels[None], size=self._size, mode="bilinear", antialias=True, align_corners=False)[0]

    def _prompt(self, mask: NDArray[np.bool_]) -> Tensor:
        """(h, w) bool -> (1, 1, S, S) of 0 and 1."""
        prompt = torch.from_numpy(mask)[None, None].float().to(self.device)
        prompt = F.interpolate(prompt, size=self._size, mode="bilinear", antialias=True, align_corners=False)
        return (prompt >= 0.5).float()

    @property
    def _size(self) -> tuple[int, int]:
        side = self.model.config.image_size
        return (side, side) if isinstance(side, int) else tuple(side)

    def _forget(self, session: Sam2VideoInferenceSession, index: int, t: int) -> None:
        """Drop what no later frame looks at: the pixels, and outputs older than memory and pointers reach."""
        session.processed_frames.pop(t, None)
        reach = max(self.model.config.num_maskmem, self.model.config.max_object_pointers_in_encoder)
        session.output_dict_per_obj[index]["non_cond_frame_outputs"].pop(t - reach, None)
        session.frames_tracked_per_obj[index].pop(t - reach, None)
