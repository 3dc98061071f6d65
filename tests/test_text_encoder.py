from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DistilBertConfig, DistilBertModel

from models.position_encoding import sine_position_1d
from models.text_encoder import TextEncoder, TextFeatures, Tokens, build_encoder

SMALL = "configs/text_encoder_small"
CAPTIONS = ["a red square", "the small blue circle that moves to the left behind the green one", "it"]


def _encoder(assets: dict[str, Any] | None = None, **options: Any) -> TextEncoder:
    torch.manual_seed(0)
    encoder, tokenizer = build_encoder(SMALL, pretrained=False, assets=assets)
    return TextEncoder(encoder, tokenizer, dim=32, **options)


@pytest.fixture(scope="module")
def text_encoder() -> TextEncoder:
    return _encoder(frozen=False).eval()


def _assert_equal(a: TextFeatures, b: TextFeatures) -> None:
    for name in ("words", "sentence", "padding_mask", "position"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_captions_become_bytes_and_come_back(text_encoder: TextEncoder) -> None:
    """The tokenizer is a byte-level BPE: no letter is unknown to it."""
    captions = ["a red square", "the café's naïve 猫 — 100%"]
    tokens = text_encoder.tokenize(captions)
    tokenizer = text_encoder.tokenizer
    assert tokens.ids.shape == tokens.padding_mask.shape
    for caption, ids, padding in zip(captions, tokens.ids, tokens.padding_mask, strict=True):
        assert ids[0] == tokenizer.bos_token_id and ids[~padding][-1] == tokenizer.eos_token_id
        assert (ids[padding] == tokenizer.pad_token_id).all()
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == caption
    assert len(set(tokens.ids[1].tolist())) > 5


def test_capitals_and_spaces_make_no_difference(text_encoder: TextEncoder) -> None:
    tokens = text_encoder.tokenize(["  The  RED\tsquare\n", "the red square"])
    assert torch.equal(tokens.ids[0], tokens.ids[1])


@torch.no_grad()
def test_captions_of_different_length_equal_each_alone(text_encoder: TextEncoder) -> None:
    together = text_encoder(CAPTIONS)
    lengths = (~together.padding_mask).sum(1).tolist()
    assert len(set(lengths)) == 3 and max(lengths) == together.words.shape[1]
    for i, (caption, length) in enumerate(zip(CAPTIONS, lengths, strict=True)):
        alone = text_encoder([caption])
        assert alone.words.shape == (1, length, 32) and not alone.padding_mask.any()
        torch.testing.assert_close(together.words[i, :length], alone.words[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.sentence[i], alone.sentence[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.position[i, :length], alone.position[0])
    assert not torch.allclose(together.sentence[0], together.sentence[2], atol=1e-2)


@torch.no_grad()
def test_features_are_the_encoders_through_one_resizer(text_encoder: TextEncoder) -> None:
    tokens = text_encoder.tokenize(CAPTIONS)
    features = text_encoder(tokens)
    _assert_equal(features, text_encoder(CAPTIONS))
    encoded = text_encoder.encoder(input_ids=tokens.ids, attention_mask=(~tokens.padding_mask).long())
    resizer = text_encoder.resizer

    def resize(x: torch.Tensor) -> torch.Tensor:
        y = x @ resizer.linear.weight.T + resizer.linear.bias
        y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-12).sqrt()
        return y * resizer.norm.weight + resizer.norm.bias

    torch.testing.assert_close(features.words, resize(encoded.last_hidden_state), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features.sentence, resize(encoded.pooler_output), atol=1e-5, rtol=1e-4)
    assert torch.equal(features.position, sine_position_1d(tokens.padding_mask, 32))


def test_too_long_captions_are_cut_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    encoder = _encoder(max_tokens=8).eval()
    long = "the red " * 50
    with caplog.at_level(logging.WARNING):
        tokens = encoder.tokenize([long, "a dog"])
    assert tokens.ids.shape == (2, 8)
    assert tokens.ids[0, -1] == encoder.tokenizer.eos_token_id
    assert len(caplog.messages) == 1 and "cut to 8 tokens" in caplog.text and "the red" in caplog.text
    encoder(tokens)

    exact = encoder.tokenizer.decode(tokens.ids[0], skip_special_tokens=True)
    caplog.clear()
    assert torch.equal(encoder.tokenize([exact]).ids[0], tokens.ids[0])  # eight tokens are not too long
    assert not caplog.messages


def test_no_more_tokens_than_the_encoder_has_positions() -> None:
    encoder = _encoder(max_tokens=10_000).eval()
    assert encoder.max_tokens == encoder.encoder.config.max_position_embeddings - 2
    words = encoder(["the red square " * 200]).words
    assert words.shape[1] == encoder.max_tokens and words.isfinite().all()


@pytest.mark.parametrize("caption", ["", "  \t\n"])
def test_a_caption_without_words_is_an_error(text_encoder: TextEncoder, caption: str) -> None:
    with pytest.raises(ValueError, match="no words"):
        text_encoder(["a dog", caption])


def test_a_frozen_encoder_has_no_dropout_and_no_gradient() -> None:
    encoder = _encoder(frozen=True, dropout=0.5)
    for module in encoder.encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    nn.Sequential(encoder).train()  # as a part of a model that is trained
    assert encoder.training and not any(m.training for m in encoder.encoder.modules())
    hidden = []
    hook = encoder.resizer.linear.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    first, second = encoder(["a dog"]), encoder(["a dog"])
    hook.remove()
    assert torch.equal(hidden[0], hidden[2]) and not hidden[0].requires_grad  # words of the two calls
    assert not torch.equal(first.words, second.words)  # the resizer is trained, with dropout
    first.words.sum().backward()
    assert encoder.resizer.linear.weight.grad is not None
    assert not any(p.requires_grad for p in encoder.encoder.parameters())


def test_a_trained_encoder_gets_gradients() -> None:
    encoder = _encoder(frozen=False).train()
    assert all(m.training for m in encoder.encoder.modules())
    features = encoder(CAPTIONS)
    (features.words.square().sum() + features.sentence.sum()).backward()
    assert all(p.grad is not None for p in encoder.parameters())


@torch.no_grad()
def test_assets_bring_the_encoder_and_its_tokenizer(text_encoder: TextEncoder) -> None:
    fresh = _encoder(frozen=False).assets()
    used = text_encoder.assets()  # the tokenizer remembers the padding and cutting of its last call
    for assets in (fresh, used):
        assert all(isinstance(value, str | dict) for value in assets.values())
        copy = _encoder(assets, frozen=False).eval()
        copy.load_state_dict(text_encoder.state_dict())
        _assert_equal(copy(CAPTIONS), text_encoder(CAPTIONS))
        assert copy.max_tokens == text_encoder.max_tokens
        long = ["the red square " * 100, "a dog"]
        assert torch.equal(copy.tokenize(long).ids, text_encoder.tokenize(long).ids)


def test_assets_of_anyone_name_no_code() -> None:
    assets = _encoder().assets()
    head = '{"auto_map": {"AutoModel": "evil--model.Evil"}, "_attn_implementation": "evil/kernel", '
    assert not hasattr(_encoder(assets | {"config": head + assets["config"][1:]}).encoder.config, "auto_map")


@pytest.mark.parametrize(
    "damage",
    [
        {"config": "{"},
        {"config": "{}"},
        {"config": '{"model_type": "nothing_known"}'},
        {"tokenizer": "{}"},
        {"special_tokens": None},
    ],
)
def test_damaged_assets_are_an_error(damage: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="text encoder cannot be built"):
        _encoder(_encoder().assets() | damage)


def test_a_folder_with_weights_is_read(tmp_path: Path, text_encoder: TextEncoder) -> None:
    text_encoder.encoder.save_pretrained(tmp_path)
    text_encoder.tokenizer.save_pretrained(tmp_path)
    encoder, tokenizer = build_encoder(str(tmp_path), pretrained=True)
    copy = TextEncoder(encoder, tokenizer, dim=32, frozen=False).eval()
    copy.resizer.load_state_dict(text_encoder.resizer.state_dict())
    _assert_equal(copy(CAPTIONS), text_encoder(CAPTIONS))


def test_folders_of_the_repository_are_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build_encoder(SMALL, pretrained=False)


@pytest.mark.parametrize(("name", "pretrained"), [("no/such-encoder", False), (SMALL, True)])
def test_an_encoder_that_is_not_there_names_the_cure(name: str, pretrained: bool) -> None:
    """Tests run offline; the folder of the small encoder has no weights."""
    with pytest.raises(FileNotFoundError, match=r"config\.json.*put them in a folder.*model\.text_encoder"):
        build_encoder(name, pretrained=pretrained)


@torch.no_grad()
def test_an_encoder_without_pooler_gives_its_first_token(text_encoder: TextEncoder) -> None:
    torch.manual_seed(0)
    size = len(text_encoder.tokenizer)
    config = DistilBertConfig(vocab_size=size, dim=16, hidden_dim=32, n_layers=1, n_heads=2, pad_token_id=1)
    encoder = TextEncoder(DistilBertModel(config), text_encoder.tokenizer, dim=32).eval()
    features = encoder(CAPTIONS)
    torch.testing.assert_close(features.sentence, features.words[:, 0])


def test_tokens_may_be_made_by_hand(text_encoder: TextEncoder) -> None:
    tokens = Tokens(torch.tensor([[0, 40, 2, 1]]), torch.tensor([[False, False, False, True]]))
    assert text_encoder(tokens).words.shape == (1, 4, 32)
