"""What is wrong with an option or a key, in words that name no Python: the parser's own messages do."""

from __future__ import annotations

import difflib
import re
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence

_SIMILARITY = 0.75  # from which on a name is near
_WORDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "a text",
    "tuple": "a list, as [1, 2]",
    "dict": "names and values, as {name: value}",
    "NoneType": "null",
}
_TYPE = r"<class '(\w+)'>|typing\.Literal\[(.*?)\]"
_KEY = r'Parser key "([\w.]+)": '
_UNION = re.compile(rf"{_KEY}Does not validate against any of the Union subtypes Subtypes: \[(.*)\] Errors: .*value: ")
_PLAIN = re.compile(rf"{_KEY}Expected an? (.*?)\. Got value: ")
_SECTION = re.compile(rf"{_KEY}Unable to load config .*")
_NO_FILE = re.compile(rf"{_KEY}File does not exist: .*")
_UNKNOWN_IN_GROUP = re.compile(r"Group '([\w.]+)' does not accept option '([^']*)'")
_UNKNOWN_KEY = re.compile(r"Option '([^']*)' is not accepted")


def reword(parser: ArgumentParser, message: str) -> str:
    """A message of the parser's for people: what was expected, and the nearest name where one is unknown.

    Args:
        parser: whose options there are.
        message: on one line; what this function does not know stays as it is.
    """
    options = [name for name in parser._option_string_actions if name.startswith("--")]
    keys = [name.removeprefix("--") for name in options]
    message = _UNION.sub(_expected, message)
    message = _PLAIN.sub(_expected, message)
    message = _SECTION.sub(r"\1 takes no value of its own; give one of its fields, as --\1.FIELD VALUE", message)
    message = _NO_FILE.sub("no such file", message)
    message = _UNKNOWN_IN_GROUP.sub(lambda found: _unknown(f"{found[1]}.{found[2]}", keys), message)
    message = _UNKNOWN_KEY.sub(lambda found: _unknown(found[1], keys), message)
    if message.startswith("unrecognized arguments: "):
        unknown = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        return message + _question([name for word in unknown for name in nearest(word, options)])
    return message


def nearest(wrong: str, names: Iterable[str]) -> list[str]:
    """The name that a wrong one was meant to be; several where a field of that name is in several sections."""
    names = list(names)
    if same := [name for name in names if _field(name) == _field(wrong)]:  # the section is left out, or another
        return same
    if near := difflib.get_close_matches(wrong, names, n=1, cutoff=_SIMILARITY):
        return near
    near = difflib.get_close_matches(_field(wrong), sorted(map(_field, names)), n=1, cutoff=_SIMILARITY)
    return [name for name in names if _field(name) in near]


def _expected(found: re.Match[str]) -> str:
    kinds = [_WORDS.get(kind, kind) or f"one of {_choices(literal)}" for kind, literal in re.findall(_TYPE, found[2])]
    return f"{found[1]}: expected {' or '.join(kinds) or found[2].replace('tuple with', 'a list of')}, got "


def _choices(literal: str) -> str:
    return ", ".join(choice.strip("'\" ") for choice in literal.split(","))


def _unknown(key: str, keys: Iterable[str]) -> str:
    return f"unknown key {key}{_question(nearest(key, keys))}"


def _question(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(names)}?" if names else ""


def _field(name: str) -> str:
    return name.removeprefix("--").rpartition(".")[2]
