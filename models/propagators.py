"""The propagators that programs offer, by name, and the options that choose among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from util.propagation import FlowPropagator, Propagator

if TYPE_CHECKING:
    import torch

SAM2_WEIGHTS = "facebook/sam2.1-hiera-tiny"


def add_propagation_options(parser: Any) -> None:
    """`--propagate` and `--sam2_weights`."""
    parser.add_argument(
        "--propagate",
        choices=["none", "flow", "sam2"],
        default="none",
        help="carry the mask of the best frame through the video, by optical flow or by SAM 2",
    )
    parser.add_argument("--sam2_weights", default=SAM2_WEIGHTS, help="hub name or folder")


def build_propagator(name: str, sam2_weights: str, device: torch.device | str) -> Propagator | None:
    """What `--propagate` names; None for `none`.

    Raises:
        FileNotFoundError: there are no weights of SAM 2.
    """
    if name == "sam2":
        from models.sam2 import Sam2Propagator  # its part of transformers takes seconds to import

        return Sam2Propagator.from_pretrained(sam2_weights, device)
    return FlowPropagator() if name == "flow" else None
