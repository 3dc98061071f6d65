"""A whole training run around `engine.train_one_epoch`: built, resumed, saved, evaluated, recorded."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

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
from models.predictor import build_predictor
from resuming import carry_over_log, check_same_model, describe_order, is_in, path_to_resume, restore_run, set_aside
from util.checkpoint_io import NEWEST, CheckpointError, find_newest, keep_copy, load_checkpoint, save_checkpoint
from util.config import Config
from util.disk import writing
from util.distributed import ProcessInfo, all_reduce_max, barrier, broadcast_object, gather_objects, is_main_process
from util.interruption import Interrupted, StopRequest
from util.logs import RunLog
from util.masks import write_bytes
from util.optim import build_optimizer, build_schedule
from util.random_state import get_random_state, preserved_random_state, seed_everything

logger = logging.getLogger(__name__)


@dataclass
class Fitting:
    """What the epochs of a run need.

    Attributes:
        config: the experiment.
        process: this process among those of the run.
        network: whose weights are trained, and saved.
        run: how `network` is trained, and how far it has come.
        videos: what is evaluated, or None when nothing is.
        stop: whether the run is asked to stop.
    """

    config: Config
    process: ProcessInfo
    network: nn.Module
    run: TrainingRun
    videos: VideoDataset | FrameWindows | RefCOCOReader | None
    stop: StopRequest = field(default_factory=StopRequest)

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

        Raises:
            Interrupted: a signal asked the run to stop, which has done the step in progress and saved.
        """
        run, epochs = self.run, self.config.optim.epochs
        if record is not None and broadcast_object(run.log is not None and run.log.last_epoch < record["epoch"]):
            record = self.finish_epoch(record)
        if run.epoch >= epochs:
            logger.info("all %d epochs are done already", epochs)
        while run.epoch < epochs:
            try:
                record = train_one_epoch(run, self.after_step)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}. {self._advice()}") from error
            self.save(record)
            if self.config.train.keep_epochs and is_main_process():
                path = self.checkpoint_path
                keep_copy(path, path.with_name(f"checkpoint_{run.epoch:04d}.pth"))
            self.stop_if_asked()
            record = self.finish_epoch(record)
            if run.epoch < epochs:
                self.stop_if_asked()
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
            try:
                # resuming evaluates again
                with self.stop.raising(), preserved_random_state(self.process.device):
                    scores = evaluate_network(self.config, self.network, self.process, self.videos)
            except Interrupted as interrupt:
                self._tell(interrupt)
                raise
            record = record | {"eval": scores}
            if log is not None:
                numbers = {name: value for name, value in scores.items() if isinstance(value, float)}
                log.scalars(record["step"], {f"eval/{name}": value for name, value in numbers.items()})
        if log is not None:
            log.record(record)
        return record

    def after_step(self) -> None:
        """Save in the middle of an epoch, every `train.save_every_steps` steps and before the run stops as asked."""
        every, signum = self.config.train.save_every_steps, self._signum()
        if signum is not None or (every and self.run.step % every == 0):
            self.save(None)
        if signum is not None:
            self._leave(signum)

    def stop_if_asked(self) -> None:
        """Between a save and the next step. All processes have to call this. Raises Interrupted."""
        if (signum := self._signum()) is not None:
            self._leave(signum)

    def _signum(self) -> int | None:
        """The signal that any process has received, the same on all of them: they have to stop after the same step."""
        return all_reduce_max(self.stop.signum or 0, self.process.device) or None

    def _leave(self, signum: int) -> NoReturn:
        interrupt = Interrupted(signum)
        self._tell(interrupt)
        barrier()  # torchrun ends all processes as soon as one has gone
        raise interrupt

    def _tell(self, interrupt: Interrupted) -> None:
        if not is_main_process():
            return
        path, step = find_newest(self.config.train.output_dir), self.run.step
        if path is None:  # it resumed elsewhere
            logger.warning("stopped by %s at step %d; the same command starts there again", interrupt, step)
        else:
            advice = "go on with the same command and --train.resume auto"
            logger.warning("stopped by %s after step %d, which %s holds: %s", interrupt, step, path, advice)

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
                "order": describe_order(self.config, run, self.process.world_size),
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
        Interrupted: SIGINT or SIGTERM asked the run to stop; what it has done is saved.
    """
    folder, train = Path(config.train.output_dir), config.train
    videos = build_eval_data(config) if train.eval_every_epochs else None
    if isinstance(videos, VideoDataset):
        check_annotated(videos)
    elif isinstance(videos, FrameWindows):
        _ = videos.reader.truths  # a missing file is better known before training than after an epoch
    resumed_from = path_to_resume(config)
    path, checkpoint = resumed_from or train.init_checkpoint, None
    if path is not None:
        checkpoint = load_checkpoint(path, resumable=resumed_from is not None)
    if resumed_from is not None:
        check_same_model(config, checkpoint, resumed_from)
    seed_everything(train.seed)  # the same starting weights in every process
    drop_class_heads = train.drop_class_heads and resumed_from is None
    network = build_network(config, checkpoint, path, drop_class_heads=drop_class_heads).to(process.device)
    run = build_run(config, network, process)
    seed_everything(train.seed + process.rank)
    record = None
    if resumed_from is not None:
        record = restore_run(config, run, checkpoint, resumed_from, process)
    if is_main_process() and not is_in(resumed_from, folder):
        set_aside(folder)
        if resumed_from is not None:
            carry_over_log(resumed_from.parent, folder)
    del checkpoint  # as large as the network and its optimizer
    logger.info("training %s, epoch %d, step %d", f"from {path}" if path else "from the start", run.epoch, run.step)
    if is_main_process():
        run.log = RunLog(folder, run.step + 1, run.epoch)
        with writing(folder / "config.json"):
            write_bytes(folder / "config.json", (json.dumps(config.to_dict(), indent=1) + "\n").encode())
    stop = StopRequest()
    with stop.listening():
        try:
            return Fitting(config, process, network, run, videos, stop).fit_epochs(record)
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
        return evaluate(build_predictor(network, config.test, process.device), data)
    if isinstance(data, RefCOCOReader):
        return evaluate_images(build_predictor(network, config.test, process.device), data)
    test = config.test
    predictor = FramePredictor(network, threshold=test.threshold, precision=test.precision, device=process.device)
    return evaluate_frames(predictor, data, config.data.num_workers)


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
        num_epochs=optim.epochs,
    )
