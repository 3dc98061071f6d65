"""Configuration -> modules. The only file of this folder that sees a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from models.backbones import Backbone, build_backbone
from models.baseline import Baseline
from models.checkpoint import load_model_state
from models.criterion import Criterion
from models.deformable_transformer import DeformableTransformer
from models.mask_head import DynamicMaskHead
from models.pixel_decoder import PixelDecoder
from models.published import describe_published
from models.referformer import ReferFormer
from models.text_encoder import TextEncoder, build_encoder
from util.checkpoint_io import CheckpointError, load_checkpoint
from util.config import Config, DataConfig, LossConfig, ModelConfig
from util.distributed import broadcast_object, get_world_size, is_main_process


def build_model(
    config: ModelConfig, text_assets: dict[str, Any] | None = None, weights_follow: bool = False
) -> ReferFormer | Baseline:
    """The model of a configuration, on the CPU.

    Args:
        config: of the model.
        text_assets: the text encoder's configuration and tokenizer from a checkpoint; nothing is then read from a hub.
        weights_follow: a checkpoint's weights will be loaded, so no starting weights are read or downloaded.

    Raises:
        ValueError: a setting names something that does not exist or does not fit.
        FileNotFoundError: starting weights are neither here nor to be downloaded.
    """
    # in this order, as the random numbers of starting weights are drawn
    encoder, tokenizer = build_encoder(
        config.text_encoder, pretrained=config.text_encoder_pretrained and not weights_follow, assets=text_assets
    )
    backbone = build_backbone(
        config.backbone,
        options=config.backbone_options,
        weights=None if weights_follow else config.backbone_weights,
        temporal_shift=config.temporal_shift,
        drop_path=config.drop_path,
        recompute=config.activation_checkpointing,
    )
    text = _build_text_encoder(config, encoder, tokenizer)
    if config.architecture == "baseline":
        return _build_baseline(config, backbone, text)
    return _build_referformer(config, backbone, text)


def _build_referformer(config: ModelConfig, backbone: Backbone, text_encoder: TextEncoder) -> ReferFormer:
    return ReferFormer(
        backbone,
        text_encoder,
        _build_transformer(config),
        _build_pixel_decoder(config, backbone.channels[0], fusion=config.fpn_fusion),
        DynamicMaskHead(config.hidden_dim, config.mask_dim, config.mask_head_channels, config.relative_coordinates),
        dim=config.hidden_dim,
        num_queries=config.num_queries,
        num_classes=config.num_classes,
        num_feature_levels=config.num_feature_levels,
        box_refine=config.box_refine,
        num_heads=config.num_heads,
        position_in_content=config.position_in_content,
    )


def _build_baseline(config: ModelConfig, backbone: Backbone, text_encoder: TextEncoder) -> Baseline:
    return Baseline(
        backbone,
        text_encoder,
        _build_pixel_decoder(config, backbone.channels[0], fusion=False),
        dim=config.hidden_dim,
        num_layers=config.num_encoder_layers,
        num_heads=config.num_heads,
        ffn_dim=config.feedforward_dim,
        dropout=config.dropout,
        mask_dim=config.mask_dim,
        recompute=config.activation_checkpointing,
    )


def _build_text_encoder(config: ModelConfig, encoder: nn.Module, tokenizer: PreTrainedTokenizerBase) -> TextEncoder:
    return TextEncoder(
        encoder,
        tokenizer,
        dim=config.hidden_dim,
        dropout=config.dropout,
        frozen=config.freeze_text_encoder,
        max_tokens=config.max_tokens,
    )


def _build_transformer(config: ModelConfig) -> DeformableTransformer:
    return DeformableTransformer(
        dim=config.hidden_dim,
        num_heads=config.num_heads,
        num_encoder_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        num_levels=config.num_feature_levels,
        num_points=config.num_points,
        ffn_dim=config.feedforward_dim,
        dropout=config.dropout,
        recompute=config.activation_checkpointing,
    )


def _build_pixel_decoder(config: ModelConfig, backbone_dim: int, fusion: bool) -> PixelDecoder:
    return PixelDecoder(
        backbone_dim=backbone_dim,
        dim=config.hidden_dim,
        mask_dim=config.mask_dim,
        num_heads=config.num_heads,
        ffn_dim=config.feedforward_dim,
        dropout=config.dropout,
        recompute=config.activation_checkpointing,
        fusion=fusion,
    )


def build_in_main_process_first(config: ModelConfig, weights_follow: bool) -> ReferFormer | Baseline:
    """A model that needs files, from a hub perhaps, in every process of the run.

    Only the main process reads or downloads them. The others build from what it has read, with random weights in place
    of starting weights; `DistributedDataParallel` replaces them by the main process's.

    Args:
        config: of the model.
        weights_follow: a checkpoint's weights will be loaded, so only the tokenizer is needed.

    Raises:
        ValueError, FileNotFoundError: as `build_model`; in every process, so that none waits for the others.
    """
    network, text_assets, problem = None, None, None
    if is_main_process():
        try:
            network = build_model(config, weights_follow=weights_follow)
            text_assets = network.text_encoder.assets()
        except (ValueError, OSError) as error:
            if get_world_size() == 1:
                raise
            problem = error
    text_assets, told = broadcast_object((text_assets, problem and str(problem)))
    if told is not None:
        raise problem or ValueError(told)
    return network if network is not None else build_model(config, text_assets, weights_follow=True)


def read_config(checkpoint: Mapping[str, Any], text_encoder: str = "roberta-base") -> Config:
    """The configuration that a checkpoint carries, or what the keys, shapes and arguments of a published one tell.

    Args:
        checkpoint: from `util.checkpoint_io.load_checkpoint`.
        text_encoder: hub name or folder; published checkpoints carry no tokenizer.

    Raises:
        ValueError: the configuration is damaged, or the checkpoint is of another project.
    """
    if "config" in checkpoint:
        try:
            return Config.from_dict(checkpoint["config"])
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"its configuration is damaged ({error})") from error
    if any(key.startswith("class_heads.") for key in checkpoint["model"]):
        raise ValueError("it carries no configuration, and its weights are not named as published ones are")
    args = checkpoint.get("args")
    model = ModelConfig(**describe_published(checkpoint["model"], args), text_encoder=text_encoder)
    # The clips that it was trained on: with one annotated frame in each, they are what it is evaluated on.
    return Config(model=model, data=DataConfig(num_frames=getattr(args, "num_frames", DataConfig().num_frames)))


def build_from_checkpoint(
    checkpoint: Mapping[str, Any], text_encoder: str = "roberta-base", *, in_all_processes: bool = False
) -> tuple[ReferFormer | Baseline, Config]:
    """The model of a checkpoint, ours or a published one, with its weights, on the CPU, and its configuration.

    Args:
        checkpoint: from `util.checkpoint_io.load_checkpoint`.
        text_encoder: hub name or folder that a published checkpoint's tokenizer is read from.
        in_all_processes: all processes of the run call this together; only the main one then reads the tokenizer.

    Raises:
        ValueError: the checkpoint is damaged, or of another project.
        FileNotFoundError: the tokenizer is neither here nor to be downloaded.
    """
    config = read_config(checkpoint, text_encoder)
    text_assets = (checkpoint.get("extras") or {}).get("text")
    if text_assets is None and in_all_processes:
        model = build_in_main_process_first(config.model, weights_follow=True)
    else:
        model = build_model(config.model, text_assets, weights_follow=True)
    load_model_state(model, checkpoint["model"])
    return model, config


def load_model(
    path: str | Path,
    text_encoder: str = "roberta-base",
    *,
    in_all_processes: bool = False,
    backbone: str | None = None,
) -> tuple[ReferFormer | Baseline, Config]:
    """`build_from_checkpoint` of a file, whose model must have the `backbone` where one is named.

    Raises:
        FileNotFoundError: no such file, or no tokenizer.
        CheckpointError: the file is not a checkpoint, damaged, or not one of this architecture or with this backbone;
            the message names it.
    """
    checkpoint = load_checkpoint(path)
    try:
        if backbone is not None and (found := read_config(checkpoint, text_encoder).model.backbone) != backbone:
            raise ValueError(f"a checkpoint with the backbone {found}, not {backbone}")
        return build_from_checkpoint(checkpoint, text_encoder, in_all_processes=in_all_processes)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def differing_settings(config: ModelConfig, checkpoint: Mapping[str, Any]) -> list[str]:
    """What a checkpoint's model has otherwise than `config`, of the settings that shape the weights."""
    try:
        other = read_config(checkpoint).model
    except ValueError as error:
        return [str(error)]
    free = {"backbone_weights", "text_encoder", "text_encoder_pretrained", "freeze_text_encoder", "max_tokens"}
    free |= {"activation_checkpointing", "dropout", "drop_path"}
    names = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in free]
    return [
        f"model.{name} is {getattr(config, name)!r}, the checkpoint's {getattr(other, name)!r}"
        for name in names
        if getattr(config, name) != getattr(other, name)
    ]


def build_criterion(config: LossConfig) -> Criterion:
    """The losses of a configuration."""
    return Criterion(
        class_weight=config.class_weight,
        l1_weight=config.l1_weight,
        giou_weight=config.giou_weight,
        mask_weight=config.mask_weight,
        dice_weight=config.dice_weight,
        alpha=config.focal_alpha,
        gamma=config.focal_gamma,
        aux_loss=config.aux_loss,
        match_boxes=config.match_boxes,
        match_masks=config.match_masks,
    )
