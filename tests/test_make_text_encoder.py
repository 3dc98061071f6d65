from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.text_encoder import build_encoder
from scripts import make_text_encoder


def test_the_folder_is_a_text_encoder(tmp_path: Path) -> None:
    meta = {"videos": {"v": {"expressions": {"0": {"exp": "The red circle"}, "1": {"exp": "a blue square"}}}}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    options = ["--hidden_size", "32", "--num_layers", "1", "--vocab_size", "300"]
    make_text_encoder.main([str(tmp_path / "encoder"), str(tmp_path / "meta.json"), *options])
    encoder, tokenizer = build_encoder(str(tmp_path / "encoder"), pretrained=False)
    assert encoder.config.hidden_size == 32
    ids = tokenizer("the red zebra")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 2)
    assert tokenizer.unk_token_id not in ids, "words it has never seen fall into bytes"


def test_a_damaged_meta_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(ValueError, match=r"meta\.json: broken JSON"):
        make_text_encoder.main([str(tmp_path / "encoder"), str(tmp_path / "meta.json")])
