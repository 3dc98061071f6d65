"""A whole training run around `engine.train_one_epoch`: built, resumed, saved, evaluated, recorded."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from datasets.build import build_eval_data, build_train_loader
from datasets.frame_clips import FrameWindows
from datasets.refcoco import RefCOCOReader
from datasets.videos import VideoDataset
from engine import SupervisedModel, TrainingRun, check_annotated, evaluate, train_one_epoch
from frame_evaluation import evaluate_frames
from image_evaluation import evaluate_images
from models.build import build_criterion, build_in_main_process_first, build_model, differing_settings
from models.checkpoint import load_model_state
from models.frame_predictor import FramePredictor
from models.predictor import Predictor
from util.checkpoint_io import NEWEST, CheckpointError, find_newest, keep_copy, load_checkpoint, save_checkpoint
from util.config import Config
from util.distributed import ProcessInfo, barrier, broadcast_object, gather_objects, is_main_process
from util.logs import LOG, RunLog
from util.optim import build_optimizer, build_schedule, restore_optimizer
from util.random_state import get_random_state, preserved_random_state, seed_everything, set_random_state

logger = logging.getLogger(__name__)

# Settings of the model that a resumed run may change: they change neither its weights nor what the weights mean.
FREE_TO_CHANGE = frozenset(
    {
        "activation_checkpointing",
        "backbone_weights",
        "drop_path",
        "dropout",
        "freeze_text_encoder",
        "max_tokens",
        "text_encoder",
        "text_encoder_pretrained",
    }
)


@dataclass
class Fitting:
    """What the epochs of a run need.

    Attributes:
        config: the experiment.
        process: this process among those of the run.
        network: whose weights are trained, and saved.
        run: how `network` is trained, and how far it has come.
        videos: what is evaluated, or None when nothing is.
    """

    config: Config
    process: ProcessInfo
    network: nn.Module
    run: TrainingRun
    videos: VideoDataset | FrameWindows | RefCOCOReader | None

    @property
    def checkpoint_path(self) -> Path:
        """The newest checkpoint."""
        return Path(self.config.train.output_dir) / NEWEST

    def fit_epochs(self, record: dict[str, Any] | None = None) -> dict[str, Any]:
        """Train the epochs that are left.

        Args:
            record: that of the last epoch, when a checkpoint was saved before the record was written to the log.

        Returns:
            the last epoch's record.
        """
        run, epochs = self.run, self.config.optim.epochs
        if record is not None and broadcast_object(run.log is not None and run.log.last_epoch < record["epoch"]):
            record = self.finish_epoch(record)
        if run.epoch >= epochs:
            logger.info("all %d epochs are done already", epochs)
        while run.epoch < epochs:
            try:
                record = train_one_epoch(run, self.save_now_and_then)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}. {self._advice()}") from error
            self.save(record)
            if self.config.train.keep_epochs and is_main_process():
                path = self.checkpoint_path
                keep_copy(path, path.with_name(f"checkpoint_{run.epoch:04d}.pth"))
            record = self.finish_epoch(record)
        barrier()  # files are complete when any process leaves
        return record or {}

    def _advice(self) -> str:
        """What to do when a loss is not finite."""
        optim, newest = self.config.optim, find_newest(self.config.train.output_dir)
        clipping = (
            f"lower (it is {optim.clip_grad_norm})" if optim.clip_grad_norm else "above 0 (gradients are not clipped)"
        )
        cures = [f"a lower optim.lr (it is {optim.lr})", f"an optim.clip_grad_norm {clipping}"]
        if optim.precision != "float32":
            cures.append("optim.precision float32")
        if newest is None:
            return f"No checkpoint was saved yet; start again with {', or '.join(cures)}"
        return f"The last checkpoint is {newest}; go on from it by train.resume auto with {', or '.join(cures)}"

    def finish_epoch(self, record: dict[str, Any]) -> dict[str, Any]:
        """Evaluate when it is time to, and write the epoch's record."""
        done, every, log = record["epoch"] + 1, self.config.train.eval_every_epochs, self.run.log
        if self.videos is not None and (done % every == 0 or done == self.config.optim.epochs):
            with preserved_random_state(self.process.device):
                scores = evaluate_network(self.config, self.network, self.process, self.videos)
            record = record | {"eval": scores}
            if log is not None:
                numbers = {name: value for name, value in scores.items() if isinstance(value, float)}
                log.scalars(record["step"], {f"eval/{name}": value for name, value in numbers.items()})
        if log is not None:
            log.record(record)
        return record

    def save_now_and_then(self) -> None:
        """Save in the middle of an epoch, every `train.save_every_steps` steps."""
        every = self.config.train.save_every_steps
        if every and self.run.step % every == 0:
            self.save(None)

    def save(self, record: dict[str, Any] | None) -> None:
        """Save all that the run needs to go on; every process takes part, the main one writes.

        Args:
            record: of the epoch that has just ended and is not in the log yet, or None.

        Raises:
            OSError: the file cannot be written; the checkpoint before it stays.
        """
        run, network = self.run, self.network
        random_states = gather_objects(get_random_state(run.device))
        means = run.means.state_dict()
        if not is_main_process():
            return
        state = {
            "model": network.state_dict(),
            "config": self.config.to_dict(),
            "optimizer": run.optimizer.state_dict(),
            "scheduler": dataclasses.asdict(run.schedule),
            "step": run.step,
            "epoch": run.epoch,
            "rng": random_states,
            "sampler": {
                "batches_done": run.batches_done,
                "batches_per_epoch": run.sampler.batches_per_epoch,
                "order": _describe_order(self.config, run, self.process.world_size),
            },
            "progress": {"means": means, "seconds": run.seconds, "record": record},
            "extras": network.checkpoint_extras(),
        }
        save_checkpoint(self.checkpoint_path, state)


