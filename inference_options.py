"""Options that programs share which run a checkpoint on a data set, and the predictor that they describe."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docstring_parser
import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from models.build import load_model
from models.predictor import Predictor, build_predictor
from util.checkpoint_contents import model_digest
from util.config import TestConfig
from util.failures import let_main_process_speak
from util.mistakes import reword


def build_parser(description: str | None = None) -> ArgumentParser:
    """`--test.*` take the place of the checkpoint's own settings; absent ones are not in the namespace."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = ArgumentParser(description=description, formatter_class=layout, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--checkpoint", type=Path, required=True, help="ours or a published one")
    add_text_encoder_argument(parser)
    parser.add_argument("--data_root", type=Path, required=True, help="data set in the Ref-YouTube-VOS layout")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--output_dir", type=Path, required=True, help="where results go")
    parser.add_argument("--device", type=typing.Literal["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--overwrite", action="store_true", help="delete the results in output_dir and begin anew")
    add_test_arguments(parser)
    return parser


def add_text_encoder_argument(parser: ArgumentParser) -> None:
    """`--text_encoder`, which published checkpoints need."""
    parser.add_argument(
        "--text_encoder",
        default="roberta-base",
        help="hub name or folder of a published checkpoint's tokenizer; ours carries its own",
    )


def add_test_arguments(parser: ArgumentParser) -> None:
    """`--test.*`, absent from the namespace unless they are given."""
    types = typing.get_type_hints(TestConfig)
    for param in docstring_parser.parse(inspect.getdoc(TestConfig) or "").params:
        help_text = f"{param.description} (default: the checkpoint's)".replace("\n", " ")
        name = f"--test.{param.arg_name}"
        parser.add_argument(name, type=types[param.arg_name], default=argparse.SUPPRESS, help=help_text)


def given_settings(args: Namespace) -> dict[str, Any]:
    """What `--test.*` put in the place of the checkpoint's settings."""
    return vars(args.test) if "test" in args else {}


def parse_arguments(parser: ArgumentParser, argv: Sequence[str] | None) -> Namespace:
    """The arguments; a mistake in them ends the program with status 2 and one line."""
    try:
        return parser.parse_args(argv)
    except ArgumentError as error:
        let_main_process_speak()
        parser.exit(2, f"error: {reword(parser, ' '.join(str(error).split()))}\n")


def load_predictor(args: Namespace, device: torch.device) -> tuple[Predictor, dict[str, Any]]:
    """The predictor that the arguments describe, and what tells its results from others.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing or unusable, or the settings do not go together.
    """
    model, config = load_model(args.checkpoint, args.text_encoder, in_all_processes=True)
    settings = dataclasses.replace(config.test, **given_settings(args))
    identity = {"model_sha256": model_digest(model.state_dict(), dataclasses.asdict(config.model)), "split": args.split}
    identity |= {f"test.{name}": value for name, value in dataclasses.asdict(settings).items()}
    return build_predictor(model, settings, device), identity
