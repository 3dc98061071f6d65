"""A run that goes on from a checkpoint, and what becomes of an older run in its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine import TrainingRun
from util.checkpoint_io import OTHER_CHECKPOINT, CheckpointError, find_newest
from util.config import Config
from util.disk import writing
from util.distributed import ProcessInfo, is_main_process
from util.logs import LOG
from util.optim import restore_optimizer
from util.random_state import set_random_state

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


def describe_order(config: Config, run: TrainingRun, world_size: int) -> dict[str, int]:
    """What the clips of each optimizer step of an epoch depend on, under the names that messages use."""
    return {
        "train.seed": config.train.seed,
        "optim.batch_size": config.optim.batch_size,
        "number of processes": world_size,
        "optim.accumulate_steps": config.optim.accumulate_steps,
        "number of clips": run.sampler.num_samples,
    }


def check_same_order(sampler: dict[str, Any], run: TrainingRun, now: dict[str, int], path: Path) -> None:
    """Refuse to go on in the middle of an epoch whose clips come in another order.

    Processes may be traded for clips a process: only their product, the global batch, makes the order.

    Args:
        sampler: of the checkpoint; older ones only know how many batches an epoch has.
        run: that resumes.
        now: its `describe_order`.
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


def restore_run(
    config: Config, run: TrainingRun, checkpoint: dict[str, Any], path: Path, process: ProcessInfo
) -> dict[str, Any] | None:
    """Take up optimizer, position, means and random state; settings stay those of `run`.

    Returns:
        the record that was to be written when the checkpoint was saved, or None.
    """
    with _reading(path, "optimizer"):
        restore_optimizer(run.optimizer, checkpoint["optimizer"])
    if checkpoint["scheduler"] != (schedule := dataclasses.asdict(run.schedule)):
        logger.info("the schedule is now %s; the checkpoint's was %s", schedule, checkpoint["scheduler"])
    run.epoch, run.step = checkpoint["epoch"], checkpoint["step"]
    run.batches_done = checkpoint["sampler"]["batches_done"]
    if run.batches_done:
        with _reading(path, "sampler"):
            check_same_order(checkpoint["sampler"], run, describe_order(config, run, process.world_size), path)
    progress, states = checkpoint["progress"], checkpoint["rng"]
    with _reading(path, "progress"):
        run.seconds = progress["seconds"]
        run.means.load_state_dict(progress["means"], run.device)
    if len(states) != process.world_size and is_main_process():
        logger.warning(
            "the checkpoint is of %d processes, this run has %d: it goes on well, but not as the old run would have",
            len(states),
            process.world_size,
        )
    if process.rank < len(states):
        with _reading(path, "rng"):
            set_random_state(states[process.rank], process.device)
    return progress["record"]


@contextlib.contextmanager
def _reading(path: Path, part: str) -> Iterator[None]:
    """Whatever a part of a checkpoint turns out to be, the message names the file and the part."""
    try:
        yield
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"{path}: its `{part}` is damaged ({error!r}); {OTHER_CHECKPOINT}") from error


def path_to_resume(config: Config) -> Path | None:
    """The checkpoint that `train.resume` means, or None: the run starts anew."""
    if config.train.resume == "auto":
        return find_newest(config.train.output_dir)
    return Path(config.train.resume) if config.train.resume else None


def check_same_model(config: Config, checkpoint: dict[str, Any], path: Path) -> None:
    """Refuse settings that would make the resumed weights mean something else, even where they would load."""
    before, now = checkpoint["config"]["model"], dataclasses.asdict(config.model)
    names = (before.keys() & now.keys()) - FREE_TO_CHANGE
    if changed := sorted(name for name in names if before[name] != now[name]):
        listed = ", ".join(f"model.{name} ({before[name]} then, {now[name]} now)" for name in changed)
        raise CheckpointError(
            f"{path} is of a run with another model: {listed}; resume with its settings, or start a new run from its "
            "weights with train.init_checkpoint"
        )


def is_in(path: Path | None, folder: Path) -> bool:
    """Whether a file lies in `folder` itself, also where one of them is a link."""
    return path is not None and folder.resolve() in (path.parent.resolve(), path.resolve().parent)


def carry_over_log(source: Path, folder: Path) -> None:
    """The records of the run in `source`, for a run in `folder` that goes on from there."""
    if (source / LOG).is_file():
        with writing(folder / LOG):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / LOG, folder / LOG)


def set_aside(folder: Path) -> None:
    """Move the checkpoints and curves of an older run in `folder` to `previous_<n>/` in it."""
    if find_newest(folder) is None:
        return
    number = 1
    while (aside := folder / f"previous_{number}").exists():
        number += 1
    with writing(aside):
        aside.mkdir()
        for old in [*folder.glob("checkpoint*.pth"), *folder.glob("*.json*"), folder / "tensorboard"]:
            if old.exists():
                old.rename(aside / old.name)
    logger.warning("%s holds an older run, now in %s; to go on with that one use train.resume", folder, aside)
