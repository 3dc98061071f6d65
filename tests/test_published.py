from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import os
import runpy
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import RobertaConfig

from fitting import build_network
from inference_options import build_parser as infer_parser
from inference_options import load_predictor
from inference_ytvos import main as infer
from main import main
from models import text_encoder as text_encoders
from models.build import build_from_checkpoint, build_model, load_model, read_config
from models.checkpoint import to_published
from models.predictor import Predictor
from models.published import describe_published, published_args, recognise_backbone
from tests.published_file import TEXT_ENCODER, small_published_model, write_published
from tests.small_model import small_config
from util.checkpoint_io import CheckpointError, load_checkpoint, save_checkpoint
from util.config import Config, ModelConfig
from util.distributed import distributed

ROOT = Path(__file__).parent.parent
PUBLISHED = json.loads(gzip.decompress((Path(__file__).parent / "data" / "keys.json.gz").read_bytes()))
WORDS = '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}}'


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_a_published_checkpoint_tells_its_backbone_and_the_rest(backbone: str) -> None:
    weights = {key: torch.empty(shape, device="meta") for key, shape in PUBLISHED[backbone].items()}
    assert ModelConfig(**describe_published(weights)) == ModelConfig(backbone=backbone)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": 65, "num_queries": 8},
        {"box_refine": False},
        {"relative_coordinates": False, "num_queries": 3},
        {"num_feature_levels": 5, "num_points": 2, "num_heads": 4},
        {"num_encoder_layers": 2, "num_decoder_layers": 3, "feedforward_dim": 1024, "hidden_dim": 128},
        {"mask_dim": 64, "mask_head_channels": 16, "dropout": 0.0, "freeze_text_encoder": False},
        {"num_decoder_layers": 1, "box_refine": False},
    ],
)
def test_options_are_told_from_keys_shapes_and_arguments(changes: dict[str, Any]) -> None:
    roberta = RobertaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    assets = {"config": json.dumps(roberta.to_dict()), "tokenizer": WORDS, "special_tokens": {"pad_token": "<unk>"}}
    config = ModelConfig(backbone="swin_t_p4w7", **changes)
    with torch.device("meta"):
        model = build_model(config, assets, weights_follow=True)
    weights = to_published(model.state_dict(), config.num_decoder_layers, config.box_refine)
    args = published_args(dataclasses.asdict(config))
    assert ModelConfig(**describe_published(weights, args)) == config
    if not {"num_heads", "dropout"} & changes.keys():  # what no key and no shape tells
        assert ModelConfig(**describe_published(weights)) == config


def test_weights_win_over_arguments_that_lie() -> None:
    weights = {key: torch.empty(shape, device="meta") for key, shape in PUBLISHED["swin_s_p4w7"].items()}
    lies = argparse.Namespace(backbone="resnet50", with_box_refine=False, binary=False, num_queries=9)
    assert ModelConfig(**describe_published(weights, lies)) == ModelConfig(backbone="swin_s_p4w7")


@pytest.mark.parametrize(
    ("name", "value"), [("dilation", True), ("two_stage", True), ("position_embedding", "learned")]
)
def test_a_variant_that_is_not_published_is_an_error(name: str, value: Any) -> None:
    weights = {key: torch.empty(shape, device="meta") for key, shape in PUBLISHED["resnet50"].items()}
    with pytest.raises(ValueError, match=f"--{name} is {value}"):
        describe_published(weights, argparse.Namespace(**{name: value}))


def test_weights_of_something_else_are_an_error() -> None:
    shapes = PUBLISHED["resnet50"]
    detr = {k: torch.empty(s, device="meta") for k, s in shapes.items() if k.startswith(("backbone", "transformer"))}
    with pytest.raises(
        ValueError, match=r"another project: it lacks .*pixel_decoder.* \(it has backbone, transformer\)"
    ):
        describe_published(detr)
    with pytest.raises(ValueError, match=r"another project: .* \(it has image_encoder, prompt_encoder\)"):
        read_config({"model": {"image_encoder.a": torch.zeros(1), "prompt_encoder.b": torch.zeros(1)}})
    whole = {k: torch.empty(s, device="meta") for k, s in shapes.items()}
    lost = ("query_embed.weight", "class_embed.0.bias", "controller.layers.2.bias")
    flat = {"transformer.level_embed": torch.empty(4, device="meta")}
    with pytest.raises(ValueError, match="not a whole checkpoint") as refused:
        describe_published({k: v for k, v in whole.items() if k not in lost} | flat)
    assert all(key in str(refused.value) for key in (*lost, *flat))  # all that tell a shape, not the first alone
    with pytest.raises(ValueError, match="--nheads is 0"):
        describe_published(whole, argparse.Namespace(nheads=0))
    with pytest.raises(ValueError, match=r"none of the published ones.*\(2, 2, 4, 2\)"):
        keys = [
            k for k in PUBLISHED["swin_t_p4w7"] if ".layers.2.blocks.4." not in k and ".layers.2.blocks.5." not in k
        ]
        recognise_backbone({key: tuple(PUBLISHED["swin_t_p4w7"][key]) for key in keys})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "timm/resnet18"}, "model.backbone is timm/resnet18"),
        ({"position_in_content": 0.5}, "position_in_content"),
        ({"temporal_shift": 0.1}, "temporal_shift"),
        ({"num_classes": 7}, "num_classes is 7"),
        ({"architecture": "baseline"}, "architecture is baseline"),
        ({"fpn_fusion": False}, "fpn_fusion is False; the published code has only True"),
    ],
)
def test_what_the_published_code_lacks_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        published_args(dataclasses.asdict(ModelConfig(**changes)))


