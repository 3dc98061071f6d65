"""Train one epoch, evaluate."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from datasets.videos import Video, VideoDataset
from models.predictor import Predictor
from util.batch import Batch
from util.distributed import all_reduce_mean, gather_objects, get_rank, get_world_size, is_main_process
from util.logs import Progress, RunLog, RunningMeans, Stopwatch, describe_rates, describe_seconds, peak_memory_mb
from util.metrics import boundary_accuracy, region_similarity, summarize_scores
from util.optim import Schedule, clip_gradients, learning_rates

logger = logging.getLogger(__name__)


class PositionedSampler(Protocol):
    """Whatever orders the batches of an epoch and can go on from any of them."""

    batches_per_epoch: int
    num_samples: int

    def set_position(self, epoch: int, batches_done: int = 0) -> None:
        """Yield what is left of `epoch` after its first `batches_done` batches next."""


class SupervisedModel(nn.Module):
    """The network and its losses as one module, so that everything a gradient depends on is inside one forward pass.

    Args:
        network: see the model's contract.
        criterion: outputs and targets -> weighted losses.
        precision: `bfloat16` runs the network under autocast; outputs and losses are float32 in any case.
    """

    def __init__(self, network: nn.Module, criterion: nn.Module, precision: str = "float32") -> None:
        super().__init__()
        self.network, self.criterion = network, criterion
        self.half = precision == "bfloat16"

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses of a batch; their sum is the loss to minimise."""
        device = batch.frames.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.half):
            outputs = self.network(
                batch.frames, batch.padding_mask, batch.captions, batch.frame_sizes, batch.annotated_frame
            )
        with torch.autocast(device, enabled=False):
            return self.criterion([_as_float(output) for output in outputs], batch.targets)


def _as_float(output: Any) -> Any:
    """A dataclass of tensors in float32."""
    return dataclasses.replace(output, **{f.name: getattr(output, f.name).float() for f in dataclasses.fields(output)})


@dataclass
class TrainingRun:
    """A run: what trains, on what, and how far it has come.

    Attributes:
        model: losses of a batch; possibly wrapped for several processes.
        optimizer: over the groups of `util.optim`.
        schedule: of its rates.
        loader: yields `Batch`es in the order of `sampler`.
        sampler: orders the clips.
        device: where the model is.
        accumulate_steps: batches per optimizer step.
        clip_grad_norm: largest gradient norm; 0 does not clip.
        log_every_steps: optimizer steps between two points of a curve.
        num_epochs: of the whole run, from which the time left is told; 0 when that is unknown.
        log: curves, on the main process only.
        epoch: epochs done.
        batches_done: batches of the current epoch done, always whole optimizer steps.
        step: optimizer steps done in all.
        means: losses of the current epoch so far.
        seconds: spent on the current epoch so far.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loader: Iterable[Batch]
    sampler: PositionedSampler
    device: torch.device
    accumulate_steps: int = 1
    clip_grad_norm: float = 0.0
    log_every_steps: int = 10
    num_epochs: int = 0
    log: RunLog | None = None
    epoch: int = 0
    batches_done: int = 0
    step: int = 0
    means: RunningMeans = field(default_factory=RunningMeans)
    seconds: float = 0.0


def train_one_epoch(run: TrainingRun, after_step: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Train what is left of the current epoch, and count it as done.

    Args:
        run: its position and everything it trains change.
        after_step: called after each optimizer step but the epoch's last, to save a checkpoint for instance.

    Returns:
        the epoch's record: mean losses under `train`, rates under `lr`, `seconds`, `seconds_per_step`, `data_share`,
        `memory_mb`, `epoch` (from 0) and `step`.

    Raises:
        FloatingPointError: a loss or a gradient is not finite; the weights are those of the step before.
    """
    run.model.train()
    run.sampler.set_position(run.epoch, run.batches_done)
    num_steps = math.ceil(run.sampler.batches_per_epoch / run.accumulate_steps)
    steps_done = math.ceil(run.batches_done / run.accumulate_steps)
    window, total, window_watch = RunningMeans(), Stopwatch(), Stopwatch()
    seconds_before = run.seconds
    with Progress(num_steps, steps_done, f"epoch {run.epoch}", shown=is_main_process()) as progress:
        batches_left = run.sampler.batches_per_epoch - run.batches_done
        for batches, waited in _groups(run.loader, run.accumulate_steps, batches_left):
            losses = optimizer_step(run, batches)
            for means in (window, run.means):
                means.add(losses)
            for watch in (total, window_watch):
                watch.step(waited)
            run.seconds = seconds_before + total.elapsed()
            run.step += 1
            run.batches_done += len(batches)
            is_last = run.batches_done == run.sampler.batches_per_epoch
            status = None
            if run.step % run.log_every_steps == 0 or is_last:
                status = _report(run, window, window_watch, _seconds_left(run, total))
                window = RunningMeans()
            progress.advance(status)
            if not is_last:
                after_step()
            if status is not None:
                window_watch.restart()
    record = {
        "epoch": run.epoch,
        "step": run.step,
        "train": run.means.means(),
        "lr": learning_rates(run.optimizer),
        "seconds": run.seconds,
        "memory_mb": peak_memory_mb(run.device),
        **total.read(),
    }
    run.epoch, run.batches_done, run.means, run.seconds = run.epoch + 1, 0, RunningMeans(), 0.0
    return record


