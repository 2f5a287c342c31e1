"""What a queue's properties and policies take away from a group, and what fixes it.

Invariant: this only names them. A queue is what it was declared as and what policies make of it, and a policy may come
at any time: nothing that a promise rests on follows from what is seen here, but for a source that is refused.

Where a limit is set twice, RabbitMQ takes the smaller one of argument and policies. An operator policy is merged into
the queue's policy, so that only the merged definition is seen: where both apply, both are named.
"""

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from partymq.core.names import Names

GENEROUS: Final = 100_000
"""A delivery limit that is as good as none: no queue gives a message back so often by mistake."""
DEFAULT_LIMIT: Final = 20
"""RabbitMQ's own for quorum queues, since 4.0, where neither an argument nor a policy says one."""
SHIELD_LIMIT: Final = 1_000_000
LEASE: Final = 31_536_000_000
"""Milliseconds for which a consumer of ours may hold a message: a year, as our queues are declared."""
SOURCE_LEASE: Final = 300_000
"""Milliseconds for which a router may hold a message of the source at the worst."""
_SHOWN: Final = 3
_MOST: Final = 20
"""Policies, and things that one takes away, that are told of: a broker may list any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """What is known of a queue."""

    name: str
    kind: str = "classic"
    durable: bool = True
    auto_delete: bool = False
    exclusive: bool = False
    arguments: Mapping[str, object] = field(default_factory=dict)
    policy: str = ""
    operator_policy: str = ""
    definition: Mapping[str, object] = field(default_factory=dict)
    """The keys of both, merged."""
    settled: bool = True
    """False while nobody knows which policies hold."""
    members: frozenset[str] = frozenset()
    """The nodes that a quorum queue has members on."""
    online: frozenset[str] = frozenset()
    """Those of them on which the member runs."""
    absent: frozenset[str] = frozenset()
    """Those of them that run without it."""

    def value(self, key: str) -> object:
        """What holds for a key that may be an argument and a policy's, of numbers the smaller one; None for nothing."""
        said = [self.definition.get(key), self.arguments.get(f"x-{key}")]
        found = [value for value in said if value is not None]
        numbers = [value for value in found if isinstance(value, int)]
        if len(numbers) == len(found) > 1:
            return max(numbers) if key == "delivery-limit" and min(numbers) < 0 else min(numbers)
        return found[0] if found else None

    def origin(self, key: str) -> str:
        """Where a key's value comes from, in words."""
        if self.definition.get(key) is None or self.value(key) != self.definition[key]:
            return f"its argument x-{key}"
        return self.policies

    @property
    def policies(self) -> str:
        """The policies that hold for it, in words."""
        names = [("policy", self.policy), ("operator policy", self.operator_policy)]
        return " or ".join(f"{what} {name!r}" for what, name in names if name)


def transient(queue: QueueFacts) -> str | None:
    """Why the broker deletes a queue by itself, and what fixes it; None where it does not."""
    if queue.exclusive:
        return (
            f"the source queue {queue.name!r} is exclusive: it belongs to the connection that declared it, and is gone "
            "with it. Declare a durable queue that is neither exclusive nor auto-delete"
        )
    if queue.auto_delete:
        return (
            f"the source queue {queue.name!r} is auto-delete: the broker deletes it, with all that is in it, when "
            "PartyMQ stops reading it. Declare it anew as a durable queue that is not auto-delete, once what is in it "
            "has gone elsewhere; routing then starts by itself"
        )
    if (expires := queue.value("expires")) is not None:
        remedy = (
            "Declare it anew without, once what is in it has gone elsewhere"
            if "x-expires" in queue.arguments
            else "Take that key out of the policy"
        )
        return (
            f"the source queue {queue.name!r} expires ({queue.origin('expires')}, {expires} ms): the broker deletes "
            f"it, with all that is in it, when nobody has read it for so long. {remedy}; routing then starts by itself"
        )
    return None


def absences(queues: Collection[QueueFacts]) -> Mapping[str, frozenset[str]]:
    """By queue: the nodes on which its member does not run, although they do, for other queues' members run there.

    Of one of which no member is said to run nothing is known.
    """
    running = frozenset[str]().union(*(queue.online for queue in queues))
    told = [queue for queue in queues if queue.online]
    return {queue.name: nodes for queue in told if (nodes := (queue.members - queue.online) & running)}


