from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.deformable_transformer import (
    DeformableTransformer,
    Memory,
    encoder_reference_points,
    inverse_sigmoid,
    predict_boxes,
    valid_ratio,
)
from models.feed_forward import MLP
from models.position_encoding import sine_position_2d
from tests.small_model import assert_gradients_close, disturb, gradients

DIM = 16
SHAPES = [(6, 8), (3, 4), (2, 2)]


def _transformer(num_layers: int = 2, dropout: float = 0.0, recompute: bool = False) -> DeformableTransformer:
    torch.manual_seed(0)
    sizes = {"num_encoder_layers": num_layers, "num_decoder_layers": num_layers, "num_levels": len(SHAPES)}
    transformer = DeformableTransformer(
        dim=DIM, num_heads=2, **sizes, num_points=2, ffn_dim=24, dropout=dropout, recompute=recompute
    )
    return disturb(transformer, scale=0.2)


def _maps(b: int = 2, t: int = 3, shapes: list[tuple[int, int]] = SHAPES, seed: int = 1) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(b, t, h, w, DIM, generator=g) for h, w in shapes]


def _positions(masks: list[Tensor]) -> list[Tensor]:
    return [sine_position_2d(mask, DIM) for mask in masks]


def _unpadded(b: int = 2) -> list[Tensor]:
    return [torch.zeros(b, h, w, dtype=torch.bool) for h, w in SHAPES]


def _decode(transformer: DeformableTransformer, memory: Memory, box_refine: bool) -> list[Any]:
    g = torch.Generator().manual_seed(5)
    clips = len(memory.tokens) // memory.num_frames
    sentence, query_position = torch.randn(clips, DIM, generator=g), torch.randn(4, DIM, generator=g)
    torch.manual_seed(6)
    layers = len(transformer.decoder_layers) if box_refine else 1
    heads = nn.ModuleList(disturb(MLP(DIM, DIM, 4, 3), i, scale=0.3) for i in range(layers))
    return transformer.decode(memory, sentence, query_position, heads, box_refine)


def test_inverse_sigmoid_undoes_the_sigmoid_and_stays_finite() -> None:
    x = torch.linspace(-8, 8, 50)
    torch.testing.assert_close(inverse_sigmoid(x.sigmoid()), x, atol=1e-2, rtol=0)
    edges = inverse_sigmoid(torch.tensor([-1.0, 0.0, 1e-6, 1.0, 2.0]))
    limit = math.log(1e-5)
    torch.testing.assert_close(edges, torch.tensor([limit, limit, limit, -limit, -limit]))


def test_a_point_moves_by_its_centre_and_a_box_by_all_four_numbers() -> None:
    torch.manual_seed(0)
    head = disturb(MLP(DIM, DIM, 4, 3))
    queries, box = torch.randn(2, 3, DIM), torch.rand(2, 3, 4) * 0.8 + 0.1
    delta = head(queries)
    logit = torch.log(box / (1 - box))
    torch.testing.assert_close(predict_boxes(head, queries, box), (delta + logit).sigmoid())
    moved = predict_boxes(head, queries, box[..., :2])
    torch.testing.assert_close(moved[..., :2], (delta + logit)[..., :2].sigmoid())
    torch.testing.assert_close(moved[..., 2:], delta[..., 2:].sigmoid())


def test_valid_ratio_is_the_share_of_columns_and_rows() -> None:
    mask = torch.ones(2, 6, 8, dtype=torch.bool)
    mask[0, :3, :6] = False
    mask[1] = False
    assert valid_ratio(mask).tolist() == [[6 / 8, 3 / 6], [1, 1]]


