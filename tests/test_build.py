from __future__ import annotations

import dataclasses
import functools
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models import backbones, build
from models.backbones import build_backbone
from models.backbones.resnet import FrozenResNet
from models.backbones.timm_network import TimmBackbone
from models.build import build_criterion, build_in_main_process_first, build_model
from models.deformable_transformer import DeformableTransformer
from models.pixel_decoder import PixelDecoder
from ops.module import MSDeformAttn
from tests.small_model import CAPTIONS, small_config
from util.config import LossConfig
from util.distributed import distributed


def test_settings_reach_the_modules() -> None:
    config = small_config(
        hidden_dim=64,
        num_heads=8,
        num_queries=7,
        num_encoder_layers=2,
        num_decoder_layers=3,
        num_feature_levels=5,
        num_points=3,
        feedforward_dim=40,
        dropout=0.3,
        num_classes=65,
        mask_dim=24,
        mask_head_channels=6,
        relative_coordinates=False,
        freeze_text_encoder=True,
        max_tokens=9,
        temporal_shift=0.125,
        position_in_content=0.7,
        activation_checkpointing=True,
    )
    model = build_model(config)
    assert isinstance(model.backbone, TimmBackbone) and model.backbone.shift.share == 0.125
    assert model.backbone.channels == (32, 32, 64, 64)
    assert model.query_embed.weight.shape == (7, 64) and model.position_in_content == 0.7
    assert [tuple(head.weight.shape) for head in model.class_heads] == [(65, 64)] * 3
    assert len(model.box_heads) == 3 and len(model.input_proj) == 5
    transformer: DeformableTransformer = model.transformer
    assert (len(transformer.encoder_layers), len(transformer.decoder_layers)) == (2, 3)
    deformable = [m for m in model.modules() if isinstance(m, MSDeformAttn)]
    assert {(m.num_levels, m.num_heads, m.num_points) for m in deformable} == {(5, 8, 3)} and len(deformable) == 5
    hidden = {m.linear1.out_features for m in model.modules() if hasattr(m, "linear1")}
    assert hidden == {40}
    assert {
        m.num_heads for m in (model.fusion.attention, *(level.fusion.self_attn for level in model.pixel_decoder.levels))
    } == {8}
    outside_the_encoder = [m for name, m in model.named_modules() if not name.startswith("text_encoder.encoder")]
    assert {m.p for m in outside_the_encoder if isinstance(m, nn.Dropout)} == {0.3}
    pixel_decoder: PixelDecoder = model.pixel_decoder
    assert pixel_decoder.mask_features.out_channels == 24
    assert model.mask_head.controller.layers[-1].out_features == 6 * 24 + 6 * 6 + 6 + 6 + 6 + 1
    assert model.text_encoder.max_tokens == 9 and model.text_encoder.frozen
    assert transformer.recompute and pixel_decoder.recompute
    assert not model.box_refine or len({id(head) for head in model.box_heads}) == 3


def test_heads_are_shared_without_refinement() -> None:
    model = build_model(small_config(box_refine=False))
    assert len(model.class_heads) == len(model.box_heads) == 1 and not model.box_refine


