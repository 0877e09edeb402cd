"""A cache of what was used last."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The `size` values that were used last; making another drops the least recently used one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._held: dict[Hashable, Value] = {}  # in the order of use, the last used last

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made where it is not held."""
        held = self._held.get(key)
        value = make() if held is None else held
        self._held.pop(key, None)
        self._held[key] = value
        while len(self._held) > self.size:
            self._held.pop(next(iter(self._held)))
        return value
