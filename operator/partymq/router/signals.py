"""How a part tells others what has happened, without knowing who they are.

Invariant: a signal tells everybody at once, in the order in which they connected, and nobody who connects is told of
what was before. Who listens knows the part that tells; the part knows nobody.
"""

from collections.abc import Callable
from typing import Generic, ParamSpec

P = ParamSpec("P")


class Signal(Generic[P]):
    """One kind of event of one part."""

    __slots__ = ("_listeners",)

    def __init__(self) -> None:
        self._listeners: list[Callable[P, object]] = []

    def connect(self, listener: Callable[P, object]) -> None:
        """Has `listener` called from now on; parts of a session connect while it is put together."""
        self._listeners.append(listener)

    def emit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """It has happened."""
        for listener in self._listeners:
            listener(*args, **kwargs)
