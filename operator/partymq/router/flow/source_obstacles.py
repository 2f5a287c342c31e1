"""What speaks against reading the source, and what people are told of it.

Invariant: others are taken for strangers only after the consumers of the session before have had their time, and
for a lost node's only when that is seen.
"""

import asyncio
from typing import Final

from partymq.amqp.lost_nodes import LostNodes
from partymq.amqp.topology import Look, QueueState, Silence
from partymq.errors import (
    PartyMQError,
    SourceAtRiskError,
    SourceIsStreamError,
    SourceMissingError,
    SourceSharedError,
    SourceSilentError,
)

FOREIGN_AFTER: Final = 5.0
"""Seconds after which a consumer is somebody else's rather than the session's before us."""
STREAM_AGAIN: Final = 30.0
"""Seconds after which a stream is looked at again: somebody may have put another queue in its place."""


class SourceObstacles:
    """What one session knows."""

    def __init__(self, *, queue: str, at_risk: str, lost_nodes: LostNodes) -> None:
        """`at_risk` is why the source is not to be read, if it is not."""
        self._queue = queue
        self._at_risk = at_risk
        self._lost_nodes = lost_nodes
        self._loop = asyncio.get_running_loop()
        self._others = 0
        """Other consumers, as they were last counted."""
        self._others_since: float | None = None
        self._lost: PartyMQError | None = None
        self._stream_until = float("-inf")

    @property
    def shared(self) -> bool:
        """True while others are counted, or may be."""
        return self._others_since is not None

    def counted(self, *, others: int) -> None:
        """So many are counted beside our own consumer."""
        self._others = others
        if not others:
            self._others_since = None
        elif self._others_since is None:
            self._others_since = self._loop.time()

    def alone(self) -> None:
        """Nobody is."""
        self.counted(others=0)

    def stream(self) -> None:
        """The source was seen to be a stream."""
        self._stream_until = self._loop.time() + STREAM_AGAIN

    def problem(self, state: Look, *, own: int, wanted: bool) -> PartyMQError | None:
        """Why the source is not read, with `own` consumers of ours; `wanted` says whether it would be otherwise."""
        queue = self._queue
        if state is None:
            return SourceMissingError(
                f"the source queue {queue!r} does not exist: declare it, or fix spec.source.queue; "
                "routing starts as soon as it is there"
            )
        if self._at_risk:
            return SourceAtRiskError(
                f"the source queue {queue!r} is not read any more, because at a delivery limit (20, where nobody set "
                f"another) the broker would drop what is in it: {self._at_risk}. Fix that, then pause the group and "
                "let it go on. docs/troubleshooting.md says more"
            )
        if self._loop.time() < self._stream_until:
            return SourceIsStreamError(
                f"the source queue {queue!r} is a stream: acknowledging takes nothing out of it, so its messages "
                "cannot be handed on once and for all. Name a classic or a quorum queue in spec.source.queue"
            )
        self._count(state, own=own, wanted=wanted)
        if self._others_since is None or (not own and self._loop.time() - self._others_since < FOREIGN_AFTER):
            return None
        return self._lost or SourceSharedError(
            f"the source queue {queue!r} has {self._others} other consumer{'s' if self._others > 1 else ''}: they "
            "would take messages out of the order; stop them, and routing starts by itself. The condition "
            "ConsumersSafe names them where the management API can be asked"
        )

    def _count(self, state: Look, *, own: int, wanted: bool) -> None:
        self._lost = None
        if isinstance(state, QueueState):
            self.counted(others=max(0, state.consumers - own))
            self._lost_nodes.among(self._queue, state.consumers, own=own, bare=False)
            self._lost = self._lost_nodes.trouble
        elif state is Silence.ZERO and not wanted:
            self._others_since = None  # nothing is read now; who opens it counts

    def silent(self) -> PartyMQError:
        """The source has not answered for a while."""
        return SourceSilentError(
            f"the source queue {self._queue!r} does not answer: it has no leader now, or is very busy "
            "(`rabbitmq-queues quorum_status` tells). Routing starts when it does"
        )
