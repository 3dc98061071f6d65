"""A cache of arrays that is limited in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Anything that says how many bytes it takes, as arrays do."""

    nbytes: int


V = TypeVar("V", bound=Sized)


class ByteCache(Generic[V]):
    """Keeps what was used last, up to a number of bytes. Each process has its own.

    Args:
        limit: bytes; 0 keeps nothing.

    Attributes:
        nbytes: taken now.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.nbytes = limit, 0
        self._values: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        """The value that was put under `key`, or None when there is none any more."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: Hashable, value: V) -> None:
        """Keep a value and forget those that were not used for longest; one above the limit is not kept at all."""
        if key in self._values:
            self.nbytes -= self._values.pop(key).nbytes
        if value.nbytes > self.limit:
            return
        self._values[key] = value
        self.nbytes += value.nbytes
        while self.nbytes > self.limit:
            self.nbytes -= self._values.popitem(last=False)[1].nbytes