def test_reference_points_are_pixel_centres_seen_from_each_level() -> None:
    ratios = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.5, 0.75], [0.6, 0.8]]])  # (w, h)
    shapes = [(4, 6), (2, 3)]
    points = encoder_reference_points(shapes, ratios)
    for b in range(2):
        position = 0
        for level, (h, w) in enumerate(shapes):
            for y in range(h):
                for x in range(w):
                    u = (x + 0.5) / (w * ratios[b, level, 0])
                    v = (y + 0.5) / (h * ratios[b, level, 1])
                    for seen_from in range(2):
                        expected = torch.stack((u * ratios[b, seen_from, 0], v * ratios[b, seen_from, 1]))
                        torch.testing.assert_close(points[b, position, seen_from], expected)
                    position += 1
        assert position == points.shape[1]


def _post_norm(x: Tensor, update: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x + update, (DIM,), norm.weight, norm.bias)


def _feed_forward(x: Tensor, ffn: nn.Module) -> Tensor:
    return _post_norm(x, ffn.linear2(ffn.linear1(x).clamp(min=0)), ffn.norm)


@torch.no_grad()
def test_the_encoder_is_the_formula_layer_by_layer() -> None:
    transformer, maps, masks = _transformer(), _maps(), _unpadded()
    memory = transformer.encode(maps, None, _positions(masks))
    tokens = torch.cat([m.reshape(6, -1, DIM) for m in maps], dim=1)
    position = torch.cat(
        [p.flatten(1, 2) + transformer.level_embed[i] for i, p in enumerate(_positions(masks))], dim=1
    ).repeat_interleave(3, 0)
    references = encoder_reference_points(SHAPES, torch.ones(6, 3, 2))
    for layer in transformer.encoder_layers:
        attended = layer.self_attn(tokens + position, references, tokens, SHAPES)
        tokens = _feed_forward(_post_norm(tokens, attended, layer.norm), layer.ffn)
    torch.testing.assert_close(memory.tokens, tokens, atol=1e-5, rtol=1e-4)
    assert memory.padding_mask is None and memory.num_frames == 3 and memory.shapes == SHAPES
    starts = [0, 48, 60, 64]
    for i, (h, w) in enumerate(SHAPES):
        expected = memory.tokens[:, starts[i] : starts[i + 1]].view(2, 3, h, w, DIM)
        assert torch.equal(memory.level(i), expected)


