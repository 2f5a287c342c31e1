"""Each rule of the protocol is needed, and its absence is noticed: without it, some simulated history breaks a promise.

A mutation removes one rule from the router's real code; histories are then played until one fails. The same histories
pass with the rule in place. `docs/testing.md` lists the rules.
"""

import contextlib
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

from mutants.histories import history
from partymq.router import quiet
from partymq.router.backlogs import Backlogs
from partymq.router.careful import Careful
from partymq.router.caution import Caution
from partymq.router.handoff import Handoffs
from partymq.router.intake import Intake
from partymq.router.journal import Journal
from partymq.router.lanes import Lane
from partymq.router.outlet import Outlet
from partymq.router.release import Releaser
from partymq.router.segments import Flow, SegmentReader
from partymq.router.session import Session
from partymq.router.source import Source
from partymq.router.takeover import Takeover
from unit.sim.script import play

HISTORIES = 1000
"""Most histories that are tried on a mutation; most fail within a few."""


@dataclass(frozen=True)
class Mutation:
    """A rule's removal: in the source of `owner.method`, `old` becomes `new`."""

    rule: str
    owner: type | ModuleType
    method: str
    old: str
    new: str
    kind: str
    """What the histories are full of."""
    also: "Mutation | None" = None
    """A second guard of the same rule, which has to go with it."""