VARIANTS = [{}, {"box_refine": False, "num_classes": 65}, {"relative_coordinates": False, "num_queries": 5}]


@pytest.mark.parametrize("changes", VARIANTS)
def test_a_published_file_builds_its_model(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The file is all that is told, besides where the tokenizer is."""
    model = small_published_model(**changes)
    path = write_published(tmp_path / "published.pth", model, **changes)
    predictor = Predictor.from_checkpoint(path, device="cpu", text_encoder=TEXT_ENCODER, short_side=64)
    loaded = predictor.model.state_dict()
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded[key]) for key, value in model.state_dict().items())
    original = Predictor(model, short_side=64, device="cpu")
    frames = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    ours, theirs = (p.predict(p.encode(frames), ["a red circle"])[0] for p in (original, predictor))
    assert torch.equal(ours.masks, theirs.masks) and torch.equal(ours.query_scores, theirs.query_scores)


def test_the_published_test_settings_are_the_defaults(tmp_path: Path) -> None:
    """Whole videos of Ref-YouTube-VOS, short side 360, long side not capped."""
    path = write_published(tmp_path / "published.pth", small_published_model())
    test = read_config(load_checkpoint(path)).test
    assert (test.short_side, test.max_long_side, test.window, test.threshold) == (360, None, 36, 0.5)


def test_without_a_tokenizer_the_error_says_what_to_put_where(tmp_path: Path) -> None:
    """Tests run offline, so roberta-base is not to be had."""
    path = write_published(tmp_path / "published.pth", small_published_model())
    with pytest.raises(FileNotFoundError, match=r"roberta-base.*tokenizer\.json.*in a folder.*--text_encoder"):
        Predictor.from_checkpoint(path, device="cpu", text_encoder="no/roberta-base")


def _load_in_a_group(rank: int, port: int, path: str, text_encoder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if rank > 0:
        text_encoders.AutoTokenizer = text_encoders.AutoConfig.from_pretrained = (
            None  # nothing is read by its name here
        )
    args = infer_parser().parse_args(
        ["--checkpoint", path, "--text_encoder", text_encoder, "--data_root", "none", "--output_dir", "none"]
    )
    with distributed("cpu"):
        try:
            predictor, _ = load_predictor(args, torch.device("cpu"))
            told = str(predictor.model.text_encoder.tokenize(["a red circle"]).ids.tolist())
        except (ValueError, FileNotFoundError) as error:
            told = str(error)
    Path(f"{path}.{rank}").write_text(told)


@pytest.mark.parametrize("text_encoder", [TEXT_ENCODER, "no/such-encoder"])
def test_only_the_main_process_of_an_inference_reads_the_tokenizer(tmp_path: Path, text_encoder: str) -> None:
    path = write_published(tmp_path / "published.pth", small_published_model())
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(_load_in_a_group, (port, str(path), text_encoder), nprocs=2)
    one, other = (Path(f"{path}.{rank}").read_text() for rank in range(2))
    if text_encoder == TEXT_ENCODER:
        assert one == other and one.startswith("[[")
    else:
        assert "no/such-encoder" in one and "no/such-encoder" in other


def test_the_frames_of_a_training_clip_are_told(tmp_path: Path) -> None:
    """Where one frame of a clip is annotated, the clip that is evaluated has as many: A2D from scratch has 6."""
    path = write_published(tmp_path / "published.pth", small_published_model(), {"num_frames": 6})
    assert load_model(path, TEXT_ENCODER)[1].data.num_frames == 6
    checkpoint = load_checkpoint(path)
    del checkpoint["args"]
    save_checkpoint(tmp_path / "bare.pth", checkpoint)
    bare = load_model(tmp_path / "bare.pth", TEXT_ENCODER)[1]
    assert bare.data.num_frames == Config().data.num_frames


def test_a_tokenizer_of_another_encoder_is_an_error(tmp_path: Path) -> None:
    model = small_published_model()
    path = write_published(tmp_path / "published.pth", model)
    folder = tmp_path / "encoder"
    model.text_encoder.tokenizer.save_pretrained(folder)
    RobertaConfig(vocab_size=700, hidden_size=128, num_hidden_layers=2, num_attention_heads=4).save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"published\.pth.*word_embeddings.*model\.text_encoder"):
        Predictor.from_checkpoint(path, device="cpu", text_encoder=str(folder))


def test_programs_take_a_published_file(tmp_path: Path, shapes_root: Path, tiny_options: list[str]) -> None:
    path = write_published(tmp_path / "published.pth", small_published_model())
    output = tmp_path / "results"
    options = ["--checkpoint", str(path), "--data_root", str(shapes_root), "--output_dir", str(output)]
    infer([*options, "--text_encoder", TEXT_ENCODER, "--test.short_side", "64", "--device", "cpu"])
    assert (output / "submission.zip").is_file() and len(list(output.rglob("*.png"))) > 4
    scores = main([*tiny_options, "--train.evaluate_only", str(path)])  # its settings are of quite another model
    assert 0 <= scores["J&F"] <= 1


def test_finetuning_starts_from_a_published_file(tmp_path: Path) -> None:
    path = write_published(tmp_path / "published.pth", small_published_model())
    checkpoint = load_checkpoint(path)
    config = Config(model=small_config(backbone="resnet50", backbone_options={}, num_classes=65))
    network = build_network(config, checkpoint, path, drop_class_heads=True)
    loaded = to_published(network.state_dict(), 2)
    for key, value in checkpoint["model"].items():
        assert key.startswith("class_embed") or "position_ids" in key or torch.equal(loaded[key], value), key
    wrong = dataclasses.replace(config, model=dataclasses.replace(config.model, num_queries=7, backbone="swin_t_p4w7"))
    with pytest.raises(CheckpointError) as error:
        build_network(wrong, checkpoint, path, drop_class_heads=True)
    for words in (
        str(path),
        "model.num_queries is 7, the checkpoint's 3",
        "'swin_t_p4w7', the checkpoint's 'resnet50'",
    ):
        assert words in str(error.value)


def _convert(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *arguments, "--text_encoder", TEXT_ENCODER])
    runpy.run_path(str(ROOT / "scripts" / "convert_checkpoint.py"), run_name="__main__")


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) and value.dtype == other[key].dtype for key, value in one.items()
    )


@pytest.mark.parametrize("changes", [*VARIANTS, {"num_decoder_layers": 1, "box_refine": False}])
def test_converting_there_and_back_is_bit_equal(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_published(tmp_path / "published.pth", small_published_model(**changes), {"world_size": 8}, **changes)
    ours, back, again = (str(tmp_path / name) for name in ("ours.pth", "back.pth", "again.pth"))
    _convert(str(path), ours, "--to", "ours", monkeypatch=monkeypatch)
    _convert(ours, back, "--to", "published", monkeypatch=monkeypatch)
    _convert(back, again, "--to", "ours", monkeypatch=monkeypatch)
    assert "ours.pth: resnet50" in capsys.readouterr().out
    first, last = load_checkpoint(path), load_checkpoint(back)
    assert _same(first["model"], last["model"]) and first["epoch"] == last["epoch"]
    assert vars(first["args"]).items() <= vars(last["args"]).items()
    assert load_checkpoint(ours)["config"]["data"]["num_frames"] == 5
    one, other = load_checkpoint(ours), load_checkpoint(again)
    assert _same(one["model"], other["model"]) and one["config"] == other["config"]
    predictor = Predictor.from_checkpoint(ours, device="cpu", text_encoder="nowhere")  # it carries its tokenizer
    assert predictor.model.box_refine == changes.get("box_refine", True)


def test_a_checkpoint_of_ours_goes_to_the_published_layout_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_published_model()
    config = Config(model=small_config(backbone="resnet50", backbone_options={}))
    state = {"model": model.state_dict(), "config": config.to_dict(), "extras": model.checkpoint_extras()}
    save_checkpoint(tmp_path / "ours.pth", state)
    _convert(str(tmp_path / "ours.pth"), str(tmp_path / "published.pth"), "--to", "published", monkeypatch=monkeypatch)
    published = load_checkpoint(tmp_path / "published.pth")
    assert set(published) == {"model", "args"} and published["args"].with_box_refine and published["args"].binary
    assert published["args"].backbone == "resnet50" and published["args"].nheads == 4
    rebuilt, _ = build_from_checkpoint(published, TEXT_ENCODER)
    assert _same(rebuilt.state_dict(), model.state_dict())


def test_converting_what_cannot_be_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_published(tmp_path / "published.pth", small_published_model())
    with pytest.raises(SystemExit, match=r"error: .*published\.pth has the layout already"):
        _convert(str(path), str(tmp_path / "x.pth"), "--to", "published", monkeypatch=monkeypatch)
    quickstart = str(ROOT / "configs" / "quickstart_weights.pth")
    with pytest.raises(SystemExit, match=r"error: .*quickstart_weights\.pth: model\.backbone is timm/"):
        _convert(quickstart, str(tmp_path / "x.pth"), "--to", "published", monkeypatch=monkeypatch)
    assert not (tmp_path / "x.pth").exists()
