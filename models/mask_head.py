"""Dynamic convolution: each query's kernels, run over the shared mask features (section 3.2, equation 1).

B clips, T frames, N queries, C channels of queries, D mask features, c channels of the head, h x w the map (stride 4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.feed_forward import MLP
from models.precision import full_precision

STRIDE = 4


def mask_head_splits(mask_dim: int, channels: int, relative_coordinates: bool) -> list[int]:
    """How many numbers of a query are weights of each of the head's three layers, then biases of each."""
    return [channels * (mask_dim + 2 * relative_coordinates), channels * channels, channels, channels, channels, 1]


class DynamicMaskHead(nn.Module):
    """Three 1x1 convolutions, c -> c -> 1 channels with ReLU between, whose weights a controller makes of each query.

    The first layer sees the D mask features and, optionally, each pixel's offset from the query's reference in input
    pixels. It is linear, so it needs no copy of the features per query: it is one product with the shared features
    plus a plane, w (reference - pixel) + b, from the coordinates.

    Args:
        dim: channels C of the queries.
        mask_dim: mask features D.
        channels: channels c of the head.
        relative_coordinates: whether the first layer sees the offsets.
    """

    def __init__(self, dim: int, mask_dim: int, channels: int, relative_coordinates: bool):
        super().__init__()
        self.mask_dim, self.channels, self.relative_coordinates = mask_dim, channels, relative_coordinates
        self.splits = mask_head_splits(mask_dim, channels, relative_coordinates)
        self.controller = MLP(dim, dim, sum(self.splits), num_layers=3)
        for layer in self.controller.layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, queries: Tensor, references: Tensor, frame_sizes: Tensor) -> Tensor:
        """Mask logits of queries over given mask features.

        Args:
            features: (B T, D, h, w).
            queries: (B T, N, C).
            references: (B T, N, 2) xy as shares of the unpadded frame.
            frame_sizes: (B T, 2), (h, w) of each frame before padding.

        Returns:
            (B T, N, h, w) float32.
        """
        kernels = self._kernels(queries)
        weight = kernels[0][..., : self.mask_dim]  # (B T, N, c, D)
        hidden = torch.bmm(weight.flatten(1, 2), features.flatten(2))
        return self._finish(hidden.unflatten(-1, features.shape[-2:]), kernels, references, frame_sizes)

    def forward_composed(
        self, pyramid: Tensor, conv: nn.Conv2d, queries: Tensor, references: Tensor, frame_sizes: Tensor
    ) -> Tensor:
        """The same masks straight from the pyramid, without mask features: the 3x3 mask-feature convolution and the
        first layer are both linear, so they compose to one convolution with N c output channels.

        Args:
            pyramid: (B T, C', h, w), input of `conv`.
            conv: the mask-feature convolution, C' -> D.
        """
        kernels = self._kernels(queries)
        weight = kernels[0][..., : self.mask_dim].flatten(1, 2)  # (B T, N c, D)
        composed = torch.matmul(weight, conv.weight.flatten(1)).unflatten(-1, conv.weight.shape[1:])
        shift = torch.matmul(weight, conv.bias)
        hidden = [
            F.conv2d(x[None], w.contiguous(memory_format=torch.channels_last), b, padding=conv.padding)
            for x, w, b in zip(pyramid, composed, shift, strict=True)
        ]
        return self._finish(torch.cat(hidden), kernels, references, frame_sizes)

    def _kernels(self, queries: Tensor) -> list[Tensor]:
        """(B T, N, C) -> weights (B T, N, c, in), (B T, N, c, c), (B T, N, 1, c) and biases (B T, N, c | c | 1)."""
        with full_precision(queries):
            kernels = list(self.controller(queries.float()).split(self.splits, dim=-1))
        kernels[0] = kernels[0].unflatten(-1, (self.channels, -1))
        kernels[1] = kernels[1].unflatten(-1, (self.channels, -1))
        kernels[2] = kernels[2].unflatten(-1, (1, -1))
        return kernels

    def _finish(self, hidden: Tensor, kernels: list[Tensor], references: Tensor, frame_sizes: Tensor) -> Tensor:
        """First layer's product with the features, (B T, N c, h, w) -> mask logits (B T, N, h, w)."""
        h, w = hidden.shape[-2:]
        weights, biases = kernels[:3], kernels[3:]
        with full_precision(hidden):
            hidden = hidden.float().flatten(2)  # (B T, N c, h w)
            bias = biases[0].flatten(1)
            if self.relative_coordinates:
                offset_weight = weights[0][..., self.mask_dim :]  # (B T, N, c, 2) for x, y
                centre = references * frame_sizes.flip(-1)[:, None]  # (B T, N, 2) xy in pixels
                bias = bias + (offset_weight * centre[:, :, None]).sum(-1).flatten(1)
                grid = pixel_grid(h, w, hidden.device).expand(len(hidden), -1, -1)
                hidden = torch.baddbmm(hidden, offset_weight.flatten(1, 2), grid, alpha=-1)
            hidden = F.relu(hidden + bias[..., None], inplace=True).reshape(-1, self.channels, h * w)  # (B T N, c, h w)
            hidden = torch.baddbmm(biases[1].flatten(0, 1)[..., None], weights[1].flatten(0, 1), hidden)
            hidden = F.relu(hidden, inplace=True)
            logits = torch.baddbmm(biases[2].flatten(0, 1)[..., None], weights[2].flatten(0, 1), hidden)
        return logits.view(-1, references.shape[1], h, w)


def pixel_grid(h: int, w: int, device: torch.device) -> Tensor:
    """(2, h w): x and y of each stride-4 pixel's centre, in input pixels."""
    y = torch.arange(h, device=device, dtype=torch.float32) * STRIDE + STRIDE // 2
    x = torch.arange(w, device=device, dtype=torch.float32) * STRIDE + STRIDE // 2
    return torch.stack((x.repeat(h), y.repeat_interleave(w)))
