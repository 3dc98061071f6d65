from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import RobertaConfig

from models.backbones import BACKBONES
from models.build import build_model
from models.checkpoint import (
    from_published,
    from_published_name,
    is_published,
    load_model_state,
    to_published,
    to_published_name,
)
from models.referformer import ReferFormer
from tests.small_model import small_model
from util.config import ModelConfig

PUBLISHED = json.loads(gzip.decompress((Path(__file__).parent / "data" / "keys.json.gz").read_bytes()))
WORDS = '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}}'


def _published_model(backbone: str) -> ReferFormer:
    """The published architecture without memory for its weights."""
    roberta = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    assets = {
        "config": json.dumps(roberta.to_dict()),
        "tokenizer": WORDS,
        "special_tokens": {"pad_token": "<unk>"},
    }
    with torch.device("meta"):
        return build_model(ModelConfig(backbone=backbone), text_assets=assets, weights_follow=True)


def _shapes(state: dict[str, Tensor]) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_keys_and_shapes_are_the_published_ones(backbone: str) -> None:
    model = _published_model(backbone)
    state = model.state_dict()
    published = to_published(state, num_decoder_layers=4)
    ours, expected = _shapes(published), PUBLISHED[backbone]
    assert sorted(ours.keys() ^ expected.keys()) == []
    assert {key: (shape, expected[key]) for key, shape in ours.items() if shape != expected[key]} == {}
    assert from_published(published, num_head_copies=4).keys() == state.keys()
    names = [to_published_name(key) for key in state]
    assert [from_published_name(name) for name in names] == list(state) and len(set(names)) == len(names)


def test_the_list_has_every_backbone() -> None:
    assert sorted(PUBLISHED) == sorted(BACKBONES)


def test_norms_of_a_decoder_layer_are_numbered_from_the_cross_attention() -> None:
    """In published checkpoints norm2 follows self-attention, norm1 cross-attention; stages are numbered from 1."""
    assert (
        from_published_name("transformer.decoder.layers.3.norm2.bias") == "transformer.decoder_layers.3.self_norm.bias"
    )
    assert (
        from_published_name("transformer.decoder.layers.3.norm1.bias") == "transformer.decoder_layers.3.cross_norm.bias"
    )
    assert from_published_name("pixel_decoder.adapter_4.weight") == "pixel_decoder.levels.3.lateral.weight"
    assert to_published_name("pixel_decoder.levels.0.fusion.ffn.norm.bias") == "pixel_decoder.cross_attn_1.norm3.bias"


@pytest.mark.parametrize(("box_refine", "num_decoder_layers"), [(True, 2), (False, 2), (True, 1), (False, 1)])
def test_weights_go_there_and_back_bit_for_bit(box_refine: bool, num_decoder_layers: int) -> None:
    options = {"box_refine": box_refine, "num_decoder_layers": num_decoder_layers, "num_classes": 4}
    model, other = small_model(seed=1, **options), small_model(seed=2, **options)
    state = model.state_dict()
    published = to_published(state, num_decoder_layers)
    assert is_published(published) and not is_published(state)
    for i in range(num_decoder_layers):  # a head for every layer, be it the same
        assert torch.equal(
            published[f"bbox_embed.{i}.layers.0.weight"], state[f"box_heads.{i * box_refine}.layers.0.weight"]
        )
    for source in (published, state):
        load_model_state(other, source)
        loaded = other.state_dict()
        assert loaded.keys() == state.keys() and all(torch.equal(value, loaded[key]) for key, value in state.items())
        other = small_model(seed=2, **options)


def test_a_published_file_is_as_strict_as_ours() -> None:
    model = small_model()
    published = to_published(model.state_dict(), 2)
    published["text_encoder.embeddings.position_ids"] = torch.zeros(1)  # of an old transformers: known, and dropped
    load_model_state(model, published)
    with pytest.raises(ValueError, match=r"left over backbone\.body\.more"):
        load_model_state(model, published | {"backbone.0.body.more": torch.zeros(1)})
    del published["class_embed.1.bias"]
    with pytest.raises(ValueError, match=r"missing class_heads\.1\.bias"):
        load_model_state(model, published)


def test_shared_heads_come_from_the_last_copy() -> None:
    model = small_model(box_refine=False, num_decoder_layers=3)
    published = to_published(model.state_dict(), 3)
    for i in range(3):
        published[f"class_embed.{i}.bias"] = torch.tensor([float(i)])
    assert from_published(published, num_head_copies=1)["class_heads.0.bias"].item() == 2


@pytest.mark.parametrize("refined", [True, False])
def test_published_weights_with_and_without_refinement_are_told_apart(refined: bool) -> None:
    """Shapes agree, since a file has heads for every layer in both cases."""
    published = to_published(small_model(box_refine=refined).state_dict(), 2)
    with pytest.raises(ValueError, match=f"set model.box_refine to {refined}"):
        load_model_state(small_model(box_refine=not refined), published)


def test_what_does_not_fit_is_listed() -> None:
    model = small_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    del state["query_embed.weight"]
    state["something.new"] = torch.zeros(1)
    state["class_heads.0.weight"] = torch.zeros(65, 32)
    with pytest.raises(ValueError) as error:
        load_model_state(model, state)
    message = str(error.value)
    assert "3 keys differ" in message and "model.num_classes" in message
    for part in (
        "missing query_embed.weight",
        "left over something.new",
        "class_heads.0.weight is (65, 32)",
        "(1, 32)",
    ):
        assert part in message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())  # nothing was loaded


def test_a_long_list_is_cut() -> None:
    with pytest.raises(ValueError, match=r"keys differ: .*; \.\.\.\. Check"):
        load_model_state(small_model(), {})


@pytest.mark.parametrize("num_classes", [1, 65])
@pytest.mark.parametrize("published", [False, True])
def test_class_heads_are_dropped_on_purpose_only(num_classes: int, published: bool) -> None:
    source, model = small_model(seed=1), small_model(seed=2, num_classes=num_classes)
    state = to_published(source.state_dict(), 2) if published else source.state_dict()
    if num_classes != 1:
        with pytest.raises(ValueError, match="drop_class_heads"):
            load_model_state(model, state)
    heads = {key: value.clone() for key, value in model.state_dict().items() if key.startswith("class_heads.")}
    load_model_state(model, state, drop_class_heads=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, heads[key] if key in heads else source.state_dict()[key]), key
    del state["bbox_embed.0.layers.0.weight" if published else "box_heads.0.layers.0.weight"]
    with pytest.raises(ValueError, match=r"missing box_heads\.0"):
        load_model_state(model, state, drop_class_heads=True)
