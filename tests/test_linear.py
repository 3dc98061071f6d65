from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ops import linear as module
from ops.linear import linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4, 7), (0, 7)])
def test_it_is_a_linear_layer(shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FEWEST_TOKENS", 1)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape, dtype=dtype), torch.randn(6, 7, dtype=dtype), torch.randn(6, dtype=dtype)
    with torch.no_grad():
        for tokens in (x, x.transpose(0, -2)):
            result, expected = linear(tokens, weight, bias), F.linear(tokens, weight, bias)
            assert result.dtype == dtype and result.shape == expected.shape
            torch.testing.assert_close(result, expected, atol=0.05 if dtype == torch.bfloat16 else 1e-5, rtol=1e-2)


def test_many_tokens_are_pixels_without_gradients_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    convolve = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *args: calls.append(1) or convolve(*args))
    x, weight, bias = torch.randn(5000, 4), torch.randn(3, 4, requires_grad=True), torch.randn(3)
    linear(x, weight, bias).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(3, 4), atol=1e-3, rtol=1e-4)
    assert not calls
    with torch.no_grad():
        linear(x, weight, bias)
        assert len(calls) == 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert linear(x, weight, bias).dtype == torch.bfloat16
