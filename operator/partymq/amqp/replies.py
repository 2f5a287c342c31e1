"""Who waits for which reply.

Invariant: the broker answers the methods of one channel in their order, so replies go to waiters first come, first
served, and methods may be sent without waiting for the reply to the one before. When the broker closes the channel, the
first waiter's method is the one that it refused (`ChannelClosedError`); it never looked at the others
(`NotExecutedError`).
"""

import asyncio
from collections import deque

from pamqp.base import Frame

from partymq.errors import ChannelClosedError


class NotExecutedError(ChannelClosedError):
    """The broker closed the channel over another method before it looked at this one."""


class Replies:
    """The waiters of one channel, in the order of their methods."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[type[Frame], asyncio.Future[Frame]]] = deque()
        self._error: Exception | None = None

    def expect(self, expected: type[Frame]) -> asyncio.Future[Frame]:
        """The reply to the method that is sent next; raises when there is nobody to send it to any more."""
        if self._error is not None:
            raise self._error
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting.append((expected, future))
        return future

    def resolve(self, reply: Frame) -> bool:
        """Hand a reply to the first waiter; False when nobody waits for such a method."""
        if not self._waiting or not isinstance(reply, self._waiting[0][0]):
            return False
        future = self._waiting.popleft()[1]
        if not future.done():  # its caller may have been cancelled; the reply is still the one to its method
            future.set_result(reply)
        return True

    def fail(self, error: Exception) -> None:
        """Nothing will be answered any more."""
        if self._error is not None:
            return
        self._error = error
        for place, (_, future) in enumerate(self._waiting):
            if not future.done():
                future.set_exception(_not_executed(error) if place else error)
        self._waiting.clear()


def _not_executed(error: Exception) -> Exception:
    return NotExecutedError(error.code, error.text) if isinstance(error, ChannelClosedError) else error


def settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    """End a state future once; its exception may be looked at or not."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # looked at: no warning when nobody else does
