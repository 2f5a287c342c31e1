"""Each rule of the protocol is needed, and its absence is noticed: without it, some simulated history breaks a promise.

A mutation removes one rule from the router's real code, by the name of what keeps it; histories are then played until
one fails. The same histories pass with the rule in place. `docs/testing.md` lists the rules.
"""

import asyncio
import contextlib
import inspect
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import ModuleType
from unittest import mock

import pytest

from mutants.histories import history
from partymq.amqp.lost_nodes import LostNodes
from partymq.amqp.replies import settle
from partymq.amqp.topology import QueueState, Silence, Topology
from partymq.core.ledger import Ledger, succeed
from partymq.errors import BrokerError
from partymq.router.broker import settling
from partymq.router.broker.deletions import Deletions
from partymq.router.broker.stamp_order import Message
from partymq.router.broker.takeover import Takeover
from partymq.router.flow import source_acks, source_count
from partymq.router.flow.backlogs import Backlogs
from partymq.router.flow.inbox_queues import InboxQueues
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Lane, Mode
from partymq.router.flow.readers import Readers
from partymq.router.flow.release import Releaser
from partymq.router.flow.segment_flow import Flow
from partymq.router.flow.segments import SegmentReader
from partymq.router.flow.source_acks import SourceAcks
from partymq.router.flow.source_count import SourceCount
from partymq.router.flow.source_reader import Source
from partymq.router.journal import Journal
from partymq.router.poison.failed_sessions import FailedSessions
from partymq.router.poison.isolation import Isolation
from partymq.router.publish.outlet import Diverted, Outlet
from partymq.router.rebalance.handoffs import Handoffs
from partymq.router.rebalance.progress import Progress
from partymq.router.session.session import Session
from unit.sim.script import play

HISTORIES = 1000
"""Most histories that are tried on a mutation; most fail within a few."""


@dataclass(frozen=True)
class Mutation:
    """A rule's removal: `owner.method` is what keeps it."""

    rule: str
    owner: type | ModuleType
    method: str
    kind: str
    """What the histories are full of."""
    instead: Callable[..., object] | None = None
    """What is done instead, where that is not nothing."""
    also: "Mutation | None" = None
    """A second guard of the same rule, which has to go with it."""


_extract = Handoffs._extract
_among = LostNodes.among
_others = source_count._others
_shows_no_reader = settling._shows_no_reader


async def _acknowledge_and_extract(
    handoffs: Handoffs, progress: Progress, found: Collection[Message], *, resumed: bool
) -> Collection[int]:
    assert progress.takeover is not None
    await progress.takeover.settle()
    return await _extract(handoffs, progress, found, resumed=resumed)


async def _begin_without_a_write(journal: Journal, ledger: Ledger) -> Ledger:
    journal._ledger = succeed(ledger, writer=journal._writer)
    return journal._ledger


async def _declare_without_a_lock(session: Session, topology: Topology) -> None:
    await topology.declare_quorum(session._names.journal)


def _count_as_the_last(acks: SourceAcks, tag: int) -> None:
    """Whatever is before it."""
    acks.routed += 1
    acks.next = tag + 1


def _acknowledge_at_once(flow: Flow, tag: int) -> None:
    """Whatever is before it."""
    flow.unconfirmed -= 1
    flow.under_way.remove(tag)
    flow._acknowledge(tag)
    flow._settle()


async def _at_any_time(*_: object) -> bool:
    return True


async def _send_without_waiting(isolation: Isolation, message: Diverted) -> None:
    offer = isolation._probes.offer(message.frame, message.header, message.body_frames)
    asyncio.ensure_future(offer).add_done_callback(lambda done: done.cancelled() or done.exception())


async def _wait_once(flow: Flow) -> None:
    if not flow.idle.is_set():
        await flow.idle.wait()


def _end_the_session(outlet: Outlet, _tag: int, _multiple: bool) -> None:
    settle(outlet.channel.closed, BrokerError("a nack"))


def _put_last(lane: Lane, tag: int, header: bytes, body: bytes) -> None:
    lane.stop(Mode.WAITING)
    lane.parked = deque([*lane.parked, (tag, header, body)])


def _believe_that_nobody_reads(topology: Topology, queue: str, state: QueueState | Silence) -> bool:
    return isinstance(state, Silence) or _shows_no_reader(topology, queue, state)


def _believe_that_we_are_alone(state: QueueState | Silence | None) -> int | None:
    return _others(state) if isinstance(state, QueueState) else 0


def _take_all_for_harmless(nodes: LostNodes, queue: str, consumers: int, *, own: int, bare: bool) -> int:
    """As of queues from which nothing is ever delivered."""
    return _among(nodes, queue, consumers, own=own, bare=True)


