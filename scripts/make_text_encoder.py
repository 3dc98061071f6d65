"""Makes a small text encoder to train from scratch: a RoBERTa configuration and a byte-level BPE tokenizer.

    python scripts/make_text_encoder.py FOLDER data/shapes/meta_expressions/train/meta_expressions.json

The tokenizer is trained on the captions of the files given; words it has never seen fall into bytes, so any sentence
can be read. Name the folder in `model.text_encoder`, with `model.text_encoder_pretrained false`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tokenizers import ByteLevelBPETokenizer, Tokenizer, processors
from transformers import PreTrainedTokenizerFast, RobertaConfig

from datasets.files import member, read_json
from util.failures import told_in_one_line

SPECIAL_TOKENS = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def read_captions(files: list[Path]) -> list[str]:
    """All captions of meta_expressions.json files, lower-cased. Raises as `read_json` and `member` do."""
    captions = []
    for file in files:
        for name, video in member(read_json(file), "videos", dict, f"{file}:").items():
            expressions = member(video, "expressions", dict, f"{file}: video {name}")
            captions += [
                member(e, "exp", str, f"{file}: video {name}, expression {k},").lower() for k, e in expressions.items()
            ]
    return captions


def make_tokenizer(captions: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that frames a caption as <s> ... </s>, with RoBERTa's ids of the special tokens."""
    tokenizer = ByteLevelBPETokenizer(add_prefix_space=True)
    tokenizer.train_from_iterator(
        captions, vocab_size=vocab_size, min_frequency=1, special_tokens=list(SPECIAL_TOKENS.values())
    )
    backend = Tokenizer.from_str(tokenizer.to_str())
    ends = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL_TOKENS)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("captions", type=Path, nargs="+", help="meta_expressions.json files")
    parser.add_argument("--vocab_size", type=int, default=512)
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--num_layers", type=int, default=2)
    parser.add_argument("--num_heads", type=int, default=4)
    args = parser.parse_args(argv)
    tokenizer = make_tokenizer(read_captions(args.captions), args.vocab_size)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        num_hidden_layers=args.num_layers,
        num_attention_heads=args.num_heads,
        intermediate_size=4 * args.hidden_size,
        max_position_embeddings=130,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    tokenizer.save_pretrained(args.output)
    config.save_pretrained(args.output)
    print(f"{args.output}: {len(tokenizer)} tokens, {args.num_layers} layers of {args.hidden_size} channels")


if __name__ == "__main__":
    with told_in_one_line():
        main()
