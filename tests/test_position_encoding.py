from __future__ import annotations

import math

import torch

from models.position_encoding import sine_position_1d, sine_position_2d


def _features(position: float, dim: int) -> list[float]:
    """Sines on even features, cosines on odd ones, wavelengths in pairs (Vaswani et al. 2017, section 3.5)."""
    values = []
    for k in range(dim // 2):
        angle = position / 10000 ** (2 * k / dim)
        values += [math.sin(angle), math.cos(angle)]
    return values


def test_pixels_are_encoded_by_their_place_among_those_that_are_not_padding() -> None:
    sizes, dim = [(5, 7), (3, 2)], 16  # valid rows and columns of two maps of 5 x 7
    mask = torch.ones(2, 5, 7, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = False
    position = sine_position_2d(mask, dim)
    assert position.shape == (2, 5, 7, dim)
    for i, (h, w) in enumerate(sizes):
        for y in range(h):
            for x in range(w):
                row = _features((y + 0.5) / (h + 1e-6) * 2 * math.pi, dim // 2)
                column = _features((x + 0.5) / (w + 1e-6) * 2 * math.pi, dim // 2)
                torch.testing.assert_close(position[i, y, x], torch.tensor(row + column), atol=1e-5, rtol=0)
    assert position.isfinite().all()  # on padding too


def test_words_are_encoded_by_their_place_in_the_sentence() -> None:
    lengths, dim = [6, 4], 32
    mask = torch.arange(6) >= torch.tensor(lengths)[:, None]
    position = sine_position_1d(mask, dim)
    assert position.shape == (2, 6, dim)
    for i, length in enumerate(lengths):
        for s in range(length):
            expected = torch.tensor(_features((s + 1) / (length + 1e-6) * 2 * math.pi, dim))
            torch.testing.assert_close(position[i, s], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(position[1, :4], sine_position_1d(torch.zeros(1, 4, dtype=torch.bool), dim)[0])