MUTATIONS = [
    Mutation(
        "a hold stops arrivals",
        Releaser,
        "hold",
        "lane.stop(Mode.WAITING)\n",
        "pass\n",
        "moves",
    ),
    Mutation(
        "a hold stops releases",
        Releaser,
        "hold",
        "reader.hold_back(lane.index)",
        "pass",
        "moves",
    ),
    Mutation(
        "nothing is published to a donor's inbox",
        Handoffs,
        "_add",
        "donor.closed = True\n    donor.sink.left = 0",
        "pass",
        "moves",
    ),
    Mutation(
        "the fence that counts is sent after the count is 1",
        Takeover,
        "collect",
        "while await self._consumer_count() != 1:",
        "while False:",
        "cancels",
    ),
    Mutation(
        "fences have unique names",
        Takeover,
        "_send_fence",
        'fence = f"{self._prefix}{self._sent}"',
        'fence = "fence"',
        "cancels",
    ),
    Mutation(
        "originals are acknowledged only when the copy is journaled",
        Handoffs,
        "_extract",
        "self._reached(Point.COPYING)",
        "await next(each for each in self.running.values() if each.id == handoff).takeover.settle()",
        "extracting",
    ),
    Mutation(
        "acknowledgements are proven before the commit",
        Takeover,
        "settle",
        "await self._prove()",
        "pass",
        "committing",
    ),
    Mutation(
        "a backlog is listed ahead",
        Backlogs,
        "_open",
        "self._journal.write(partial(list_backlogs, partitions=tuple(lanes)))",
        "asyncio.sleep(0)",
        "full",
    ),
    Mutation(
        "the epoch is journaled first",
        Journal,
        "begin",
        "return await self._write(succeed(ledger, writer=self._writer))",
        "self._ledger = succeed(ledger, writer=self._writer)\n    return self._ledger",
        "epochs",
    ),
    Mutation(
        "confirms before a takeover",
        Handoffs,
        "_run",
        "await self._publisher.settled(donor.sink)",
        "pass",
        "moves",
    ),
    Mutation(
        "inboxes are deleted on the connection that publishes to them",
        Handoffs,
        "_commit",
        "await takeover.delete_inbox()",
        "takeover._deleting = True\n        await self._topology.delete(self._names.inbox(progress.donor))",
        "moves",
    ),
    Mutation(
        "an inbox in which a zombie may be next in line is declared anew",
        Handoffs,
        "_empty",
        "if haunted and",
        "if False and",
        "zombies",
    ),
    Mutation(
        "one active consumer of the journal",
        Session,
        "_serve",
        "self._names.journal, single_active=True",
        "self._names.journal",
        "two",
        also=Mutation(
            "a successor waits for the outlets",
            Session,
            "_open_outlets",
            "await await_alone(topology, outlets, own=OUTLETS, bare=True)",
            "pass",
            "two",
        ),
    ),
    Mutation(
        "contiguous acknowledgements",
        Source,
        "confirmed",
        "if tag != self._next:",
        "if False:",
        "restarts",
    ),
    Mutation(
        "a source is cancelled when nothing is on its way",
        Source,
        "close",
        "await self._pause(channel, deadline)\n    provable = self._spent or self._next > self._last",
        "provable = True",
        "stops",
    ),
    Mutation(
        "a session that failed over a publish is followed by a careful one",
        Caution,
        "ended",
        "careful = past.wary or past.refused",
        "careful = False",
        "refused",
        also=Mutation(
            "nor is one careful that is given what came back again",
            Careful,
            "counted",
            "if returns >= WARY_AT:",
            "if False:",
            "refused",
        ),
    ),
    Mutation(
        "each message is confirmed before the next is sent",
        Careful,
        "_pass",
        "await self._offer(message.frame, message.header, message.body_frames)",
        "message.outlet.channel.publish(message.frame, message.header, message.body_frames)",
        "refused",
    ),
    Mutation(
        "care lasts until all that came back has passed",
        Source,
        "passed",
        "return self._fresh and (not returning or self._back > 0) and self._next > max(self._back, returning)",
        "return True",
        "refused",
    ),
    Mutation(
        "the fence before a partition goes direct",
        SegmentReader,
        "fence",
        "await _proven(fence)",
        "pass",
        "moves",
    ),
    Mutation(
        "a flow is exhausted only while nothing of it is under way",
        SegmentReader,
        "exhaust",
        "await flow.settled()",
        "pass",
        "moves",
    ),
    Mutation(
        "what comes in the chunk that made a flow idle is under way, too",
        Flow,
        "settled",
        "while not self.idle.is_set():",
        "if not self.idle.is_set():",
        "crowded",
    ),
    Mutation(
        "a nack does not end the session",
        Outlet,
        "_on_nack",
        "sink.refused(message)",
        'self._link.fail(BrokerError("a nack"))',
        "refusals",
    ),
    Mutation(
        "what was refused keeps its place",
        Lane,
        "take_back",
        "insort(self.parked, (tag, header, body), key=itemgetter(0))",
        "self.parked.append((tag, header, body))",
        "refusals",
    ),
    Mutation(
        "a segment is not read before its last reader has gone",
        Releaser,
        "_reader",
        "await await_unread(self._topology, [queue], mark=self._publisher.mark)",
        "pass",
        "full",
    ),
    Mutation(
        "zeros do not tell that a segment has no reader",
        quiet,
        "_unread",
        "if isinstance(state, Silence):",
        "if isinstance(state, Silence):\n            return\n        if False:",
        "hushed segments",
    ),
    Mutation(
        "zeros do not tell that the source has no other reader",
        Intake,
        "_is_alone",
        "if isinstance(state, QueueState) and state.consumers:",
        "if not isinstance(state, QueueState):\n            return True\n        if state.consumers:",
        "hushed source",
    ),
    Mutation(
        "zeros do not tell that acknowledgements took effect",
        Intake,
        "_settled_at_broker",
        "elif not gave_back:",
        "else:\n            return\n        if False:",
        "hushed stops",
    ),
]


@contextlib.contextmanager
def removed(mutation: Mutation) -> Iterator[None]:
    """The router without the rule."""
    original = getattr(mutation.owner, mutation.method)
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(mutation.old) == 1, (
        f"{mutation.owner.__name__}.{mutation.method} has changed: mend the mutation"
    )
    module = inspect.getmodule(original)
    scope: dict[str, Any] = {}
    exec(source.replace(mutation.old, mutation.new), vars(module), scope)  # the point of it
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(mutation.owner, mutation.method, scope[mutation.method]))
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
