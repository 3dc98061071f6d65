from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datasets.build import build_eval_videos
from datasets.collate import collate
from datasets.videos import VideoDataset
from engine import SupervisedModel, TrainingRun, evaluate, optimizer_step, train_one_epoch
from models.build import build_criterion, build_model
from models.criterion import mask_target
from util.batch import Batch, ClipTargets
from util.config import Config, OptimConfig
from util.logs import RunLog
from util.metrics import boundary_accuracy, region_similarity
from util.optim import build_optimizer, build_schedule


@dataclass(frozen=True)
class ToyOutput:
    logits: Tensor


class ToyNetwork(nn.Module):
    """One number per clip, from the mean of its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1)
        self.dtype: torch.dtype | None = None

    def forward(self, frames: Tensor, *_: object) -> list[ToyOutput]:
        logits = self.head(frames.mean((1, 2, 3, 4))[:, None])
        self.dtype = logits.dtype
        return [ToyOutput(logits)]


class ToyCriterion(nn.Module):
    """Divides by the number of visible boxes of the batch, as the real one does."""

    def forward(self, outputs: list[ToyOutput], targets: list[ClipTargets]) -> dict[str, Tensor]:
        assert all(output.logits.dtype == torch.float32 for output in outputs)
        num_boxes = sum(target.visible.sum() for target in targets).clamp(min=1)
        wanted = torch.stack([target.visible.float().mean() for target in targets])[:, None]
        difference = outputs[-1].logits - wanted
        return {"square": difference.square().sum() / num_boxes, "absolute": difference.abs().sum() / num_boxes}


def _clip(seed: int, num_visible: int) -> Batch:
    frames = torch.rand(1, 3, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) + seed
    visible = torch.arange(3) < num_visible
    target = ClipTargets(visible[:, None, None].expand(3, 4, 4), torch.zeros(3, 4), visible, torch.zeros(3).long())
    padding = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
    return Batch(frames, padding, torch.tensor([[4, 4]]), ["a shape"], [target], [f"video{seed}/0"])


def _joined(batches: Sequence[Batch]) -> Batch:
    fields = {f.name: [getattr(b, f.name) for b in batches] for f in dataclasses.fields(Batch)}
    joined = {k: torch.cat(v) for k, v in fields.items() if isinstance(v[0], Tensor)}
    lists = {k: list(itertools.chain(*fields[k])) for k in ("captions", "targets", "names")}
    return Batch(**joined, **lists)


class ListLoader:
    """A loader and its sampler over given batches, the same in every epoch."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches, self.batches_per_epoch, self.done = list(batches), len(batches), 0

    def set_position(self, epoch: int, batches_done: int = 0) -> None:
        self.done = batches_done

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches[self.done :])


def _run(batches: Sequence[Batch], network: nn.Module | None = None, **settings: object) -> TrainingRun:
    torch.manual_seed(0)
    network = network or ToyNetwork()
    optim = OptimConfig(lr=0.1, weight_decay=0.0, lr_drops=(1,), warmup_steps=2)
    loader = ListLoader(batches)
    return TrainingRun(
        model=SupervisedModel(network, ToyCriterion()),
        optimizer=build_optimizer(network, optim),
        schedule=build_schedule(optim),
        loader=loader,
        sampler=loader,
        device=torch.device("cpu"),
        **settings,
    )


def _weights(run: TrainingRun) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


CLIPS = [_clip(0, 3), _clip(1, 1), _clip(2, 0), _clip(3, 2), _clip(4, 0)]


def test_accumulated_steps_equal_one_large_batch() -> None:
    large = _run([_joined(CLIPS[:3]), _joined(CLIPS[3:])])
    small = _run(CLIPS, accumulate_steps=3)
    for _ in range(2):
        expected, found = train_one_epoch(large), train_one_epoch(small)
        assert expected["step"] == found["step"]
        for name, value in expected["train"].items():
            assert math.isclose(found["train"][name], value, rel_tol=1e-5), name
    torch.testing.assert_close(_weights(small), _weights(large))
    assert not torch.equal(_weights(small), _weights(_run(CLIPS)))


