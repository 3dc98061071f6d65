"""Sentences without an object: they are true of nothing in the video, and everything else stays what it is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.clips import ClipDataset
from datasets.collate import collate
from datasets.shapes_absent import NO_OBJECT, SIMILAR, STRANGE, write_absent_expressions
from datasets.shapes_language import matching_objects, parse
from datasets.shapes_scene import VideoSettings
from datasets.shapes_video import generate_video
from datasets.shapes_ytvos import write_ytvos
from datasets.transforms import ClipTransform
from datasets.ytvos import YTVOSReader
from models.criterion import Criterion
from models.outputs import LayerOutput
from tests.small_model import small_model

SETTINGS = VideoSettings(num_frames=3, height=64, width=96)


def write(root: Path, num_absent: int) -> Path:
    write_ytvos(root, SETTINGS, num_videos=2, num_valid_videos=1, seed=3, num_workers=1, num_absent=num_absent)
    return root


def test_no_object_of_the_scene_fits_an_absent_sentence():
    kinds = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        video = generate_video(rng, SETTINGS, seed)
        expressions = write_absent_expressions(rng, video.scene, 4)
        kinds += [e.kind for e in expressions]
        assert len({e.sentence for e in expressions}) == len(expressions) >= 2
        for expression in expressions:
            said = parse(expression.sentence)
            assert expression.object_id == NO_OBJECT
            assert matching_objects(said, video.scene, video.visible) == []
            looks = video.scene.looks
            near = any(look.shape == said.shape for look in looks) and any(look.colour == said.colour for look in looks)
            far = all(look.shape != said.shape and look.colour != said.colour for look in looks)
            assert near if expression.kind == SIMILAR else far
    assert kinds.count(STRANGE) == 40
    assert kinds.count(SIMILAR) >= 20


def test_everything_but_the_added_sentences_is_the_same(tmp_path: Path):
    plain, more = write(tmp_path / "plain", 0), write(tmp_path / "more", 4)
    files = {p.relative_to(plain) for p in plain.rglob("*") if p.is_file()}
    assert files == {p.relative_to(more) for p in more.rglob("*") if p.is_file()}
    changed = {name for name in files if (plain / name).read_bytes() != (more / name).read_bytes()}
    assert {path.name for path in changed} == {"generated.json", "meta_expressions.json"}
    for split in ("train", "valid"):
        name = f"meta_expressions/{split}/meta_expressions.json"
        old, new = (json.loads((root / name).read_text())["videos"] for root in (plain, more))
        for video, entry in old.items():
            added = [e for key, e in new[video]["expressions"].items() if key not in entry["expressions"]]
            assert len(added) >= 2
            assert all(e["obj_id"] == "0" for e in added)
            assert {key: new[video]["expressions"][key] for key in entry["expressions"]} == entry["expressions"]


def test_they_have_empty_masks_and_are_trained_on_only_if_asked_for(tmp_path: Path):
    reader = YTVOSReader(write(tmp_path / "data", 4), "train")
    absent = [e for e in reader.expressions if e.obj_id == 0]
    assert absent
    for expression in absent:
        ids = reader.read_masks(expression.video, expression.frames)
        assert (ids == 0).any() and not expression.mask(ids).any()
    clips = ClipDataset(reader, num_frames=2, transform=None)
    assert {expression.obj_id for expression, _ in clips.samples}.isdisjoint({0})
    assert len({expression.name for expression, _ in clips.samples}) == len(reader.expressions) - len(absent)
    clips = ClipDataset(reader, num_frames=2, transform=None, absent_share=0.9)
    assert len({expression.name for expression, _ in clips.samples}) == len(reader.expressions)


def test_training_on_them_lowers_the_scores_of_all_queries_and_asks_for_no_mask(tmp_path: Path):
    reader = YTVOSReader(write(tmp_path / "data", 4), "train")
    transform = ClipTransform(short_sides=(64,), max_long_side=96, augment=False)
    clips = ClipDataset(reader, num_frames=2, transform=transform, absent_share=0.9)
    absent = [i for i, (expression, _) in enumerate(clips.samples) if not expression.has_object]
    batch = collate([clips[0, i] for i in absent[:3]])
    model, criterion = small_model(), Criterion()

    def run() -> tuple[list[LayerOutput], dict[str, torch.Tensor]]:
        outputs = model(batch.frames, batch.padding_mask, batch.captions, batch.frame_sizes)
        return outputs, criterion(outputs, batch.targets)

    before, losses = run()
    assert all(value.isfinite() for value in losses.values())
    assert {name for name, value in losses.items() if value > 0} == {"class", "class_0"}
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert any(gradient.any() for gradient in gradients.values())
    assert not any(gradient.any() for name, gradient in gradients.items() if "mask_features" in name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
    after, _ = run()
    assert all((b.class_logits < a.class_logits).all() for a, b in zip(before, after, strict=True))


def test_a_negative_number_of_them_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="num_absent is -1"):
        write(tmp_path / "data", -1)
