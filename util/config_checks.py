"""Checks of settings, each with a message that names the setting.

Comparisons are written so that NaN fails them; infinity is no setting either.
"""

from __future__ import annotations

import math
import types
import typing
from typing import Any, Literal


def is_of_type(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type: of those that settings have, whole numbers passing for real ones."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(is_of_type(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(is_of_type(element, arguments[0]) for element in value)
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, int | float if hint is float else origin or hint)


def _section(config: Any) -> str:
    return type(config).__name__.removesuffix("Config").lower()


def positive(config: Any, *names: str) -> None:
    """Raise ValueError unless these fields of a section are positive numbers."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{_section(config)}.{name} is {getattr(config, name)}; it must be positive and finite")


def not_negative(config: Any, *names: str) -> None:
    """Raise ValueError unless these fields of a section are 0 or more."""
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"{_section(config)}.{name} is {getattr(config, name)}; it must be 0 or more, and finite")


def within(config: Any, low: float, high: float, *names: str) -> None:
    """Raise ValueError unless these fields of a section are in [low, high]."""
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:
            raise ValueError(f"{_section(config)}.{name} is {value}; it must be in [{low}, {high}]")