def hazards(names: Names, source: str, vhost: str, queues: Mapping[str, QueueFacts]) -> tuple[str, ...]:
    """What takes messages or leases away from a group: sentences with queue, policy, key and what fixes it."""
    ours = [queue for queue in queues.values() if names.is_ours(queue.name)]
    found = set(_of_ours(vhost, ours, names))
    if source in queues:
        found.update(_of_source(queues[source], vhost))
    lacking = [queue for queue in (*ours, *filter(None, [queues.get(source)])) if queue.absent]
    found.update(_of_absence(queue, vhost) for queue in lacking[:_MOST])
    return tuple(sorted(found))


def remarks(source: QueueFacts | None) -> tuple[str, ...]:
    """What a source drops because somebody wants it to; it stays so, and order is not harmed by it."""
    if source is None:
        return ()
    found = []
    if (ttl := source.value("message-ttl")) is not None and source.value("dead-letter-exchange") is None:
        found.append(f"drops what waits in it for longer than {ttl} ms ({source.origin('message-ttl')})")
    for key in ("max-length", "max-length-bytes"):
        limit, overflow = source.value(key), str(source.value("overflow") or "drop-head")
        if limit is not None and not overflow.startswith("reject-publish"):
            found.append(f"drops its oldest messages beyond {key} {limit} ({source.origin(key)})")
    if not source.durable:
        found.append("is not durable, and gone after a restart of the broker")
    return tuple(f"the source queue {source.name!r} {what}" for what in found)


def shield(vhost: str) -> str:
    """The command that keeps other policies off everything of PartyMQ's."""
    return _set_policy(vhost, "partymq", r"^partymq\.", {"delivery-limit": SHIELD_LIMIT}, priority=1000, apply_to="all")


def start_members(vhost: str, queue: str, nodes: Collection[str]) -> str:
    """What has a queue's members started on nodes that run without them, and what was given in vain come again."""
    at, node_by_node = ["--vhost", vhost, queue], sorted(nodes)[:_SHOWN]
    commands = [["rabbitmq-queues", f"{do}_member", *at, node] for node in node_by_node for do in ("delete", "add")]
    return (
        f"Do {', then '.join(f'`{shlex.join(command)}`' for command in commands)}; then close the connections that "
        "consume it from there (pods', or the router's own): what it seems to have given them comes again"
    )


def _of_source(queue: QueueFacts, vhost: str) -> Iterable[str]:
    if (why := transient(queue)) is not None:
        yield why
    if queue.kind == "quorum":
        yield from _of_limit(queue, vhost)
    held = queue.value("consumer-timeout")
    if isinstance(held, int) and held < SOURCE_LEASE:
        yield (
            f"the source queue {queue.name!r} takes back what was not acknowledged within {held} ms "
            f"({queue.origin('consumer-timeout')}, key consumer-timeout): a router that waits for a slow broker would "
            f"lose its hold, and messages would be repeated. Make it {SOURCE_LEASE} at least"
        )
    if _retries_late(queue):
        yield (
            f"the source queue {queue.name!r} holds back what was returned to it "
            f"({queue.origin('delayed-retry-type')}, key delayed-retry-type), so that newer messages come first. "
            "Take that key out"
        )


def _of_limit(queue: QueueFacts, vhost: str) -> Iterable[str]:
    limit = queue.value("delivery-limit")
    where = queue.origin("delivery-limit") if limit is not None else "RabbitMQ's default"
    if isinstance(limit, int) and limit < 0:
        yield (
            f"the source queue {queue.name!r} has no delivery limit ({where}): RabbitMQ puts what is given back to it "
            f"behind newer messages. Set a large one: {_amend(queue, vhost)}"
        )
    elif (limit is None or (isinstance(limit, int) and limit < GENEROUS)) and not queue.value("dead-letter-exchange"):
        shown = DEFAULT_LIMIT if limit is None else limit
        remedy = f"Set a large limit: {_amend(queue, vhost)}"
        if "x-delivery-limit" in queue.arguments:  # a policy cannot make it larger
            remedy = "Give it a dead letter exchange by a policy (key dead-letter-exchange), or declare it anew"
        yield (
            f"the source queue {queue.name!r} has a delivery limit of {shown} ({where}) and no dead letter exchange: a "
            f"message that was given back so often, as when a router's connection is lost again and again, is dropped. "
            f"{remedy}"
        )


