"""Multi-head attention, plain and from many pixels to few words.

B clips, P visual tokens, S words, C channels, h heads of d = C / h channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.dropout import dropout
from models.inplace import add_into
from models.precision import full_precision


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with h heads (equation 2 of the paper), on batch-first tokens.

    Parameters are named and shaped as those of `torch.nn.MultiheadAttention`.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.dim, self.num_heads, self.dropout = dim, num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """query (B, Q, C), key and value (B, K, C), key_padding_mask (B, K) True on padding -> (B, Q, C)."""
        projected = [
            rearrange(F.linear(x, weight, bias), "b n (h d) -> b h n d", h=self.num_heads)
            for x, weight, bias in zip(
                (query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True
            )
        ]
        attend = None if key_padding_mask is None else ~key_padding_mask[:, None, None, :]
        if self.training and self.dropout:
            attended = self._attend_with_dropout(*projected, attend)
        else:
            attended = F.scaled_dot_product_attention(*projected, attn_mask=attend)
        return self.out_proj(rearrange(attended, "b h n d -> b n (h d)"))

    def _attend_with_dropout(self, query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None) -> Tensor:
        """Attention among (B, h, Q, d), (B, h, K, d) and (B, h, K, d), its weights dropped at random."""
        if query.device.type != "cpu":
            return F.scaled_dot_product_attention(query, key, value, attn_mask=attend, dropout_p=self.dropout)
        logits = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
        if attend is not None:
            logits = logits.masked_fill(~attend, -torch.inf)
        return dropout(logits.softmax(-1), self.dropout, training=True).to(value.dtype) @ value


class WordAttention(MultiHeadAttention):
    """The same attention for many visual tokens that look at few words.

    Query and output projections are linear, so they are applied to the S words instead of the P visual tokens:
    (x W_q) k = x (W_q k) and (p v) W_o = p (v W_o). Two products of width h S replace two of width C, and neither
    queries nor attended values of the visual tokens are ever written.
    """

    def forward(
        self,
        visual: Tensor,
        words: Tensor,
        word_position: Tensor,
        word_padding_mask: Tensor,
        visual_position: Tensor | None = None,
    ) -> Tensor:
        """Attend from visual tokens to words.

        Args:
            visual: (B, T, P, C) tokens of T frames.
            words: (B, S, C), the values; the keys are words + word_position.
            word_position: (B, S, C).
            word_padding_mask: (B, S), True on padding.
            visual_position: (B, P, C) added to every frame's queries, or None.

        Returns:
            (B, T, P, C).
        """
        t = visual.shape[1]
        with full_precision(words):  # the words are few, so they cost nothing
            word_keys, word_bias, word_values = self._project_words(words.float(), word_position, word_padding_mask)
        # Pixels lie innermost, (B, T, S h, P): a softmax over few words is slow where these lie next to each other.
        logits = self._each_frame(word_keys, t).to(visual.dtype) @ visual.flatten(0, 1).transpose(1, 2)
        if visual_position is not None:
            word_bias = word_bias + torch.bmm(word_keys, visual_position.transpose(1, 2))  # (B, S h, P)
        logits = add_into(logits.float().unflatten(0, (-1, t)), word_bias[:, None])
        probability = logits.unflatten(2, (-1, self.num_heads)).softmax(2).to(visual.dtype)
        probability = dropout(probability, self.dropout, self.training).flatten(2, 3).flatten(0, 1)
        attended = torch.bmm(probability.transpose(1, 2), self._each_frame(word_values, t).to(visual.dtype))
        if self.training and self.dropout:
            attended = attended + self.out_proj.bias.to(visual.dtype)
        return attended.view(visual.shape)

    @staticmethod
    def _each_frame(words: Tensor, num_frames: int) -> Tensor:
        """(B, S h, C) -> (B T, S h, C)."""
        return words[:, None].expand(-1, num_frames, -1, -1).flatten(0, 1)

    def _project_words(
        self, words: Tensor, word_position: Tensor, word_padding_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys (B, S h, C) and their bias (B, S h, 1), -inf on padding, in front of the softmax, and values (B, S h, C)
        behind it; all projections of the attention are in them, and the last bias too unless weights are dropped:
        those of a head sum to 1."""
        heads, scale = self.num_heads, 1 / math.sqrt(self.dim // self.num_heads)
        query_weight, key_weight, value_weight = self.in_proj_weight.chunk(3)
        query_bias, key_bias, value_bias = self.in_proj_bias.chunk(3)
        key = rearrange(F.linear(words + word_position, key_weight, key_bias), "b s (h d) -> b h s d", h=heads) * scale
        value = rearrange(F.linear(words, value_weight, value_bias), "b s (h d) -> b h s d", h=heads)
        keys = torch.einsum("bhsd,hdc->bshc", key, rearrange(query_weight, "(h d) c -> h d c", h=heads))
        bias = torch.einsum("bhsd,hd->bsh", key, rearrange(query_bias, "(h d) -> h d", h=heads))
        bias = bias.masked_fill(word_padding_mask[..., None], -torch.inf)
        values = torch.einsum("bhsd,chd->bshc", value, self.out_proj.weight.unflatten(1, (heads, -1)))
        if not (self.training and self.dropout):
            values = values + self.out_proj.bias / heads
        return keys.flatten(1, 2), bias.flatten(1)[..., None], values.flatten(1, 2)
