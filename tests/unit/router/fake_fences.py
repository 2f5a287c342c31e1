"""A link and a channel that keep what a reader of a queue sends, for its acknowledgements and fences."""

import asyncio
from collections.abc import Callable

from partymq.router.budget import Budget


class FakeLink:
    """Says when a chunk is over."""

    def __init__(self) -> None:
        self._once: list[Callable[[], None]] = []
        self.budget = Budget()

    def after_chunk(self, callback: Callable[[], None]) -> None:
        self._once.append(callback)

    def chunk_over(self) -> None:
        callbacks, self._once = self._once, []
        for callback in callbacks:
            callback()


class FakeChannel:
    """Keeps headers of what is published and acknowledgements; confirms and refuses when it is told to."""

    number = 9
    closed: "asyncio.Future[None]"
    """Set by whoever needs it."""

    def __init__(self, link: FakeLink) -> None:
        self._link = link
        self.published: list[bytes] = []
        self.acked: list[tuple[int, bool]] = []
        self.sent: list[str] = []
        """What left, in order."""
        self._on_confirm: Callable[[int, bool], None] = lambda _tag, _multiple: None
        self._on_nack: Callable[[int, bool], None] = lambda _tag, _multiple: None

    def confirm(self, on_confirm: Callable[[int, bool], None], on_nack: Callable[[int, bool], None]) -> None:
        self._on_confirm, self._on_nack = on_confirm, on_nack

    def publish(self, _frame: bytes, header: bytes, _body: bytes) -> None:
        self.published.append(header)
        self.sent.append("fence")

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self.acked.append((tag, multiple))
        self.sent.append(f"all to {tag}" if multiple else str(tag))

    def take(self) -> None:
        """The last publish is confirmed."""
        self._on_confirm(len(self.published), False)
        self._link.chunk_over()

    def refuse(self) -> None:
        """The last publish is refused."""
        self._on_nack(len(self.published), False)
        self._link.chunk_over()
