"""Early fusion of words into the visual features, before the transformer (section 3.2, "Transformer Encoder").

B clips, T frames, h x w a map, S words, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.attention import WordAttention
from models.inplace import multiply_into
from models.text_encoder import TextFeatures


class EarlyFusion(nn.Module):
    """visual * attention(visual, words): each pixel is scaled by what it finds in the sentence."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.attention = WordAttention(dim, num_heads)

    def forward(self, visual: Tensor, text: TextFeatures) -> Tensor:
        """(B, T, h, w, C) -> (B, T, h, w, C)."""
        tokens = visual.flatten(2, 3)
        attended = self.attention(tokens, text.words, text.position, text.padding_mask)
        return multiply_into(attended, tokens).view(visual.shape)