def optimizer_step(run: TrainingRun, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """One update from the gradients of all `batches`, as if they were one batch (but for dropout).

    Returns:
        the losses of the step, each a () tensor, with `loss` their sum and `grad_norm` before clipping.

    Raises:
        FloatingPointError: a loss or a gradient is not finite; nothing was updated.
    """
    run.schedule.apply(run.optimizer, run.step, run.epoch)
    run.optimizer.zero_grad()
    parts: list[dict[str, Tensor]] = []
    for i, (batch, share) in enumerate(zip(batches, _shares(batches, run.device), strict=True)):
        with _gradients_stay_here(run.model, i < len(batches) - 1):
            losses = run.model(batch.to(run.device))
            (sum(losses.values()) * share).backward()
        parts.append({name: loss.detach() * share for name, loss in losses.items()})
    step_losses = {name: sum(part[name] for part in parts) for name in parts[0]}
    step_losses["loss"] = sum(step_losses.values())
    step_losses["grad_norm"] = clip_gradients(run.optimizer, run.clip_grad_norm)
    if not (step_losses["loss"] + step_losses["grad_norm"]).isfinite().item():  # the only wait for the device in a step
        raise FloatingPointError(_explain(run, batches, parts))
    run.optimizer.step()
    return step_losses


def _shares(batches: Sequence[Batch], device: torch.device) -> list[Tensor | float]:
    """What each batch's loss counts in the step.

    The criterion divides by the batch's visible boxes, and a large batch would by those of the step: b / total.
    """
    if len(batches) == 1:
        return [1.0]
    counts = torch.tensor([sum(int(t.visible.sum()) for t in b.targets) for b in batches], dtype=torch.float32)
    counts = all_reduce_mean(counts.to(device))
    return list(counts.clamp(min=1) / counts.sum().clamp(min=1))


def _gradients_stay_here(model: nn.Module, stay: bool) -> contextlib.AbstractContextManager[None]:
    """Processes exchange gradients only in the last backward pass of a step."""
    if stay and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return contextlib.nullcontext()


def _groups(loader: Iterable[Batch], size: int, num_batches: int) -> Iterator[tuple[list[Batch], float]]:
    """`size` batches at a time (the last time what is left), and the seconds that went by until they were there."""
    iterator = itertools.islice(loader, num_batches)
    while True:
        start = time.perf_counter()
        group = list(itertools.islice(iterator, size))
        if not group:
            return
        yield group, time.perf_counter() - start


def _report(run: TrainingRun, window: RunningMeans, watch: Stopwatch, seconds_left: float) -> str:
    """Add the last steps to the curves; all processes take part in the means.

    Returns:
        the line of the progress.
    """
    means, rates, times = window.means(), learning_rates(run.optimizer), watch.read()
    memory = peak_memory_mb(run.device)
    if run.log is not None:
        run.log.scalars(run.step, {f"train/{name}": value for name, value in means.items()})
        run.log.scalars(run.step, {f"lr/{name}": rate for name, rate in rates.items()})
        run.log.scalars(run.step, {f"speed/{name}": value for name, value in times.items()} | {"memory_mb": memory})
    shown = {name: value for name, value in means.items() if not name.rpartition("_")[2].isdigit()}
    losses = " ".join(f"{name} {value:.3f}" for name, value in shown.items())
    eta = f", eta {describe_seconds(seconds_left)}" if seconds_left else ""
    return (
        f"{losses}  lr {describe_rates(rates)}  {times['seconds_per_step']:.2f} s/step, "
        f"{times['data_share']:.0%} waiting for data, {memory:.0f} MB{eta}"
    )


def _seconds_left(run: TrainingRun, watch: Stopwatch) -> float:
    """Of the whole run at the pace of this epoch, without evaluations and saves; 0 when its end is unknown."""
    per_epoch = math.ceil(run.sampler.batches_per_epoch / run.accumulate_steps)
    steps = (run.num_epochs - run.epoch) * per_epoch - math.ceil(run.batches_done / run.accumulate_steps)
    return max(steps, 0) * watch.read()["seconds_per_step"]


def _explain(run: TrainingRun, batches: Sequence[Batch], parts: Sequence[dict[str, Tensor]]) -> str:
    """Which step, clips and terms are not finite."""
    where = f"step {run.step} (epoch {run.epoch})"
    found = []
    for batch, losses in zip(batches, parts, strict=True):
        if terms := [f"{name} = {value.item()}" for name, value in losses.items() if not value.isfinite()]:
            found.append(f"clips {', '.join(batch.names)}: {', '.join(terms)}")
    if found:
        return f"the loss is not finite at {where}: {'; '.join(found)}. The weights were not updated"
    clips = ", ".join(name for batch in batches for name in batch.names)
    others = " here (another process may say more)" if get_world_size() > 1 else ""
    return (
        f"the gradients are not finite at {where}, the losses are{others}; clips {clips}. The weights were not updated"
    )


def check_annotated(videos: VideoDataset) -> None:
    """Raises a ValueError when `videos` cannot be scored, which is better known before training than after an epoch."""
    withheld = [e.name for video in videos for e in video.expressions if not e.is_known]
    if not videos.has_masks or withheld:
        what = f"no object for expression {withheld[0]}" if videos.has_masks else "no annotations"
        raise ValueError(
            f"{videos.reader.root}, split {videos.reader.split}: {what}, so it cannot be scored here; choose another "
            "data.eval_split, set train.eval_every_epochs to 0, or let inference_ytvos.py make a submission"
        )


def evaluate(predictor: Predictor, videos: VideoDataset) -> dict[str, Any]:
    """J and F of every expression of annotated videos. All processes have to call this; each video is done by one.

    Args:
        predictor: of the model, which stays in evaluation mode.
        videos: with masks.

    Returns:
        `J`, `F`, `J&F` and `num_expressions`, means over expressions of means over frames, on every process; the same
        `per_kind` where expressions have kinds.

    Raises:
        ValueError: the videos have no annotations, or a file is damaged.
    """
    check_annotated(videos)
    share = videos[get_rank() :: get_world_size()]
    scores = []
    with Progress(len(share), title="evaluation", shown=is_main_process(), unit="video") as progress:
        for video in share:
            scores += _score_video(predictor, video)
            progress.advance()
    scores = [score for part in gather_objects(scores) for score in part]
    result = summarize_scores(scores)
    logger.info("evaluation: J&F {J&F:.4f}, J {J:.4f}, F {F:.4f}, {num_expressions} expressions".format(**result))
    return result


def _score_video(predictor: Predictor, video: Video) -> list[tuple[str | None, float, float]]:
    """(kind, mean J, mean F) of each expression of a video."""
    totals = np.zeros((len(video.expressions), 2))
    frame = 0
    for predictions in predictor.track(video.windows(predictor.window), [e.caption for e in video.expressions]):
        masks = [prediction.masks.numpy() for prediction in predictions]
        for i in range(len(masks[0])):
            for truth, mask, total in zip(video.truths(frame), masks, totals, strict=True):
                total += region_similarity(mask[i], truth), boundary_accuracy(mask[i], truth)
            frame += 1
    means = totals / max(frame, 1)
    return [(e.kind, j, f) for e, (j, f) in zip(video.expressions, means.tolist(), strict=True)]
