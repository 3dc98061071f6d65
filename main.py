"""Train or evaluate ReferFormer: pretraining, finetuning and training from scratch are configurations.

python main.py --config configs/ytvos_finetune_r50.yaml --data.root data/ref-youtube-vos
torchrun --nproc_per_node=8 main.py --config configs/ytvos_finetune_r50.yaml
python main.py --config configs/ytvos_finetune_r50.yaml --train.resume auto
python main.py --train.evaluate_only runs/default/checkpoint.pth --data.root data/shapes
"""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from datasets.build import build_eval_data
from fitting import build_network, evaluate_network, fit
from models.build import read_config
from util.checkpoint_io import CheckpointError, load_checkpoint
from util.cli import parse, parse_given
from util.config import Config
from util.distributed import ProcessInfo, distributed, is_main_process
from util.failures import describe, told_in_one_line
from util.logs import set_up_logging

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, or evaluate when `train.evaluate_only` names a checkpoint.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        the scores of the evaluation, or the last epoch's record.

    Raises:
        ValueError, OSError, FloatingPointError: a mistake in settings or files, a full disk, a loss that is not finite.
        Interrupted: a signal has stopped the training, whose checkpoint is saved.
    """
    config = parse(argv, description=__doc__)
    set_up_logging()
    with distributed(config.train.device) as process:
        set_up_logging(None if config.train.evaluate_only else config.train.output_dir, is_main_process())
        # Gradients of 1x1 convolutions over channels-last maps are copied, which costs next to nothing.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        if config.train.num_threads:
            torch.set_num_threads(config.train.num_threads)
        if config.train.deterministic:
            torch.use_deterministic_algorithms(True, warn_only=True)
        if config.train.evaluate_only is None:
            return fit(config, process)
        given = parse_given(argv).get("test", {})
        scores = evaluate_checkpoint(config, config.train.evaluate_only, process, given)
        if is_main_process():
            print(json.dumps(scores))  # noqa: T201 (the program's own output)
        return scores


def evaluate_checkpoint(
    config: Config, path: str, process: ProcessInfo, test_settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Scores of a checkpoint on `data.eval_split`.

    The network and the settings of `test` are those that the checkpoint's configuration describes. A published
    checkpoint carries none: its weights tell the network, its tokenizer is that of `model.text_encoder`, and `test` is
    that of `config`.

    Args:
        config: the experiment.
        path: of the checkpoint.
        process: this process among those of the run.
        test_settings: fields of `test` that replace the checkpoint's.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing or unusable, or the settings do not go together.
    """
    checkpoint = load_checkpoint(path)
    try:
        stored = read_config(checkpoint, config.model.text_encoder)
        config = dataclasses.replace(config, model=stored.model)
        if "config" in checkpoint:
            config = dataclasses.replace(config, test=dataclasses.replace(stored.test, **test_settings))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    network = build_network(config, checkpoint, path)
    return evaluate_network(config, network.to(process.device), process, build_eval_data(config))


def _tell(problem: Exception) -> None:
    logger.error("%s", describe(problem), exc_info=True)  # the console shows the line, train.log the traceback too


if __name__ == "__main__":
    with told_in_one_line(_tell):
        main()