@pytest.mark.parametrize("box_refine", [True, False])
@torch.no_grad()
def test_the_decoder_is_the_formula_layer_by_layer(box_refine: bool) -> None:
    transformer = _transformer(num_layers=3)
    memory = transformer.encode(_maps(), None, _positions(_unpadded()))
    states = _decode(transformer, memory, box_refine)

    g = torch.Generator().manual_seed(5)
    sentence, embedding = torch.randn(2, DIM, generator=g), torch.randn(4, DIM, generator=g)
    torch.manual_seed(6)
    heads = [disturb(MLP(DIM, DIM, 4, 3), i, scale=0.3) for i in range(3 if box_refine else 1)]
    for frame in range(6):
        queries = sentence[frame // 3].expand(4, -1)[None]  # the sentence of the frame's clip, once per query
        references = (embedding @ transformer.reference_points.weight.T + transformer.reference_points.bias).sigmoid()
        references = references[None]
        for i, layer in enumerate(transformer.decoder_layers):
            attention = nn.MultiheadAttention(DIM, 2, batch_first=True)
            attention.load_state_dict(layer.self_attn.state_dict())
            key = queries + embedding
            queries = _post_norm(queries, attention(key, key, queries)[0], layer.self_norm)
            tokens = memory.tokens[frame : frame + 1]
            per_level = references[:, :, None].expand(-1, -1, len(SHAPES), -1)
            attended = layer.cross_attn(queries + embedding, per_level, tokens, SHAPES)
            queries = _feed_forward(_post_norm(queries, attended, layer.cross_norm), layer.ffn)
            boxes = predict_boxes(heads[i if box_refine else 0], queries, references)
            torch.testing.assert_close(states[i].queries[frame], queries[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(states[i].references[frame], references[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(states[i].boxes[frame], boxes[0], atol=1e-5, rtol=1e-4)
            if box_refine:
                references = boxes


@pytest.mark.parametrize("box_refine", [True, False])
def test_what_flows_back_through_references(box_refine: bool) -> None:
    """A refined box is detached before the next layer and the mask head see it; the first reference is learned."""
    transformer = _transformer()
    memory = transformer.encode(_maps(), None, _positions(_unpadded()))
    states = _decode(transformer, memory, box_refine)
    assert states[0].references.shape[-1] == 2 and states[0].references.requires_grad
    if box_refine:
        assert torch.equal(states[1].references, states[0].boxes) and not states[1].references.requires_grad
        assert torch.equal(states[1].mask_reference(True), states[1].boxes[..., :2])
        assert not states[1].mask_reference(True).requires_grad
    else:
        assert torch.equal(states[1].references, states[0].references)
        assert torch.equal(states[1].mask_reference(False), states[0].references)


@pytest.mark.parametrize("box_refine", [True, False])
@torch.no_grad()
def test_padding_makes_no_difference(box_refine: bool) -> None:
    """Maps padded at the right and bottom, with anything in the padding, equal the same maps without."""
    transformer = _transformer()
    maps, masks = _maps(b=1), _unpadded(b=1)
    memory = transformer.encode(maps, None, _positions(masks))
    padded_maps, padded_masks = [], []
    for m, (h, w) in zip(maps, SHAPES, strict=True):
        grown = torch.full((1, 3, h + 2, w + 3, DIM), 50.0)
        grown[:, :, :h, :w] = m
        mask = torch.ones(1, h + 2, w + 3, dtype=torch.bool)
        mask[:, :h, :w] = False
        padded_maps.append(grown)
        padded_masks.append(mask)
    padded = transformer.encode(padded_maps, padded_masks, _positions(padded_masks))
    for i, (h, w) in enumerate(SHAPES):
        torch.testing.assert_close(padded.level(i)[:, :, :h, :w], memory.level(i), atol=1e-4, rtol=1e-3)
    for a, b in zip(_decode(transformer, padded, box_refine), _decode(transformer, memory, box_refine), strict=True):
        torch.testing.assert_close(a.queries, b.queries, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(a.boxes, b.boxes, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_masks_without_padding_equal_no_masks() -> None:
    transformer, maps, masks = _transformer(), _maps(), _unpadded()
    a = transformer.encode(maps, masks, _positions(masks))
    b = transformer.encode(maps, None, _positions(masks))
    assert torch.equal(a.valid_ratios, b.valid_ratios) and not a.padding_mask.any()
    torch.testing.assert_close(a.tokens, b.tokens)


@torch.no_grad()
def test_frames_do_not_see_each_other() -> None:
    transformer, maps = _transformer(), _maps()
    together = transformer.encode(maps, None, _positions(_unpadded()))
    states = _decode(transformer, together, True)
    for b in range(2):
        for t in range(3):
            alone = transformer.encode([m[b : b + 1, t : t + 1] for m in maps], None, _positions(_unpadded(1)))
            torch.testing.assert_close(together.tokens[3 * b + t], alone.tokens[0], atol=1e-5, rtol=1e-4)
    changed = [m.clone() for m in maps]
    changed[0][0, 1] += 1
    others = _decode(transformer, transformer.encode(changed, None, _positions(_unpadded())), True)
    same = [torch.equal(a, b) for a, b in zip(states[-1].queries, others[-1].queries, strict=True)]
    assert same == [True, False, True, True, True, True]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_recomputing_gives_the_same_gradients(dropout: float) -> None:
    results = []
    for recompute in (False, True):
        transformer = _transformer(dropout=dropout, recompute=recompute).train()
        torch.manual_seed(9)
        memory = transformer.encode(_maps(), None, _positions(_unpadded()))
        loss = memory.tokens.square().mean() + _decode(transformer, memory, True)[-1].boxes.square().mean()
        loss.backward()
        results.append(gradients(transformer))
    assert_gradients_close(results[1], results[0], rtol=1e-4)
