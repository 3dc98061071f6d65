"""The text path of published checkpoints: a byte-level BPE tokenizer with RoBERTa's ids, trained here, and a randomly
initialised RoBERTa-base."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from transformers import RobertaConfig, RobertaModel

from models.text_encoder import TextEncoder, build_encoder

CORPUS = [
    "a person on the left riding a brown horse",
    "the small white dog running behind the man in a red shirt",
    "a skateboard being ridden down the street, then the ramp",
    "the café's 2nd parrot — the one that's moving!",
]
CAPTIONS = ["a dog", "the white horse on the left, running behind the man in a red shirt", "person riding"]
BEGIN, PADDING, END = 0, 1, 2  # RoBERTa's ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one downloads of roberta-base, its tokenizer trained on a few sentences: vocab.json, merges.txt, config."""
    folder = tmp_path_factory.mktemp("roberta")
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(CORPUS, vocab_size=420, min_frequency=1, special_tokens=special)
    tokenizer.save_model(str(folder))
    config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    torch.manual_seed(0)
    roberta, tokenizer = build_encoder(str(folder), pretrained=False)
    return TextEncoder(roberta, tokenizer, dim=256).eval()


def _by_hand(folder: Path, caption: str) -> list[int]:
    """Ids by the rule of byte-level BPE, merge by merge, without the library's tokenizer."""
    vocabulary = json.loads((folder / "vocab.json").read_text())
    merges = [tuple(line.split()) for line in (folder / "merges.txt").read_text().splitlines() if line[0] != "#"]
    rank = {pair: i for i, pair in enumerate(merges)}
    ids = [BEGIN]
    for i, word in enumerate(caption.split(" ")):
        pieces = list(("Ġ" if i else "") + word)  # ASCII stands for itself, the space before a word for Ġ
        while len(pieces) > 1:
            best = min(range(len(pieces) - 1), key=lambda k: rank.get((pieces[k], pieces[k + 1]), len(rank)))
            if (pieces[best], pieces[best + 1]) not in rank:
                break
            pieces[best : best + 2] = [pieces[best] + pieces[best + 1]]
        ids += [vocabulary[piece] for piece in pieces]
    return [*ids, END]


def test_ids_are_those_of_byte_level_bpe(folder: Path, encoder: TextEncoder) -> None:
    captions = ["a dog", "the white horse riding down", "person zebra"]  # no zebra in the corpus: several pieces
    tokens = encoder.tokenize(captions)
    for caption, ids, padding in zip(captions, tokens.ids, tokens.padding_mask, strict=True):
        assert ids[~padding].tolist() == _by_hand(folder, caption)
        assert (ids[padding] == PADDING).all()


def test_any_letter_has_ids_and_comes_back(encoder: TextEncoder) -> None:
    caption = "the café's naïve 猫 — 100%!"
    ids = encoder.tokenize([caption]).ids[0]
    assert encoder.tokenizer.unk_token_id not in ids
    assert encoder.tokenizer.decode(ids, skip_special_tokens=True) == caption


@torch.no_grad()
def test_a_batch_gives_what_each_caption_gives_alone(encoder: TextEncoder) -> None:
    together = encoder(CAPTIONS)
    lengths = (~together.padding_mask).sum(1).tolist()
    assert len(set(lengths)) == 3
    for i, (caption, length) in enumerate(zip(CAPTIONS, lengths, strict=True)):
        alone = encoder([caption])
        assert alone.words.shape == (1, length, 256) and not alone.padding_mask.any()
        torch.testing.assert_close(together.words[i, :length], alone.words[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(together.sentence[i], alone.sentence[0], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_words_are_the_last_states_and_the_sentence_is_pooled(encoder: TextEncoder) -> None:
    """Against RoBERTa itself, called without padding, and the resizer written out."""
    roberta, resizer = encoder.encoder, encoder.resizer
    assert isinstance(roberta, RobertaModel) and roberta.config.num_hidden_layers == 12

    def resize(x: Tensor) -> Tensor:
        x = x @ resizer.linear.weight.T + resizer.linear.bias
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()  # weights of the norm are 1 and 0

    states = roberta(input_ids=encoder.tokenize(CAPTIONS[1:2]).ids).last_hidden_state
    pooled = torch.tanh(roberta.pooler.dense(states[:, 0]))
    features = encoder(CAPTIONS[1:2])
    torch.testing.assert_close(features.words, resize(states), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features.sentence, resize(pooled), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_over_long_caption_is_cut_with_a_warning(encoder: TextEncoder, caplog: pytest.LogCaptureFixture) -> None:
    long = "the white horse " * 400
    with caplog.at_level(logging.WARNING, logger="models.text_encoder"):
        tokens = encoder.tokenize([long, "a dog"])
    assert tokens.ids.shape == (2, encoder.max_tokens) and encoder.max_tokens == 128
    assert tokens.ids[0, 0] == BEGIN and tokens.ids[0, -1] == END and not tokens.padding_mask[0].any()
    assert [record.args[0] for record in caplog.records] == [128]
    assert encoder([long, "a dog"]).words.shape == (2, 128, 256)


@torch.no_grad()
def test_a_checkpoint_carries_the_same_tokenizer(encoder: TextEncoder) -> None:
    roberta, tokenizer = build_encoder("elsewhere", pretrained=False, assets=encoder.assets())
    copy = TextEncoder(roberta, tokenizer, dim=256).eval()
    copy.load_state_dict(encoder.state_dict())
    captions = [*CAPTIONS, "naïve 猫", "the white horse " * 400]
    assert torch.equal(copy.tokenize(captions).ids, encoder.tokenize(captions).ids)
    torch.testing.assert_close(copy(CAPTIONS).words, encoder(CAPTIONS).words)


def test_a_folder_with_tokenizer_json_does_as_well(folder: Path, encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink(missing_ok=True)
    with torch.device("meta"):
        roberta, tokenizer = build_encoder(str(tmp_path), pretrained=False)
        other = TextEncoder(roberta, tokenizer, dim=256)
    captions = [*CAPTIONS, "naïve 猫"]
    assert torch.equal(other.tokenize(captions).ids, encoder.tokenize(captions).ids)