def fit(config: Config, process: ProcessInfo) -> dict[str, Any]:
    """Train to the last epoch, from the start or from a checkpoint.

    A run that starts in the folder of another, anew or from a checkpoint elsewhere, moves that one's files to
    `previous_<n>/` first.

    Args:
        config: the experiment.
        process: this process among those of the run.

    Returns:
        the record of the last epoch, as in `log.jsonl`.

    Raises:
        ValueError, FileNotFoundError: a setting or a file is wrong.
        FloatingPointError: a loss is not finite.
        OSError: a checkpoint cannot be saved. In both cases the last one stays.
    """
    folder, train = Path(config.train.output_dir), config.train
    videos = build_eval_data(config) if train.eval_every_epochs else None
    if isinstance(videos, VideoDataset):
        check_annotated(videos)
    elif isinstance(videos, FrameWindows):
        _ = videos.reader.truths  # a missing file is better known before training than after an epoch
    resumed_from = _path_to_resume(config)
    path, checkpoint = resumed_from or train.init_checkpoint, None
    if path is not None:
        checkpoint = load_checkpoint(path, resumable=resumed_from is not None)
    if resumed_from is not None:
        _check_same_model(config, checkpoint, resumed_from)
    seed_everything(train.seed)  # the same starting weights in every process
    drop_class_heads = train.drop_class_heads and resumed_from is None
    network = build_network(config, checkpoint, path, drop_class_heads=drop_class_heads).to(process.device)
    run = build_run(config, network, process)
    seed_everything(train.seed + process.rank)
    record = None
    if resumed_from is not None:
        record = _restore_run(config, run, checkpoint, resumed_from, process)
    if is_main_process() and not _is_in(resumed_from, folder):
        set_aside(folder)
        if resumed_from is not None:
            _carry_over_log(resumed_from.parent, folder)
    del checkpoint  # as large as the network and its optimizer
    logger.info("training %s, epoch %d, step %d", f"from {path}" if path else "from the start", run.epoch, run.step)
    if is_main_process():
        run.log = RunLog(folder, run.step + 1, run.epoch)
        (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
    try:
        return Fitting(config, process, network, run, videos).fit_epochs(record)
    finally:
        if run.log is not None:
            run.log.close()


def build_network(
    config: Config, checkpoint: dict[str, Any] | None, path: str | Path | None, drop_class_heads: bool = False
) -> nn.Module:
    """The network on the CPU, with its starting weights or with those of a checkpoint.

    Args:
        config: the experiment.
        checkpoint: from `util.checkpoint_io.load_checkpoint`, or None.
        path: of the checkpoint, for messages.
        drop_class_heads: leave the checkpoint's class heads out.

    Raises:
        ValueError: the checkpoint is of another network; the message names the file and lists the keys.
    """
    text_assets = ((checkpoint or {}).get("extras") or {}).get("text")
    if text_assets is not None:
        network = build_model(config.model, text_assets, weights_follow=True)
    else:
        network = build_in_main_process_first(config.model, weights_follow=checkpoint is not None)
    if checkpoint is None:
        return network
    try:
        load_model_state(network, checkpoint["model"], drop_class_heads=drop_class_heads)
    except ValueError as error:
        differing = "; ".join(differing_settings(config.model, checkpoint))
        raise CheckpointError(f"{path}: {differing and f'{differing}. '}{error}") from error
    return network


def evaluate_network(
    config: Config, network: nn.Module, process: ProcessInfo, data: VideoDataset | FrameWindows | RefCOCOReader
) -> dict[str, Any]:
    """The scores of a network on what `datasets.build.build_eval_data` gave. All processes have to call this."""
    if isinstance(data, VideoDataset):
        return evaluate(build_predictor(config, network, process), data)
    if isinstance(data, RefCOCOReader):
        return evaluate_images(build_predictor(config, network, process), data)
    test = config.test
    predictor = FramePredictor(network, threshold=test.threshold, precision=test.precision, device=process.device)
    return evaluate_frames(predictor, data, config.data.num_workers)


def build_predictor(config: Config, network: nn.Module, process: ProcessInfo) -> Predictor:
    """What runs `network` on videos, with the settings of `test`."""
    test = config.test
    return Predictor(
        network,
        short_side=test.short_side,
        max_long_side=test.max_long_side,
        window=test.window,
        threshold=test.threshold,
        precision=test.precision,
        device=process.device,
    )


def build_run(config: Config, network: nn.Module, process: ProcessInfo) -> TrainingRun:
    """Everything that trains `network`, which is on the process's device, at the start of the first epoch."""
    optim = config.optim
    loader, sampler = build_train_loader(config, process.rank, process.world_size)
    optimizer = build_optimizer(network, optim)
    model: nn.Module = SupervisedModel(network, build_criterion(config.loss), optim.precision)
    if process.world_size > 1:
        # without auxiliary losses, earlier layers' heads get no gradient; the baseline does not use the sentence
        unused = not config.loss.aux_loss or config.model.architecture == "baseline"
        model = DistributedDataParallel(model, find_unused_parameters=unused)
    return TrainingRun(
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(optim),
        loader=loader,
        sampler=sampler,
        device=process.device,
        accumulate_steps=optim.accumulate_steps,
        clip_grad_norm=optim.clip_grad_norm,
        log_every_steps=config.train.log_every_steps,
    )


def _describe_order(config: Config, run: TrainingRun, world_size: int) -> dict[str, int]:
    """What the clips of each optimizer step of an epoch depend on, under the names that messages use."""
    return {
        "train.seed": config.train.seed,
        "optim.batch_size": config.optim.batch_size,
        "number of processes": world_size,
        "optim.accumulate_steps": config.optim.accumulate_steps,
        "number of clips": run.sampler.num_samples,
    }


def _check_same_order(sampler: dict[str, Any], run: TrainingRun, now: dict[str, int], path: Path) -> None:
    """Refuse to go on in the middle of an epoch whose clips come in another order.

    Processes may be traded for clips a process: only their product, the global batch, makes the order.

    Args:
        sampler: of the checkpoint; older ones only know how many batches an epoch has.
        run: that resumes.
        now: its `_describe_order`.
        path: of the checkpoint.
    """
    before = sampler.get("order", {})
    changed = [name for name in before.keys() & now.keys() if before[name] != now[name]]
    batch = ("optim.batch_size", "number of processes")
    if all(name in before for name in batch) and math.prod(before[n] for n in batch) == math.prod(
        now[n] for n in batch
    ):
        changed = [name for name in changed if name not in batch]
    listed = ", ".join(f"{name} was {before[name]} and is {now[name]} now" for name in sorted(changed))
    if not listed and sampler["batches_per_epoch"] != run.sampler.batches_per_epoch:
        listed = f"it had {sampler['batches_per_epoch']} batches and has {run.sampler.batches_per_epoch} now"
    if listed:
        raise CheckpointError(
            f"{path} was saved in the middle of an epoch, whose clips would come in another order: {listed}; resume "
            "with the same data, train.seed, optim.batch_size, optim.accumulate_steps and number of processes, or from "
            "a checkpoint of a whole epoch"
        )


def _restore_run(
    config: Config, run: TrainingRun, checkpoint: dict[str, Any], path: Path, process: ProcessInfo
) -> dict[str, Any] | None:
    """Take up optimizer, position, means and random state; settings stay those of `run`.

    Returns:
        the record that was to be written when the checkpoint was saved, or None.
    """
    try:
        restore_optimizer(run.optimizer, checkpoint["optimizer"])
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if checkpoint["scheduler"] != (schedule := dataclasses.asdict(run.schedule)):
        logger.info("the schedule is now %s; the checkpoint's was %s", schedule, checkpoint["scheduler"])
    run.epoch, run.step = checkpoint["epoch"], checkpoint["step"]
    run.batches_done = checkpoint["sampler"]["batches_done"]
    if run.batches_done:
        _check_same_order(checkpoint["sampler"], run, _describe_order(config, run, process.world_size), path)
    progress, states = checkpoint["progress"], checkpoint["rng"]
    run.seconds = progress["seconds"]
    run.means.load_state_dict(progress["means"], run.device)
    if len(states) != process.world_size and is_main_process():
        logger.warning(
            "the checkpoint is of %d processes, this run has %d: it goes on well, but not as the old run would have",
            len(states),
            process.world_size,
        )
    if process.rank < len(states):
        set_random_state(states[process.rank], process.device)
    return progress["record"]


def _path_to_resume(config: Config) -> Path | None:
    if config.train.resume == "auto":
        return find_newest(config.train.output_dir)
    return Path(config.train.resume) if config.train.resume else None


def _check_same_model(config: Config, checkpoint: dict[str, Any], path: Path) -> None:
    """Refuse settings that would make the resumed weights mean something else, even where they would load."""
    before, now = checkpoint["config"]["model"], dataclasses.asdict(config.model)
    names = (before.keys() & now.keys()) - FREE_TO_CHANGE
    if changed := sorted(name for name in names if before[name] != now[name]):
        listed = ", ".join(f"model.{name} ({before[name]} then, {now[name]} now)" for name in changed)
        raise CheckpointError(
            f"{path} is of a run with another model: {listed}; resume with its settings, or start a new run from its "
            "weights with train.init_checkpoint"
        )


def _is_in(path: Path | None, folder: Path) -> bool:
    """Whether a file lies in `folder` itself, also where one of them is a link."""
    return path is not None and folder.resolve() in (path.parent.resolve(), path.resolve().parent)


def _carry_over_log(source: Path, folder: Path) -> None:
    """The records of the run in `source`, for a run in `folder` that goes on from there."""
    if (source / LOG).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / LOG, folder / LOG)


def set_aside(folder: Path) -> None:
    """Move the checkpoints and curves of an older run in `folder` to `previous_<n>/` in it."""
    if find_newest(folder) is None:
        return
    number = 1
    while (aside := folder / f"previous_{number}").exists():
        number += 1
    aside.mkdir()
    for old in [*folder.glob("checkpoint*.pth"), *folder.glob("*.json*"), folder / "tensorboard"]:
        if old.exists():
            old.rename(aside / old.name)
    logger.warning("%s holds an older run, now in %s; to go on with that one use train.resume", folder, aside)