def test_a_step_without_visible_objects_still_counts() -> None:
    large, small = _run([_joined([CLIPS[2], CLIPS[4]])]), _run([CLIPS[2], CLIPS[4]], accumulate_steps=2)
    train_one_epoch(large)
    train_one_epoch(small)
    torch.testing.assert_close(_weights(small), _weights(large))


@pytest.mark.parametrize("accumulate_steps", [1, 2, 3, 7])
def test_every_batch_is_used_once_and_the_position_moves(accumulate_steps: int) -> None:
    run = _run(CLIPS, accumulate_steps=accumulate_steps)
    positions = []
    record = train_one_epoch(run, lambda: positions.append((run.step, run.batches_done)))
    num_steps = math.ceil(5 / accumulate_steps)
    assert positions == [(i, i * accumulate_steps) for i in range(1, num_steps)]
    assert (run.epoch, run.step, run.batches_done) == (1, num_steps, 0)
    assert (record["epoch"], record["step"]) == (0, num_steps)


def test_an_epoch_goes_on_from_its_position() -> None:
    whole, resumed = _run(CLIPS, accumulate_steps=2), _run(CLIPS, accumulate_steps=2)
    saved = {}

    def save() -> None:
        if whole.step == 1:
            saved.update(copy.deepcopy({"model": whole.model.state_dict(), "optimizer": whole.optimizer.state_dict()}))
            saved["means"] = whole.means.state_dict()

    expected = train_one_epoch(whole, save)
    resumed.model.load_state_dict(saved["model"])
    resumed.optimizer.load_state_dict(saved["optimizer"])
    resumed.means.load_state_dict(saved["means"])
    resumed.step, resumed.batches_done = 1, 2
    found = train_one_epoch(resumed)
    assert torch.equal(_weights(resumed), _weights(whole))
    assert found["train"] == pytest.approx(expected["train"], rel=1e-9)


def test_rates_follow_the_schedule(tmp_path: Path) -> None:
    run = _run(CLIPS, log=RunLog(tmp_path), log_every_steps=2)
    used = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    records = [train_one_epoch(run), train_one_epoch(run)]
    run.log.close()
    assert used == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.1] + [0.01] * 5)
    assert [record["lr"]["rest"] for record in records] == pytest.approx([0.1, 0.01])


def test_gradients_are_clipped() -> None:
    run = _run(CLIPS[:1], clip_grad_norm=1e-3)
    losses = optimizer_step(run, CLIPS[:1])
    norm = torch.cat([p.grad.flatten() for p in run.model.parameters()]).norm()
    assert losses["grad_norm"] > 0.1
    torch.testing.assert_close(norm, torch.tensor(1e-3), rtol=1e-3, atol=0)


def test_a_loss_that_is_not_finite_names_step_clips_and_terms() -> None:
    bad = dataclasses.replace(CLIPS[1], frames=CLIPS[1].frames * math.nan)
    run = _run([CLIPS[0], CLIPS[3], CLIPS[4], bad], accumulate_steps=2)
    before = []
    with pytest.raises(FloatingPointError) as raised:
        train_one_epoch(run, lambda: before.append(_weights(run)))
    message = str(raised.value)
    assert all(word in message for word in ("step 1", "epoch 0", "video1/0", "square = nan", "absolute = nan"))
    assert "video4/0" not in message, "the other clip of the step is not to blame"
    assert torch.equal(_weights(run), before[-1]), "the weights were updated"


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    run = _run(CLIPS)
    run.model.network.head.weight.register_hook(lambda gradient: gradient * math.inf)
    before = _weights(run)
    with pytest.raises(FloatingPointError, match=r"gradients are not finite at step 0.*video0/0"):
        train_one_epoch(run)
    assert torch.equal(_weights(run), before)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_of_the_network_and_of_the_losses(precision: str, dtype: torch.dtype) -> None:
    model = SupervisedModel(ToyNetwork(), ToyCriterion(), precision)
    losses = model(_joined(CLIPS))
    assert model.network.dtype == dtype
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_log_lines_without_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        train_one_epoch(_run(CLIPS, log_every_steps=2))
    lines = [record.message for record in caplog.records if record.name == "util.logs"]
    assert [line.split()[2] for line in lines] == ["2/5", "4/5", "5/5"]
    for word in ("square", "loss", "grad_norm", "lr", "s/step", "waiting for data", "MB"):
        assert word in lines[0]