def test_the_model_starts_as_the_method_says() -> None:
    torch.manual_seed(0)
    model = build_model(small_config(num_classes=5))
    for i, head in enumerate(model.class_heads):
        torch.testing.assert_close(head.bias.sigmoid(), torch.full((5,), 0.01))
        last = model.box_heads[i].layers[-1]
        assert (last.weight == 0).all()
        assert last.bias.tolist() == ([0, 0, -2, -2] if i == 0 else [0, 0, 0, 0])
    attention = model.transformer.encoder_layers[0].self_attn
    assert (attention.sampling_offsets.weight == 0).all() and (attention.attention_weights.weight == 0).all()
    assert attention.sampling_offsets.bias.abs().max() == attention.num_points


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(build_model(small_config()).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not torch.equal(states[0]["query_embed.weight"], states[2]["query_embed.weight"])


def test_nothing_is_downloaded_when_weights_follow() -> None:
    """Tests run offline, so starting weights that are asked for cannot be had."""
    assets = build_model(small_config()).text_encoder.assets()
    config = small_config(
        backbone="resnet50",
        backbone_options={},
        backbone_weights="imagenet",
        text_encoder="no/such-encoder",
        text_encoder_pretrained=True,
    )
    with torch.device("meta"):
        model = build_model(config, text_assets=assets, weights_follow=True)
    assert isinstance(model.backbone, FrozenResNet)
    with pytest.raises(FileNotFoundError, match=r"model\.text_encoder"):
        build_model(config)
    with pytest.raises(FileNotFoundError, match=r"model\.backbone_weights"):
        build_model(
            dataclasses.replace(config, text_encoder="configs/text_encoder_small", text_encoder_pretrained=False)
        )


def test_what_a_checkpoint_carries_builds_the_same_text_encoder() -> None:
    model = build_model(small_config(max_tokens=20)).eval()
    extras = model.checkpoint_extras()
    other = build_model(
        small_config(max_tokens=20, text_encoder="elsewhere"), extras["text"], weights_follow=True
    ).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.text_encoder(CAPTIONS).words, model.text_encoder(CAPTIONS).words)


def test_building_is_silent(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="models"):
        build_model(small_config())
    assert capsys.readouterr().out == "" and not [r for r in caplog.records if r.name.startswith("models")]


def test_weights_of_losses_are_those_of_the_matching() -> None:
    config = LossConfig(
        class_weight=1, l1_weight=2, giou_weight=3, mask_weight=4, dice_weight=6, focal_alpha=0.4, focal_gamma=1.5,
        aux_loss=False,
    )  # fmt: skip
    criterion = build_criterion(config)
    assert criterion.weights == {"class": 1, "l1": 2, "giou": 3, "mask": 4, "dice": 6}
    assert criterion.matcher.weights == (1, 2, 3, 4, 6)
    assert (criterion.alpha, criterion.gamma, criterion.aux_loss) == (0.4, 1.5, False)
    assert (criterion.matcher.alpha, criterion.matcher.gamma) == (0.4, 1.5)


def _build_in_a_group(rank: int, port: int, folder: str, text_encoder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if rank > 0:  # nothing is read here: neither an encoder by its name nor a backbone's weights
        build.build_encoder = functools.partial(_refuse_names, build.build_encoder)
        backbones.load_starting_weights = _refuse
    weights = str(Path(folder) / "resnet50.pth")
    config = small_config(backbone="resnet50", backbone_options={}, backbone_weights=weights, text_encoder=text_encoder)
    with distributed("cpu"):
        torch.manual_seed(rank)
        try:
            model = DistributedDataParallel(build_in_main_process_first(config, weights_follow=False)).module
        except (ValueError, FileNotFoundError) as error:
            (Path(folder) / f"{rank}.txt").write_text(str(error))
        else:
            torch.save(model.state_dict(), Path(folder) / f"{rank}.pt")


def _refuse(*_: object) -> None:
    raise AssertionError("only the main process may read files")


def _refuse_names(original: Callable, name: str, **options: Any) -> Any:
    return original(name, **options) if options["assets"] is not None else _refuse()


@pytest.mark.parametrize("text_encoder", ["configs/text_encoder_small", "no/such-encoder"])
def test_only_the_main_process_reads_files_and_all_get_its_weights(tmp_path: Path, text_encoder: str) -> None:
    state = build_backbone("resnet50").body.state_dict()
    torch.save(state, tmp_path / "resnet50.pth")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(_build_in_a_group, (port, str(tmp_path), text_encoder), nprocs=2)
    if text_encoder == "no/such-encoder":
        assert all("no/such-encoder" in (tmp_path / f"{rank}.txt").read_text() for rank in range(2))
        return
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())
    assert all(torch.equal(value, other[f"backbone.body.{key}"]) for key, value in state.items())
