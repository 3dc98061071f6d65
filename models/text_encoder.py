"""The sentence: any transformers encoder, its tokenizer, and the resizer to the transformer's channels.

B captions, S tokens of the longest one, C channels.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from models.dropout import Dropout
from models.position_encoding import sine_position_1d

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class TextFeatures:
    """Encoded captions.

    Attributes:
        words: (B, S, C), one vector a token.
        sentence: (B, C), one vector a caption.
        padding_mask: (B, S), True on padding.
        position: (B, S, C), sine position of each token.
    """

    words: Tensor
    sentence: Tensor
    padding_mask: Tensor
    position: Tensor


@dataclass(frozen=True)
class Tokens:
    """Captions as numbers: ids (B, S) int64 and padding_mask (B, S), True on padding."""

    ids: Tensor
    padding_mask: Tensor


class Resizer(nn.Module):
    """Linear -> LayerNorm -> dropout, shared by the words and the sentence."""

    def __init__(self, in_dim: int, dim: int, dropout: float):
        super().__init__()
        self.linear = nn.Linear(in_dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(self.linear(x)))


class TextEncoder(nn.Module):
    """Captions -> word and sentence features (section 3.1, "Linguistic Encoder").

    Args:
        encoder: a transformers encoder, such as `RobertaModel`. The sentence is what its pooler gives, or the state of
            the first token if it has none.
        tokenizer: its tokenizer.
        dim: channels C.
        dropout: of the resizer.
        frozen: the encoder keeps its weights and stays in evaluation mode; the resizer is always trained.
        max_tokens: longer captions are cut, with a warning.
    """

    def __init__(
        self,
        encoder: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        dim: int,
        dropout: float = 0.1,
        frozen: bool = True,
        max_tokens: int = 128,
    ):
        super().__init__()
        self.encoder, self.tokenizer, self.frozen = encoder, tokenizer, frozen
        # A position embedding of RoBERTa begins after the padding index, so two of its rows are never reached.
        positions = getattr(encoder.config, "max_position_embeddings", max_tokens + 2)
        self.max_tokens = min(max_tokens, positions - 2)
        self.resizer = Resizer(encoder.config.hidden_size, dim, dropout)
        self.encoder.requires_grad_(not frozen)
        if frozen:
            self.encoder.eval()

    def train(self, mode: bool = True) -> TextEncoder:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()  # a frozen encoder has no dropout
        return self

    def tokenize(self, captions: list[str], device: torch.device | str = "cpu") -> Tokens:
        """Token ids of captions, padded to the longest. Capitals and further spaces make no difference.

        Raises:
            ValueError: a caption has no words.
        """
        for caption in captions:
            if not caption.strip():
                raise ValueError("a caption has no words; give the sentence that describes the object")
        captions = [" ".join(caption.lower().split()) for caption in captions]
        encoded = self.tokenizer(captions, padding="longest", truncation=True, max_length=self.max_tokens + 1)
        ids, mask = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["attention_mask"])
        if ids.shape[1] > self.max_tokens:
            too_long = [caption for caption, row in zip(captions, mask, strict=True) if row.sum() > self.max_tokens]
            for caption in too_long:
                logger.warning("caption cut to %d tokens: %.80s...", self.max_tokens, caption)
            encoded = self.tokenizer(captions, padding="longest", truncation=True, max_length=self.max_tokens)
            ids, mask = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["attention_mask"])
        return Tokens(ids.to(device), (mask != 1).to(device))

    def forward(self, text: list[str] | Tokens) -> TextFeatures:
        """Encode captions, or tokens made by `tokenize`."""
        device = self.resizer.linear.weight.device
        tokens = text if isinstance(text, Tokens) else self.tokenize(text, device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            encoded = self.encoder(input_ids=tokens.ids, attention_mask=(~tokens.padding_mask).long())
        sentence = getattr(encoded, "pooler_output", None)
        if sentence is None:
            sentence = encoded.last_hidden_state[:, 0]
        words = self.resizer(encoded.last_hidden_state)
        position = sine_position_1d(tokens.padding_mask, words.shape[-1])
        return TextFeatures(words, self.resizer(sentence), tokens.padding_mask, position)

    def assets(self) -> dict[str, Any]:
        """The encoder's configuration and tokenizer as plain data, so that a checkpoint needs no other file."""
        special = {k: str(v) for k, v in self.tokenizer.special_tokens_map.items() if isinstance(v, str)}
        return {
            "config": self.encoder.config.to_json_string(),
            "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
            "special_tokens": special,
        }


def build_encoder(
    name: str, *, pretrained: bool, assets: dict[str, Any] | None = None
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """A transformers encoder and its tokenizer.

    Args:
        name: hub name or local folder with `config.json` and the tokenizer, and the weights if `pretrained`.
        pretrained: load the weights; otherwise they are random.
        assets: of `TextEncoder.assets`, when a checkpoint brings them and its weights follow; `name` is then not read.

    Raises:
        FileNotFoundError: the encoder is neither a folder nor to be had from the hub.
        ValueError: the assets do not describe an encoder and a tokenizer.
    """
    if assets is not None:
        return _encoder_from_assets(assets)
    if not Path(name).is_dir() and (REPOSITORY / name).is_dir():
        name = str(REPOSITORY / name)  # a folder of this repository, named from elsewhere
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        if pretrained:
            return AutoModel.from_pretrained(name), tokenizer
        return AutoModel.from_config(AutoConfig.from_pretrained(name)), tokenizer
    except OSError as error:
        files = "config.json, tokenizer.json, vocab.json, merges.txt" + " and model.safetensors" * pretrained
        instead = ", or set model.text_encoder_pretrained to false to train one from its configuration" * pretrained
        raise FileNotFoundError(
            f"the text encoder {name!r} is not a folder with {files}, and could not be downloaded "
            f"({str(error).splitlines()[0]}); fetch these files elsewhere (of huggingface.co/{name}), put them in a "
            "folder, and name that folder in model.text_encoder (--text_encoder of an inference program)" + instead
        ) from error


def _encoder_from_assets(assets: dict[str, Any]) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The assets come from a file of anyone's, so nothing in them may name code to be fetched."""
    try:
        values = json.loads(assets["config"])
        values = {k: v for k, v in values.items() if k != "auto_map" and "implementation" not in k}
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        backend = Tokenizer.from_str(assets["tokenizer"])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **assets["special_tokens"])
        return AutoModel.from_config(config), tokenizer
    except Exception as error:  # a damaged tokenizer raises no narrower type
        raise ValueError(
            "the checkpoint's text encoder cannot be built from the configuration and tokenizer in it "
            f"({type(error).__name__}: {error}); copy or download the checkpoint again"
        ) from error