def _amend(queue: QueueFacts, vhost: str) -> str:
    if queue.policy:
        return f'add "delivery-limit": {SHIELD_LIMIT} to policy {queue.policy!r}'
    pattern = f"^{re.escape(queue.name)}$"
    return _set_policy(
        vhost, f"partymq-source-{queue.name}", pattern, {"delivery-limit": SHIELD_LIMIT}, apply_to="queues"
    )


def _of_absence(queue: QueueFacts, vhost: str) -> str:
    return (
        f"the queue {queue.name!r} has no member on {', '.join(sorted(queue.absent)[:_SHOWN])}, which runs: RabbitMQ "
        f"gives nothing of it to those who are connected there. {start_members(vhost, queue.name, queue.absent)}"
    )


def _of_ours(vhost: str, queues: Iterable[QueueFacts], names: Names) -> Iterable[str]:
    """One sentence for each policy, whatever the number of queues that it holds for."""
    by_policy: dict[tuple[str, str, str], dict[str, set[str]]] = {}
    for queue in queues:
        where = queue.policies, queue.policy, queue.operator_policy
        if len(by_policy) >= _MOST and where not in by_policy:
            continue
        for what in _taken(queue, inbox=names.member_of(queue.name) is not None, dead=queue.name == names.dead):
            found = by_policy.setdefault(where, {})
            if len(found) < _MOST or what in found:
                found.setdefault(what, set()).add(queue.name)
    for (policies, policy, operator_policy), taken in by_policy.items():
        for what, whose in sorted(taken.items()):
            named = sorted(whose)
            more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
            remedy = []
            if policy:
                remedy.append(f"Keep other policies off: {shield(vhost)}")
            if operator_policy:
                remedy.append(
                    f"An operator policy cannot be kept off: change the pattern of {operator_policy!r} so that it does "
                    "not match names that begin with partymq."
                )
            yield f"{policies} holds for {', '.join(named[:_SHOWN])}{more}: {what}. {'. '.join(remedy)}"


def _taken(queue: QueueFacts, *, inbox: bool, dead: bool) -> Iterable[str]:
    """What the policies of a queue of ours take away."""
    set_ = queue.definition
    if (ttl := set_.get("message-ttl")) is not None:
        yield f"message-ttl {ttl} drops what waits for so many milliseconds"
    if (expires := set_.get("expires")) is not None:
        yield f"expires {expires} deletes a queue, with all that is in it, that nobody reads for so many milliseconds"
    for key in ("max-length", "max-length-bytes"):
        if (limit := set_.get(key)) is not None:
            overflow = str(set_.get("overflow") or "drop-head")
            does = "refuses" if overflow.startswith("reject-publish") else "drops"
            yield f"{key} {limit} with overflow {overflow} {does} what is more"
    limit = set_.get("delivery-limit")
    if isinstance(limit, int) and 0 <= limit < GENEROUS:
        yield f"delivery-limit {limit} drops what was given back so often, as handoffs do"
    timeout = set_.get("consumer-timeout")
    if isinstance(timeout, int) and timeout < LEASE:
        yield f"consumer-timeout {timeout} takes messages away from who holds one for so many milliseconds"
    if set_.get("dead-letter-strategy") == "at-least-once":
        yield "dead-letter-strategy at-least-once keeps PartyMQ's own empty messages for ever, which no queue takes"
    if (exchange := set_.get("dead-letter-exchange")) is not None and not inbox and not dead:
        yield f"dead-letter-exchange {exchange} is given PartyMQ's own empty messages"
    if _retries_late(queue):
        yield f"delayed-retry-type {queue.value('delayed-retry-type')} lets newer messages pass what was given back"
    for key in ("federation-upstream", "federation-upstream-set", "federation-upstream-pattern"):
        if (upstream := set_.get(key)) is not None:
            yield f"{key} {upstream} lets messages of another broker in"


def _retries_late(queue: QueueFacts) -> bool:
    return queue.value("delayed-retry-type") not in (None, "disabled")


def _set_policy(
    vhost: str, name: str, pattern: str, definition: Mapping[str, object], *, apply_to: str, priority: int = 0
) -> str:
    words = ["rabbitmqctl", "set_policy", "--vhost", vhost, "--apply-to", apply_to]
    if priority:
        words += ["--priority", str(priority)]
    return f"`{shlex.join([*words, name, pattern, orjson.dumps(definition).decode()])}`"