def test_the_time_left_is_that_of_all_epochs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    run = _run(CLIPS, num_epochs=3, log_every_steps=1, accumulate_steps=2)
    run.optimizer.register_step_post_hook(lambda *_: now.__setitem__(0, now[0] + 60.0))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            train_one_epoch(run)
    lines = [record.message for record in caplog.records if record.name == "util.logs"]
    assert [line.partition("eta ")[2] for line in lines] == [*(f"{minutes} min" for minutes in range(8, 0, -1)), ""]


def _real_step(config: Config, batches: list[Batch]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients of one optimizer step of the tiny model."""
    torch.manual_seed(0)
    network = build_model(config.model)
    run = TrainingRun(
        model=SupervisedModel(network, build_criterion(config.loss), config.optim.precision).train(),
        optimizer=build_optimizer(network, config.optim),
        schedule=build_schedule(config.optim),
        loader=[],
        sampler=ListLoader([]),
        device=torch.device("cpu"),
    )
    losses = optimizer_step(run, batches)
    return losses, {name: p.grad for name, p in network.named_parameters() if p.requires_grad}


@pytest.fixture
def plain_config(tiny_config: Config) -> Config:
    """Without dropout, and without norms over the batch, so that a batch can be cut into pieces."""
    options = {"depths": [1, 1, 1, 1], "dims": [8, 16, 16, 32]}
    model = dataclasses.replace(
        tiny_config.model,
        dropout=0.0,
        backbone="timm/convnext_atto",
        backbone_options=options,
        freeze_text_encoder=True,
    )
    return dataclasses.replace(tiny_config, model=model)


def _samples(config: Config, count: int) -> list:
    from datasets.build import build_clip_dataset

    dataset = build_clip_dataset(config)
    return [dataset[(0, index)] for index in range(count)]


def test_accumulation_of_the_real_model_equals_one_large_batch(plain_config: Config) -> None:
    samples = _samples(plain_config, 3)
    losses, gradients = _real_step(plain_config, [collate(samples)])
    parts, part_gradients = _real_step(plain_config, [collate(samples[:2]), collate(samples[2:])])
    for name, loss in losses.items():
        torch.testing.assert_close(parts[name], loss, rtol=1e-4, atol=1e-5, msg=name)
    for name, gradient in gradients.items():
        torch.testing.assert_close(part_gradients[name], gradient, rtol=1e-3, atol=1e-4 * (1 + gradient.abs().max()))


def test_bfloat16_losses_of_the_real_model_are_close(plain_config: Config) -> None:
    batches = [collate(_samples(plain_config, 2))]
    losses, _ = _real_step(plain_config, batches)
    half = dataclasses.replace(plain_config, optim=dataclasses.replace(plain_config.optim, precision="bfloat16"))
    half_losses, gradients = _real_step(half, batches)
    assert abs(half_losses["loss"] - losses["loss"]) < 0.05 * losses["loss"]
    assert half_losses["loss"] != losses["loss"]
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())


def test_a_frozen_text_encoder_stays_in_evaluation_mode(plain_config: Config) -> None:
    model = SupervisedModel(build_model(plain_config.model), build_criterion(plain_config.loss))
    model.train()
    assert model.network.training and not model.network.text_encoder.encoder.training
    assert not any(p.requires_grad for p in model.network.text_encoder.encoder.parameters())


@dataclass(frozen=True)
class _Masks:
    masks: Tensor


class RightHalf:
    """Predicts the right half of every frame, whatever the caption."""

    window = 3

    def track(self, windows: Iterator[Tensor], captions: list[str]) -> Iterator[list[_Masks]]:
        for frames in windows:
            masks = torch.zeros(frames.shape[:3], dtype=torch.bool)
            masks[:, :, masks.shape[2] // 2 :] = True
            yield [_Masks(masks)] * len(captions)


def test_evaluation_means_frames_then_expressions(tiny_config: Config) -> None:
    videos = build_eval_videos(tiny_config)
    result = evaluate(RightHalf(), videos)
    scores = {}
    for video in videos:
        for expression in video.expressions:
            j, f = [], []
            for frame in range(len(video)):
                truth = video.masks(frame) == expression.obj_id
                guess = np.zeros_like(truth)
                guess[:, guess.shape[1] // 2 :] = True
                j.append(region_similarity(guess, truth))
                f.append(boundary_accuracy(guess, truth))
            scores[expression.name] = (expression.kind, np.mean(j), np.mean(f))
    assert result["num_expressions"] == len(scores) > 0
    assert result["J"] == pytest.approx(np.mean([j for _, j, _ in scores.values()]))
    assert result["F"] == pytest.approx(np.mean([f for *_, f in scores.values()]))
    assert result["J&F"] == pytest.approx((result["J"] + result["F"]) / 2)
    for kind, part in result["per_kind"].items():
        assert part["J"] == pytest.approx(np.mean([j for k, j, _ in scores.values() if k == kind]))
    assert sum(part["num_expressions"] for part in result["per_kind"].values()) == len(scores)


def test_what_has_no_annotations_cannot_be_evaluated(shapes_root: Path, tmp_path: Path) -> None:
    for folder in ("valid/JPEGImages", "meta_expressions/valid/meta_expressions.json"):
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder).symlink_to(shapes_root / folder)
    with pytest.raises(ValueError, match=r"no annotations.*eval_every_epochs"):
        evaluate(RightHalf(), VideoDataset(tmp_path, "valid"))
    (tmp_path / "valid/Annotations").symlink_to(shapes_root / "valid/Annotations")
    meta = tmp_path / "meta_expressions/valid/meta_expressions.json"
    content = json.loads(meta.read_text())
    next(iter(content["videos"].values()))["expressions"]["0"].pop("obj_id")
    meta.unlink()
    meta.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no object for expression"):
        evaluate(RightHalf(), VideoDataset(tmp_path, "valid"))


@pytest.mark.slow
def test_training_on_one_clip_overfits_it(plain_config: Config) -> None:
    optim = dataclasses.replace(plain_config.optim, lr=2e-3, backbone_lr=2e-3, warmup_steps=10, weight_decay=0.0)
    batch = collate(_samples(dataclasses.replace(plain_config, optim=optim), 1))
    torch.manual_seed(0)
    network = build_model(plain_config.model)
    run = TrainingRun(
        model=SupervisedModel(network, build_criterion(plain_config.loss)).train(),
        optimizer=build_optimizer(network, optim),
        schedule=build_schedule(optim),
        loader=[],
        sampler=ListLoader([]),
        device=torch.device("cpu"),
        clip_grad_norm=1.0,
    )
    first = optimizer_step(run, [batch])["loss"]
    for run.step in range(1, 250):
        losses = optimizer_step(run, [batch])
    assert losses["loss"] < 0.15 * first
    network.eval()
    with torch.no_grad():
        output = network(batch.frames, batch.padding_mask, batch.captions, batch.frame_sizes)[-1]
    scores = output.class_logits[0].sigmoid().amax(-1)  # (T, N)
    query = scores.mean(0).argmax()
    mask = output.mask_logits[0, :, query] > 0  # (T, h, w) at stride 4
    truth = mask_target(batch.targets[0].masks, *mask.shape[1:]) > 0
    iou = ((mask & truth).sum() / (mask | truth).sum()).item()
    assert iou > 0.8
    assert (scores[batch.targets[0].visible, query] > 0.5).all()
