"""A property that is asked for once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class once(Generic[T]):
    """A property that is asked for once.

    As functools.cached_property, but without the lock that Python before 3.12 gives that: whoever has it may wait for
    h5py's, while whoever has h5py's waits for it.
    """

    def __init__(self, ask: Callable[[Any], T]) -> None:
        self._ask, self._name = ask, ask.__name__
        self.__doc__ = ask.__doc__

    def __get__(self, item: Any, owner: type | None = None) -> T:
        known: dict[str, T] = item.__dict__
        # Of two threads that ask at once both get the first one's answer.
        return known[self._name] if self._name in known else known.setdefault(self._name, self._ask(item))
