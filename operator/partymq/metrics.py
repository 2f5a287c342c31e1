"""Prometheus metrics.

Invariant: a scrape shows the last report of every group and costs the hot path nothing: nothing is counted here.
"""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from partymq.core.report import Counters, GroupReport, MemberState
from partymq.core.spec import GroupId
from partymq.settings import VERSION

_GROUP: Final = ("namespace", "group")

_COUNTERS: Final[tuple[tuple[str, str, Callable[[Counters], int]], ...]] = (
    (
        "partymq_messages_routed",
        "Messages taken from the source and confirmed in a queue of the group.",
        lambda c: c.routed,
    ),
    ("partymq_messages_keyless", "Messages without a usable key.", lambda c: c.keyless),
    ("partymq_messages_dead", "Messages that the router sent to the group's dead queue.", lambda c: c.dead),
    (
        "partymq_messages_backlogged",
        "Messages that had to wait in a backlog before they went to a pod.",
        lambda c: c.backlogged,
    ),
    ("partymq_messages_released", "Messages that left a backlog or a handoff for a pod.", lambda c: c.released),
    ("partymq_handoffs", "Handoffs that were committed.", lambda c: c.handoffs),
    ("partymq_sessions", "Router sessions that were started.", lambda c: c.sessions),
)

_GAUGES: Final[tuple[tuple[str, str, Callable[[GroupReport], float | None]], ...]] = (
    ("partymq_routing", "1 while this process routes the group.", lambda r: r.routing),
    ("partymq_ready", "1 while the group's messages are routed.", lambda r: r.ready.ok),
    ("partymq_broker_connected", "1 while the broker answers.", lambda r: r.broker_connected.ok),
    ("partymq_balanced", "1 while no partition has to move.", lambda r: r.balanced.ok),
    (
        "partymq_consumers_safe",
        "1 while no consumer is seen that weakens the promises; absent while nobody can see.",
        lambda r: r.consumers_safe.ok if r.consumers_safe.known else None,
    ),
    (
        "partymq_queues_safe",
        "1 while nothing is seen that takes messages out of the source or a queue; absent while nobody can see.",
        lambda r: r.queues_safe.ok if r.queues_safe.known else None,
    ),
    (
        "partymq_members_working",
        "1 while no member is seen that takes none of its messages; absent while nobody can see.",
        lambda r: r.working.ok if r.working.known else None,
    ),
    ("partymq_epoch", "The number of the router's session.", lambda r: r.epoch),
    ("partymq_partitions", "Partitions of the group.", lambda r: r.partitions_total),
    ("partymq_partitions_assigned", "Partitions that have an owner.", lambda r: r.partitions_assigned),
    ("partymq_partitions_held", "Partitions that are changing hands and wait.", lambda r: r.partitions_held),
    ("partymq_source_ready_messages", "Ready messages in the source queue.", lambda r: r.source_ready),
    ("partymq_backlog_messages", "Messages that wait in the group's backlogs.", lambda r: r.backlog),
    ("partymq_handoffs_in_progress", "Handoffs under way.", lambda r: len(r.handoffs)),
    (
        "partymq_handoff_oldest_start_timestamp_seconds",
        "When the oldest handoff under way began; absent while there is none.",
        lambda r: min((handoff.since for handoff in r.handoffs), default=None),
    ),
)


class Metrics(Collector):
    """The last report of every group, in Prometheus' terms. For one thread."""

    def __init__(self) -> None:
        self._reports: dict[GroupId, GroupReport] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def report(self, group: GroupId, report: GroupReport) -> None:
        """Show this of a group from now on."""
        self._reports[group] = report

    def forget(self, group: GroupId) -> None:
        """Show nothing more of a group."""
        self._reports.pop(group, None)

    def text(self) -> bytes:
        """What a scrape gets."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """All families; those without a sample too, so that dashboards know them."""
        yield InfoMetricFamily("partymq", "This operator.", value={"version": VERSION})
        groups = sorted(self._reports.items())
        for name, text, count in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=_GROUP)
            for group, report in groups:
                counter.add_metric([group.namespace, group.name], count(report.counters))
            yield counter
        for name, text, measure in _GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=_GROUP)
            for group, report in groups:
                value = measure(report)
                if value is not None:
                    gauge.add_metric([group.namespace, group.name], value)
            yield gauge
        yield from self._members(groups)

    @staticmethod
    def _members(groups: list[tuple[GroupId, GroupReport]]) -> Iterator[Metric]:
        members = GaugeMetricFamily("partymq_members", "Members of the group.", labels=(*_GROUP, "state"))
        ready = GaugeMetricFamily(
            "partymq_inbox_ready_messages", "Ready messages in a member's inbox.", labels=(*_GROUP, "member")
        )
        owned = GaugeMetricFamily(
            "partymq_member_partitions", "Partitions that a member owns.", labels=(*_GROUP, "member")
        )
        backlog = GaugeMetricFamily(
            "partymq_member_backlog_messages",
            "Messages that wait in the backlogs of a member's partitions.",
            labels=(*_GROUP, "member"),
        )
        since = GaugeMetricFamily(
            "partymq_member_since_timestamp_seconds",
            "Since when a member is in its state.",
            labels=(*_GROUP, "member", "state"),
        )
        for group, report in groups:
            labels = [group.namespace, group.name]
            for state in MemberState:
                members.add_metric([*labels, state.value.lower()], sum(m.state is state for m in report.members))
            for member in report.members:
                ready.add_metric([*labels, member.name], member.ready)
                owned.add_metric([*labels, member.name], len(member.partitions))
                backlog.add_metric([*labels, member.name], member.backlog)
                since.add_metric([*labels, member.name, member.state.value.lower()], member.since)
        yield from (members, ready, owned, backlog, since)
