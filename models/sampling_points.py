"""Where the decoder looks: the sampling points and attention weights of its deformable attention, recorded on the way.

T frames, N queries, M heads, V levels, K points.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from models.referformer import ReferFormer
from ops.module import MSDeformAttn


@dataclass
class SamplingPoints:
    """What each decoder layer did in the last forward pass.

    Attributes:
        locations: per layer (T, N, M, V, K, 2) xy as shares of the frame.
        weights: per layer (T, N, M, V, K), which sum to 1 over V and K.
    """

    locations: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)


@contextmanager
def record_sampling_points(model: ReferFormer) -> Iterator[SamplingPoints]:
    """While the context lasts, the forward passes of `model` on unpadded frames leave their points in the record."""
    record = SamplingPoints()
    layers = [layer.cross_attn for layer in model.transformer.decoder_layers]

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, MSDeformAttn)
        if module is layers[0]:
            record.locations.clear()
            record.weights.clear()
        query, references, _, shapes = args[:4]
        record.locations.append(module.sampling_locations(query, references, shapes).float().cpu())
        record.weights.append(module.sampling_weights(query).float().cpu())

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()
