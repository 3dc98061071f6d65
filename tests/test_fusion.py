from __future__ import annotations

import torch
from torch import nn

from models.fusion import EarlyFusion
from models.text_encoder import TextFeatures
from tests.small_model import disturb


def test_pixels_are_scaled_by_what_they_find_in_the_sentence() -> None:
    torch.manual_seed(0)
    fusion = disturb(EarlyFusion(16, num_heads=4))
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    attention.load_state_dict(fusion.attention.state_dict())
    visual = torch.randn(2, 3, 4, 5, 16)
    mask = torch.arange(6) >= torch.tensor([[6], [4]])
    text = TextFeatures(torch.randn(2, 6, 16), torch.randn(2, 16), mask, torch.randn(2, 6, 16))

    tokens = visual.reshape(2, 3 * 4 * 5, 16)
    attended, _ = attention(tokens, text.words + text.position, text.words, key_padding_mask=mask)
    torch.testing.assert_close(fusion(visual, text), (tokens * attended).view(visual.shape), atol=1e-5, rtol=1e-4)


def test_channels_first_memory_makes_no_difference() -> None:
    torch.manual_seed(0)
    fusion = disturb(EarlyFusion(16, num_heads=4))
    text = TextFeatures(torch.randn(1, 3, 16), torch.randn(1, 16), torch.zeros(1, 3).bool(), torch.randn(1, 3, 16))
    visual = torch.randn(1, 2, 16, 4, 5).permute(0, 1, 3, 4, 2)
    torch.testing.assert_close(fusion(visual, text), fusion(visual.contiguous(), text))
