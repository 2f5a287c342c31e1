"""Consumers and queues that weaken a group's promises, as people are told of them.

Invariant: what is told comes from the last look over the management API of the very broker that routes the group; an
Event is for what was not so before. The API is known to be that broker's when it shows this session's own consumer of
the journal, which nobody else's has: the address may be wrong, or the port somebody else's, and "nothing is seen" would
then be told of strangers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from partymq.amqp.management import api_url
from partymq.core.consumers import Weakness, weaknesses
from partymq.core.hazards import hazards, remarks
from partymq.core.names import Names
from partymq.core.report import NOT_SEEN, QUEUES_NOT_SEEN, Condition, Notice
from partymq.core.spec import GroupConfig
from partymq.router.reporting.consumer_scan import ConsumerScan, Sighting

SHOWN_AFTER: Final = 10.0
"""Seconds after which the API shows a consumer: it collects them every five."""

_SAFE: Final = Condition(
    ok=True, reason="Safe", message="all consumers acknowledge by hand and limit their prefetch, one to an inbox"
)
_QUEUES_SAFE: Final = "no property of the source and no policy takes messages away"
_SHOWN: Final = 10
"""Consumers and queues that a condition names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Safety:
    """The conditions ConsumersSafe and QueuesSafe."""

    consumers: Condition = NOT_SEEN
    queues: Condition = QUEUES_NOT_SEEN


class ConsumerCheck:
    """Judges what a scan has seen of one group."""

    def __init__(self, scan: ConsumerScan, on_notice: Callable[[Notice], None]) -> None:
        self._scan = scan
        self._on_notice = on_notice
        self._seen: Sighting | None = None
        self._session = ""
        self._since = 0.0
        self._passing: frozenset[Weakness] = frozenset()
        self._told: dict[str, frozenset[str]] = {}
        self._safety = Safety()

    def look(self, config: GroupConfig, *, session: str, now: float, askable: bool) -> Safety:
        """Both conditions, of a router whose session is called so in the journal.

        `askable` says whether the broker answers what the source is.
        """
        if session != self._session:
            self._session, self._since = session, now
        seen = self._scan.latest(config.broker)
        if seen is not self._seen:
            self._seen = seen
            self._safety = self._judge(seen, config, askable=askable)
        return self._safety

    def _judge(self, seen: Sighting | None, config: GroupConfig, *, askable: bool) -> Safety:
        if seen is None:
            return Safety()
        if seen.error is not None:
            return _unknown("ManagementUnreachable", str(seen.error), askable=askable)
        names, source = Names(config.group), config.spec.source_queue
        if not seen.shows(names, self._session):
            if seen.began < self._since + SHOWN_AFTER:
                return self._safety  # of the session before, or nothing yet
            why = (
                f"the management API at {api_url(config.broker)} shows no consumer of {names.journal} that is this "
                "router: it is another broker's. Name the right one in the Secret's `management-uri`"
            )
            return _unknown("OtherBroker", why, askable=askable)
        return Safety(consumers=self._consumers(seen, names, source), queues=self._queues(seen, names, config))

    def _consumers(self, seen: Sighting, names: Names, source: str) -> Condition:
        found = weaknesses(names, source, seen.of(names, source))
        passing = frozenset(weakness for weakness in found if weakness.passing)
        told = [weakness.what for weakness in found if not weakness.passing or weakness in self._passing]
        self._passing = passing
        self._tell("UnsafeConsumer", told, after="ConsumersSafe", message=_SAFE.message)
        return Condition(ok=False, reason="UnsafeConsumer", message=_joined(told)) if told else _SAFE

    def _queues(self, seen: Sighting, names: Names, config: GroupConfig) -> Condition:
        if seen.queues.error is not None:
            return _queues_unknown("ManagementUnreachable", str(seen.queues.error), askable=True)
        source = config.spec.source_queue
        queues = seen.queues.of(names, source)
        found = hazards(names, source, config.broker.vhost, queues)
        self._tell("UnsafeQueue", found, after="QueuesSafe", message=_QUEUES_SAFE)
        if found:
            return Condition(ok=False, reason="UnsafeQueue", message=_joined(found))
        return Condition(ok=True, reason="Safe", message="; ".join((_QUEUES_SAFE, *remarks(queues.get(source)))))

    def _tell(self, reason: str, found: Iterable[str], *, after: str, message: str) -> None:
        known, now = self._told.get(reason, frozenset()), frozenset(found)
        new = sorted(now - known)
        for what in new[:_SHOWN]:
            self._on_notice(Notice(warning=True, reason=reason, message=what))
        if len(new) > _SHOWN:
            more = f"and {len(new) - _SHOWN} more of that kind, which the condition {after} counts"
            self._on_notice(Notice(warning=True, reason=reason, message=more))
        if known and not now:
            self._on_notice(Notice(warning=False, reason=after, message=message))
        self._told[reason] = now


def _unknown(reason: str, why: str, *, askable: bool) -> Safety:
    consumers = f"nobody can see whether consumers acknowledge by hand and limit their prefetch: {why}"
    return Safety(
        consumers=Condition(ok=False, known=False, reason=reason, message=consumers),
        queues=_queues_unknown(reason, why, askable=askable),
    )


def _queues_unknown(reason: str, why: str, *, askable: bool) -> Condition:
    what = "policies take messages away, and what happens to what the source is given back"
    if not askable:
        what = f"the source is auto-delete or expires (the user may not configure it, and so not ask), {what}"
    return Condition(ok=False, known=False, reason=reason, message=f"nobody can see whether {what}: {why}")


def _joined(found: Iterable[str]) -> str:
    sentences = list(found)
    more = [f"and {len(sentences) - _SHOWN} more"] if len(sentences) > _SHOWN else []
    return "; ".join([*sentences[:_SHOWN], *more])
