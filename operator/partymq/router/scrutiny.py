"""Consumers that weaken a group's promises, as people are told of them.

Invariant: what is told comes from the last look at the broker's consumers; an Event is for what was not so before.
"""

from collections.abc import Callable

from partymq.core.consumers import Weakness, weaknesses
from partymq.core.names import Names
from partymq.core.report import NOT_SEEN, Condition, Notice
from partymq.core.spec import GroupConfig
from partymq.router.census import Census, Sighting

_SAFE = Condition(ok=True, reason="Safe", message="all consumers acknowledge by hand and limit their prefetch")
_SHOWN = 10
"""Consumers that the condition names."""


class Scrutiny:
    """Judges what a census has seen of one group's consumers."""

    def __init__(self, census: Census, on_notice: Callable[[Notice], None]) -> None:
        self._census = census
        self._on_notice = on_notice
        self._seen: Sighting | None = None
        self._known: frozenset[Weakness] = frozenset()
        self._condition = NOT_SEEN

    def condition(self, config: GroupConfig) -> Condition:
        """The condition ConsumersSafe."""
        seen = self._census.latest(config.broker)
        if seen is not self._seen:
            self._seen = seen
            self._condition = self._judge(seen, config)
        return self._condition

    def _judge(self, seen: Sighting | None, config: GroupConfig) -> Condition:
        if seen is None:
            return NOT_SEEN
        if seen.error is not None:
            return Condition(
                ok=False,
                known=False,
                reason="ManagementUnreachable",
                message=f"nobody can see whether consumers acknowledge by hand and limit their prefetch: {seen.error}",
            )
        names, source = Names(config.group), config.spec.source_queue
        found = weaknesses(names, source, seen.of(names, source))
        for weakness in found:
            if weakness not in self._known:
                self._on_notice(Notice(warning=True, reason="UnsafeConsumer", message=weakness.what))
        if self._known and not found:
            self._on_notice(Notice(warning=False, reason="ConsumersSafe", message=_SAFE.message))
        self._known = frozenset(found)
        if not found:
            return _SAFE
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        text = "; ".join(weakness.what for weakness in found[:_SHOWN])
        return Condition(ok=False, reason="UnsafeConsumer", message=text + more)
