from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mask_head import DynamicMaskHead, pixel_grid
from models.reference import to_reference
from tests.small_model import disturb

DIM, MASK_DIM, CHANNELS = 12, 10, 4
FRAMES, QUERIES, H, W = 2, 3, 5, 7


def _head(relative_coordinates: bool) -> DynamicMaskHead:
    torch.manual_seed(0)
    return disturb(DynamicMaskHead(DIM, MASK_DIM, CHANNELS, relative_coordinates))


def _inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, queries, references and frame sizes; the frames are of different sizes, less than the map covers."""
    g = torch.Generator().manual_seed(1)
    features = torch.randn(FRAMES, MASK_DIM, H, W, generator=g)
    queries = torch.randn(FRAMES, QUERIES, DIM, generator=g)
    references = torch.rand(FRAMES, QUERIES, 2, generator=g)
    return features, queries, references, torch.tensor([[20, 28], [17, 22]])


def _per_query(head: DynamicMaskHead, features: Tensor, queries: Tensor, references: Tensor, sizes: Tensor) -> Tensor:
    """Kernels cut from the controller's numbers one after the other, and three convolutions for each query."""
    in_channels = MASK_DIM + (2 if head.relative_coordinates else 0)
    numbers = head.controller(queries)
    logits = torch.empty(FRAMES, QUERIES, H, W)
    for i in range(FRAMES):
        for n in range(QUERIES):
            rest = numbers[i, n]
            taken = []
            for shape in ((CHANNELS, in_channels), (CHANNELS, CHANNELS), (1, CHANNELS), (CHANNELS,), (CHANNELS,), (1,)):
                count = torch.Size(shape).numel()
                taken.append(rest[:count].view(shape))
                rest = rest[count:]
            assert rest.numel() == 0
            x = features[i]
            if head.relative_coordinates:
                coordinates = torch.empty(2, H, W)
                for row in range(H):
                    for column in range(W):
                        coordinates[0, row, column] = references[i, n, 0] * sizes[i, 1] - (4 * column + 2)
                        coordinates[1, row, column] = references[i, n, 1] * sizes[i, 0] - (4 * row + 2)
                x = torch.cat((x, coordinates))
            for layer in range(3):
                x = F.conv2d(x[None], taken[layer][..., None, None], taken[3 + layer])[0]
                x = x.clamp(min=0) if layer < 2 else x
            logits[i, n] = x[0]
    return logits


@pytest.mark.parametrize("relative_coordinates", [True, False])
def test_masks_are_those_of_a_copy_per_query(relative_coordinates: bool) -> None:
    head, inputs = _head(relative_coordinates), _inputs()
    for tensor in inputs[:2]:
        tensor.requires_grad_()
    logits, expected = head(*inputs), _per_query(head, *inputs)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    wanted = [*inputs[:2], *head.parameters()]
    direction = torch.randn(logits.shape)
    ours = torch.autograd.grad(logits, wanted, direction, retain_graph=True)
    theirs = torch.autograd.grad(expected, wanted, direction)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


@pytest.mark.parametrize("relative_coordinates", [True, False])
@torch.no_grad()
def test_masks_are_those_of_the_published_formulation(relative_coordinates: bool) -> None:
    inputs = _inputs()
    logits = _head(relative_coordinates)(*inputs)
    expected = to_reference(_head(relative_coordinates))(*inputs)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("relative_coordinates", [True, False])
@torch.no_grad()
def test_composing_with_the_convolution_in_front_changes_nothing(relative_coordinates: bool) -> None:
    torch.manual_seed(2)
    head, (_, queries, references, sizes) = _head(relative_coordinates), _inputs()
    conv = disturb(nn.Conv2d(6, MASK_DIM, 3, padding=1))
    pyramid = torch.randn(FRAMES, 6, H, W)
    expected = head(conv(pyramid), queries, references, sizes)
    composed = head.forward_composed(pyramid, conv, queries, references, sizes)
    torch.testing.assert_close(composed, expected, atol=1e-4, rtol=1e-4)
    one = head.forward_composed(pyramid, conv, queries[:, 1:2], references[:, 1:2], sizes)
    torch.testing.assert_close(one, expected[:, 1:2], atol=1e-4, rtol=1e-4)


def test_the_published_head_has_2153_numbers_a_query() -> None:
    head = DynamicMaskHead(dim=256, mask_dim=256, channels=8, relative_coordinates=True)
    assert head.controller.layers[-1].out_features == 2153 == 8 * 258 + 8 * 8 + 8 + 8 + 8 + 1
    assert all((layer.bias == 0).all() for layer in head.controller.layers)


def test_pixel_centres_are_two_pixels_into_each_cell_of_four() -> None:
    grid = pixel_grid(2, 3, torch.device("cpu"))
    assert grid.tolist() == [[2, 6, 10, 2, 6, 10], [2, 2, 2, 6, 6, 6]]


@torch.no_grad()
def test_a_mask_moves_with_its_reference() -> None:
    """Over even features a query's mask depends on the offset alone: a shift by a pixel of the map shifts the mask."""
    head, (features, queries, _, _) = _head(True), _inputs()
    features = features[..., :1, :1].expand(-1, -1, H, W)
    size = torch.tensor([[4 * H, 4 * W]] * FRAMES)
    reference = torch.full((FRAMES, QUERIES, 2), 0.4)
    moved = reference + torch.tensor([1 / W, 0])
    a, b = head(features, queries, reference, size), head(features, queries, moved, size)
    torch.testing.assert_close(a[..., :-1], b[..., 1:], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(a, b, atol=1e-2)


@pytest.mark.parametrize("composed", [False, True])
@torch.no_grad()
def test_half_precision_keeps_coordinates_and_kernels_whole(composed: bool) -> None:
    """Offsets of hundreds of pixels, of which bfloat16 would keep whole even numbers only."""
    torch.manual_seed(2)
    head, (_, queries, references, _) = _head(True), _inputs()
    conv, pyramid = nn.Conv2d(6, MASK_DIM, 3, padding=1), torch.zeros(FRAMES, 6, H, W)
    nn.init.zeros_(conv.bias)
    sizes = torch.tensor([[701, 1203]] * FRAMES)

    def run() -> Tensor:
        if composed:
            return head.forward_composed(pyramid, conv, queries, references, sizes)
        return head(conv(pyramid), queries, references, sizes)

    expected = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = run()
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, atol=1e-3, rtol=1e-4)
