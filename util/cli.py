"""YAML files and command line options -> `Config`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from util.config import Config
from util.failures import let_main_process_speak
from util.mistakes import reword

USAGE = "%(prog)s [--config FILE ...] [--SECTION.FIELD VALUE ...]"


def parse(argv: Sequence[str] | None = None, description: str | None = None) -> Config:
    """The configuration that the arguments describe.

    `--config FILE` may be given several times; files hold differences only and each overrides those before it, as
    options override files to their left. `--print_config` prints the result and `--help` explains every field.
    An unknown key, a wrong type, or a value that the configuration rejects ends the program with status 2 and one
    line that names the key, and the file when it comes from one.

    Args:
        argv: arguments without the program's name; None takes those of the process.
        description: what `--help` says about the program.
    """
    parser = build_parser(description)
    file_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    file_parser.add_argument("--config", action="append", default=[])
    files: list[str] = []
    try:
        files = file_parser.parse_known_args(argv)[0].config
        for file in files:
            _check_file(parser, file)
        return _from_namespace(parser, parser.parse_args(argv))
    except (ArgumentError, argparse.ArgumentError) as error:
        _fail(parser, str(error))
    except ValueError as error:
        _fail(parser, _with_source(parser, argv, files, str(error)))


def parse_given(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """What files and options set, and nothing that is a default: `{section: {field: value}}`.

    Args:
        argv: arguments that `parse` has accepted.
    """
    given = build_parser().parse_args(argv, defaults=False).as_dict()
    return {section: values for section, values in given.items() if section != "config"}


class _Layout(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Fields with types and defaults, the description with its own lines."""


def build_parser(description: str | None = None) -> ArgumentParser:
    """A parser of the whole configuration, which raises `ArgumentError` rather than leave the program."""
    parser = ArgumentParser(
        description=description, usage=USAGE, formatter_class=_Layout, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML file of differences; repeatable.")
    parser.add_class_arguments(Config)
    return parser


def _check_file(parser: ArgumentParser, file: str) -> None:
    """Parse one file alone, because messages about several files together do not say which one is meant."""
    try:
        if (twice := find_repeated_key(Path(file))) is not None:
            raise ValueError(twice)
        parsed = parser.parse_args(["--config", file])
        _check_sections(parsed)
        if len(parsed.config) > 1:  # sections would replace one another as a whole
            raise ValueError("a file does not name another by `config`; give both with --config, the general one first")
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error


def find_repeated_key(path: Path) -> str | None:
    """The first key that a YAML file gives twice in one place, where the last would silently win, and its line.

    None where there is no such key, and where the file cannot be read: the parser says what is wrong with that.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    pending, seen = [root], set()
    while pending:
        node = pending.pop()
        if node is None or id(node) in seen or isinstance(node, yaml.ScalarNode):  # an alias may lead back
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += reversed(node.value)
            continue
        keys: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    return f"line {line}: the key {key.value!r} was given in line {keys[key.value]} already; keep one"
                keys[key.value] = line
        pending += reversed([value for _, value in node.value])
    return None


def _check_sections(namespace: Namespace) -> None:
    for name, section in vars(namespace).items():
        if name != "config" and not isinstance(section, Namespace):
            raise ValueError(f"{name} is {section!r}; it must hold fields and values, as `{name}: {{FIELD: VALUE}}`")


def _from_namespace(parser: ArgumentParser, namespace: Namespace) -> Config:
    _check_sections(namespace)
    sections = parser.instantiate(namespace)
    return Config(**{name: section for name, section in vars(sections).items() if name != "config"})


def _with_source(parser: ArgumentParser, argv: Sequence[str] | None, files: Sequence[str], message: str) -> str:
    """A complaint of a section's about values, behind the name of the last file that sets one of them (if one does)."""
    section, _, rest = message.partition(".")
    if message.startswith(tuple(f"{file}: " for file in files)):
        return message
    final = parser.parse_args(argv)
    for file in reversed(files):
        values = parser.parse_args(["--config", file], defaults=False).get(section)
        for field in re.findall(r"\w+", rest) if values is not None else ():
            if field in values and repr(values[field]) == repr(final[section][field]):  # NaN too
                return f"{file}: {message}"
    return message


def _fail(parser: ArgumentParser, message: str) -> NoReturn:
    let_main_process_speak()
    parser.print_usage(sys.stderr)
    parser.exit(2, f"error: {reword(parser, ' '.join(message.split()))}\n")