MUTATIONS = [
    Mutation("a hold stops arrivals", Releaser, "_stop_arrivals", "moves"),
    Mutation("a hold stops releases", Readers, "hold_back", "moves"),
    Mutation("nothing is published to a donor's inbox", LaneTable, "begin_drain", "moves"),
    Mutation("the fence that counts is sent after the count is 1", Takeover, "_nobody_else", "cancels"),
    Mutation("fences have unique names", Takeover, "_name_fence", "cancels", lambda _: "fence"),
    Mutation(
        "originals are acknowledged only when the copy is journaled",
        Handoffs,
        "_extract",
        "extracting",
        _acknowledge_and_extract,
    ),
    Mutation("acknowledgements are proven before the commit", Takeover, "_prove_settled", "committing"),
    Mutation("a backlog is listed ahead", Backlogs, "_list", "full"),
    Mutation("the epoch is journaled first", Journal, "begin", "epochs", _begin_without_a_write),
    Mutation("confirms before a takeover", Handoffs, "_confirmed", "moves"),
    Mutation("an inbox is deleted when nothing is on its way to it", Takeover, "_nothing_on_its_way", "deletions"),
    Mutation("a successor waits for deletions", Deletions, "_be_waited_for", "deletions"),
    Mutation("the journal names an inbox before it is declared", InboxQueues, "_name", "visits"),
    Mutation("an inbox in which a zombie may be next in line is declared anew", Handoffs, "_renew", "zombies"),
    Mutation(
        "one active consumer of the journal",
        Session,
        "_declare_journal",
        "two",
        _declare_without_a_lock,
        also=Mutation("a successor waits for the outlets", Session, "_outlets_are_ours", "two"),
    ),
    Mutation("acknowledgements up to the first gap", SourceAcks, "confirmed", "restarts", _count_as_the_last),
    Mutation(
        "nothing is acknowledged behind what waits of its partition",
        source_acks,
        "_stands_behind",
        "shuffled",
        lambda _lane, _waiting: False,
    ),
    Mutation("a segment is acknowledged in its order", Flow, "confirmed", "shuffled", _acknowledge_at_once),
    Mutation(
        "a source is cancelled when nothing is on its way",
        Source,
        "_may_cancel",
        "stops",
        _at_any_time,
    ),
    Mutation(
        "a session that failed over a publish is followed by a careful one",
        FailedSessions,
        "_needs_care",
        "refused",
        lambda _past: False,
        also=Mutation("nor is one careful that is given what came back again", Isolation, "_beware", "refused"),
    ),
    Mutation(
        "each message is confirmed before the next is sent",
        Isolation,
        "_send_and_wait",
        "refused",
        _send_without_waiting,
    ),
    Mutation(
        "care lasts until all that came back has passed", Source, "passed", "refused", lambda _source, _returning: True
    ),
    Mutation("the fence before a partition goes direct", SegmentReader, "fence", "moves"),
    Mutation("a flow is exhausted only while nothing of it is under way", Flow, "settled", "moves"),
    Mutation("what comes in the chunk that made a flow idle is under way, too", Flow, "settled", "crowded", _wait_once),
    Mutation("a nack does not end the session", Outlet, "_on_nack", "refusals", _end_the_session),
    Mutation("what was refused keeps its place", Lane, "take_back", "refusals", _put_last),
    Mutation("a segment is not read before its last reader has gone", Readers, "unread", "full of older segments"),
    Mutation(
        "zeros do not tell that a segment has no reader",
        settling,
        "_shows_no_reader",
        "hushed segments",
        _believe_that_nobody_reads,
    ),
    Mutation(
        "zeros do not tell that the source has no other reader",
        source_count,
        "_others",
        "hushed source",
        _believe_that_we_are_alone,
    ),
    Mutation(
        "zeros do not tell that acknowledgements took effect",
        SourceCount,
        "_settled_in_silence",
        "hushed stops",
        _at_any_time,
    ),
    Mutation(
        "a segment that a lost node's consumer may be given messages of is not read before the node is back",
        LostNodes,
        "among",
        "lost segments",
        _take_all_for_harmless,
    ),
    Mutation(
        "no takeover begins while the broker keeps what a lost client held",
        Handoffs,
        "_nobody_lost_holds_anything",
        "lost clients",
    ),
]


def _without(mutation: Mutation) -> Callable[..., object]:
    """What stands in place of the rule."""
    if mutation.instead is not None:
        return mutation.instead
    return _nothing if inspect.iscoroutinefunction(getattr(mutation.owner, mutation.method)) else lambda *_, **__: None


async def _nothing(*_: object, **__: object) -> None:
    """Instead of what keeps a rule."""


@contextlib.contextmanager
def removed(mutation: Mutation) -> Iterator[None]:
    """The router without the rule."""
    instead = _without(mutation)
    if isinstance(inspect.getattr_static(mutation.owner, mutation.method), staticmethod):
        instead = staticmethod(instead)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(mutation.owner, mutation.method, instead))
        if mutation.also is not None:
            stack.enter_context(removed(mutation.also))
        yield


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_the_absence_of_a_rule_is_noticed(mutation: Mutation) -> None:
    for seed in range(HISTORIES):
        setting, script = history(mutation.kind, seed)
        with removed(mutation):
            outcome = play(setting, script)
        if outcome.violations:
            break
    else:
        raise AssertionError(f"{HISTORIES} histories without {mutation.rule!r}: nothing noticed")
    assert not play(setting, script).violations, "it fails with the rule in place, too"
