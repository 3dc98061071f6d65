from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.pixel_decoder import PixelDecoder, VisionLanguageBlock, from_convolution, to_convolution
from models.position_encoding import sine_position_2d
from models.text_encoder import TextFeatures
from tests.small_model import assert_gradients_close, disturb, gradients

DIM, BACKBONE_DIM, MASK_DIM = 16, 12, 10
SHAPES = [(17, 21), (9, 11), (5, 6), (3, 3)]  # strides 4, 8, 16, 32 of a frame of 68 x 84


def _decoder(dropout: float = 0.0, recompute: bool = False) -> PixelDecoder:
    torch.manual_seed(0)
    decoder = PixelDecoder(BACKBONE_DIM, DIM, MASK_DIM, num_heads=2, ffn_dim=24, dropout=dropout, recompute=recompute)
    return disturb(decoder, scale=0.1)


def _text(b: int = 2) -> TextFeatures:
    g = torch.Generator().manual_seed(2)
    words, sentence, position = (torch.randn(b, *s, DIM, generator=g) for s in ((5,), (), (5,)))
    return TextFeatures(words, sentence, torch.arange(5) >= torch.tensor([5, 3])[:b, None], position)


def _inputs(b: int = 2, t: int = 2, padded: bool = True) -> tuple[list[Tensor], list[Tensor] | None, list[Tensor]]:
    """Maps of strides 4, 8, 16, 32, their masks (the second clip ends at two thirds of the width) and positions."""
    g = torch.Generator().manual_seed(1)
    dims = (BACKBONE_DIM, DIM, DIM, DIM)
    maps = [torch.randn(b, t, h, w, c, generator=g) for (h, w), c in zip(SHAPES, dims, strict=True)]
    masks = [torch.zeros(b, h, w, dtype=torch.bool) for h, w in SHAPES]
    if padded:
        for mask in masks:
            mask[1:, :, mask.shape[-1] * 2 // 3 :] = True
    return maps, masks if padded else None, [sine_position_2d(mask, DIM) for mask in masks]


def _forward(decoder: PixelDecoder, maps, masks, positions, text: TextFeatures) -> Tensor:
    finest = decoder.look_finest(maps[0], positions[0], None if masks is None else masks[0])
    return decoder(finest, maps[1:], positions, masks, text)


def _attend(attention: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    theirs = nn.MultiheadAttention(DIM, attention.num_heads, batch_first=True)
    theirs.load_state_dict(attention.state_dict())
    return theirs(query, key, value, key_padding_mask=mask)[0]


def _norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, (DIM,), norm.weight, norm.bias, norm.eps)


def _block(
    block: VisionLanguageBlock, x: Tensor, position: Tensor, mask: Tensor | None, text: TextFeatures, reduction: int
) -> Tensor:
    """The vision-language block on (T, C, h, w) of one clip, position (h, w, C), mask (h, w)."""
    t, _, h, w = x.shape
    small_h, small_w = max(h // reduction, 1), max(w // reduction, 1)
    rows = [i * h // small_h for i in range(small_h)]  # nearest
    columns = [i * w // small_w for i in range(small_w)]
    value = x[:, :, rows][:, :, :, columns].permute(0, 2, 3, 1).reshape(1, -1, DIM)  # order t, h, w
    where = position[rows][:, columns].reshape(1, -1, DIM).repeat(1, t, 1)
    padding = None if mask is None else mask[rows][:, columns].reshape(1, -1).repeat(1, t)
    attended = _attend(block.self_attn, value + where, value + where, value, padding)
    attended = attended.view(t, small_h, small_w, DIM).permute(0, 3, 1, 2)
    attended = F.interpolate(attended, size=(h, w), mode="bilinear", align_corners=False)
    tokens = (x + attended).permute(0, 2, 3, 1).reshape(1, -1, DIM)
    tokens = _norm(tokens, block.self_norm)
    query = tokens + position.reshape(1, -1, DIM).repeat(1, t, 1)
    attended = _attend(block.word_attn, query, text.words + text.position, text.words, text.padding_mask)
    tokens = _norm(tokens + attended, block.word_norm)
    hidden = F.relu(F.linear(tokens, block.ffn.linear1.weight, block.ffn.linear1.bias))
    tokens = _norm(tokens + F.linear(hidden, block.ffn.linear2.weight, block.ffn.linear2.bias), block.ffn.norm)
    return tokens.view(t, h, w, DIM).permute(0, 3, 1, 2)


def _pyramid(decoder: PixelDecoder, maps, masks, positions, text: TextFeatures, clip: int) -> Tensor:
    """CM-FPN of one clip in channels-first memory, from stride 32 to 4."""
    words = TextFeatures(
        *(getattr(text, n)[clip : clip + 1] for n in ("words", "sentence", "padding_mask", "position"))
    )
    result = None
    for i, reduction in zip((3, 2, 1, 0), (1, 2, 4, 8), strict=True):
        level = decoder.levels[i]
        x = F.conv2d(maps[i][clip].permute(0, 3, 1, 2), level.lateral.weight)
        x = F.group_norm(x, 8, level.lateral_norm.weight, level.lateral_norm.bias)
        mask = None if masks is None else masks[i][clip]
        x = _block(level.fusion, x, positions[i][clip], mask, words, reduction)
        if result is not None:
            h, w = x.shape[-2:]
            rows = [y * result.shape[-2] // h for y in range(h)]
            columns = [z * result.shape[-1] // w for z in range(w)]
            x = x + result[:, :, rows][:, :, :, columns]
        x = F.conv2d(x, level.output.weight, padding=1)
        result = F.relu(F.group_norm(x, 8, level.output_norm.weight, level.output_norm.bias))
    return result


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_the_pyramid_is_the_formula_of_each_clip(padded: bool) -> None:
    """Also: clips of a batch do not see each other. Sizes are odd, so that no rounding goes unseen."""
    decoder, text = _decoder(), _text()
    maps, masks, positions = _inputs(padded=padded)
    pyramid = _forward(decoder, maps, masks, positions, text)
    assert pyramid.shape == (4, DIM, *SHAPES[0])
    for clip in range(2):
        expected = _pyramid(decoder, maps, masks, positions, text, clip)
        torch.testing.assert_close(pyramid.unflatten(0, (2, 2))[clip], expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_frames_of_a_clip_see_each_other() -> None:
    decoder, text = _decoder(), _text()
    maps, masks, positions = _inputs()
    before = _forward(decoder, maps, masks, positions, text).unflatten(0, (2, 2))
    changed = [m.clone() for m in maps]
    changed[3][0, 1] += 1  # second frame of the first clip
    after = _forward(decoder, changed, masks, positions, text).unflatten(0, (2, 2))
    assert not torch.allclose(before[0, 0], after[0, 0], atol=1e-5)
    torch.testing.assert_close(before[1], after[1])


@pytest.mark.parametrize("reduction", [1, 2])
@torch.no_grad()
def test_attention_among_frames_does_not_see_padding(reduction: int) -> None:
    torch.manual_seed(0)
    block = disturb(VisionLanguageBlock(DIM, 2, 24, 0.0, reduction))
    mask = torch.zeros(1, 6, 8, dtype=torch.bool)
    mask[:, 4:] = True
    mask[:, :, 6:] = True
    x, position = torch.randn(1, 2, 6, 8, DIM), sine_position_2d(mask, DIM)
    other = torch.where(mask[:, None, ..., None], 100.0, x)
    valid = (slice(None), slice(None), slice(0, 3), slice(0, 5))  # as far as interpolation does not reach padding
    a, b = block.attend_frames(x, position, mask), block.attend_frames(other, position, mask)
    torch.testing.assert_close(a[valid], b[valid])


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 9), (1, 12)])
@torch.no_grad()
def test_maps_smaller_than_the_reduction(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = disturb(VisionLanguageBlock(DIM, 2, 24, 0.0, reduction=8))
    mask = torch.zeros(1, *shape, dtype=torch.bool)
    mask[:, :, shape[1] // 2 + 1 :] = True
    x = torch.randn(1, 2, *shape, DIM)
    output = block.attend_frames(x, sine_position_2d(mask, DIM), mask)
    assert output.shape == x.shape and output.isfinite().all()


def test_views_between_the_two_layouts() -> None:
    x = torch.randn(2, 3, 4, 5, 6)
    y = to_convolution(x)
    assert y.shape == (6, 6, 4, 5) and y.data_ptr() == x.data_ptr()
    assert torch.equal(y[4], x[1, 1].permute(2, 0, 1))
    assert torch.equal(from_convolution(y, 3), x)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_recomputing_gives_the_same_gradients(dropout: float) -> None:
    results = []
    for recompute in (False, True):
        decoder = _decoder(dropout, recompute).train()
        torch.manual_seed(9)
        decoder.mask_features(_forward(decoder, *_inputs(), _text())).square().mean().backward()
        results.append(gradients(decoder))
    assert_gradients_close(results[1], results[0], rtol=1e-4)
    assert all(g is not None for g in results[0].values())


def test_without_fusion_it_is_a_plain_pyramid() -> None:
    decoder = PixelDecoder(BACKBONE_DIM, DIM, MASK_DIM, num_heads=2, ffn_dim=24, dropout=0.0, fusion=False)
    decoder = disturb(decoder, scale=0.1).eval()
    assert not [name for name, _ in decoder.named_parameters() if "fusion" in name]
    maps, masks, positions = _inputs()
    with torch.no_grad():
        expected = None
        for level, x in reversed(list(zip(decoder.levels, maps, strict=True))):
            lateral = level.lateral_norm(level.lateral(x.flatten(0, 1).movedim(-1, 1)))
            if expected is not None:
                lateral = lateral + F.interpolate(expected, size=lateral.shape[-2:], mode="nearest")
            expected = level.output_norm(level.output(lateral)).relu()
        seen = decoder.look_finest(maps[0], positions[0], masks[0])
        for _ in range(2):  # the second caption of a video gets what the first got
            torch.testing.assert_close(decoder(seen, maps[1:], positions, masks, _text()), expected)
