"""Each rule of the protocol is needed, and its absence is noticed: without it, some simulated history breaks a promise.

A mutation removes one rule from the router's real code; histories are then played until one fails. The same histories
pass with the rule in place. `docs/testing.md` lists the rules.
"""

import contextlib
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

from partymq.router import quiet
from partymq.router.backlogs import Backlogs
from partymq.router.careful import Careful
from partymq.router.caution import Caution
from partymq.router.handoff import Handoffs
from partymq.router.intake import Intake
from partymq.router.journal import Journal
from partymq.router.lanes import Lane
from partymq.router.outlet import Outlet
from partymq.router.points import Point
from partymq.router.release import Releaser
from partymq.router.segments import Flow, SegmentReader
from partymq.router.session import Session
from partymq.router.source import Source
from partymq.router.takeover import Takeover
from unit.sim.script import Act, Crash, CrashAt, Join, Leave, Poison, Produce, Restart, Stall, Step, Trouble, play
from unit.sim.wire import Refusal
from unit.sim.world import Setting

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
    silences: bool = False
    """Whether queues fall silent in them."""
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
            "await await_alone(topology, outlets, own=OUTLETS)",
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
        "return self._fresh and self._next > max(self._back, returning)",
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
        Flow,
        "settled",
        "while not self.idle.is_set():",
        "if not self.idle.is_set():",
        "moves",
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
        "full",
        silences=True,
    ),
    Mutation(
        "zeros do not tell that the source has no other reader",
        Intake,
        "_is_alone",
        "if isinstance(state, QueueState) and state.consumers:",
        "if not isinstance(state, QueueState):\n            return True\n        if state.consumers:",
        "restarts",
        silences=True,
    ),
    Mutation(
        "zeros do not tell that acknowledgements took effect",
        Intake,
        "_settled_at_broker",
        "elif not gave_back:",
        "else:\n            return\n        if False:",
        "graceful",
        silences=True,
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


def history(kind: str, seed: int, *, silences: bool = False) -> tuple[Setting, list[Act]]:
    """A busy history in which `kind` happens a lot."""
    random = Random(seed)
    setting = Setting(
        seed=seed,
        pace=random.choice(["uneven", "rough"]),
        members=2,
        prefetch=random.choice([1, 2, 4]),
        window=2 if kind == "full" else random.choice([2, 6, 20]),
        partitions=4,
        routers=2 if kind == "two" else 1,
        quorum_source=kind in ("stops", "refused") or random.random() < 0.5,
        delivery_limit=3 if kind == "refused" else None,
        silences=silences,
        zombies=kind == "zombies",
    )
    if kind == "epochs":
        return setting, _epochs(random)
    if kind == "stops":
        return setting, _stops(random)
    script = [Act(Produce(30, 8, 0.005), 0.05)]
    for _ in range(random.randint(3, 8)):
        script.append(Act(_step(kind, random), random.choice([0.0, 0.005, 0.03, 0.1, 0.4])))
        if random.random() < 0.5:
            script.append(Act(Produce(random.randint(5, 30), 8, random.choice([0.0, 0.005])), 0.01))
    return setting, script


def _epochs(random: Random) -> list[Act]:
    """Messages of several sessions stand in the inboxes when those are taken over."""
    stuck = [Act(Trouble("a", "stuck"), 0.0), Act(Trouble("b", "stuck"), 0.0)]
    sessions = [Act(step, 1.2) for _ in range(3) for step in (Produce(6, 6), Crash(random.randint(1, 20)))]
    return [Act(Produce(12, 6), 0.5), *stuck, *sessions, Act(Produce(6, 6), 0.1), Act(Join("c"), 1.0)]


def _stops(random: Random) -> list[Act]:
    """Routers stop in order while much comes, and die of it."""
    flow = [Act(Produce(60, 2, 0.0002), random.choice([0.001, 0.003, 0.006])) for _ in range(3)]
    faults: list[Step] = [CrashAt(Point.CANCELLED), Crash(random.randint(1, 60))]
    crash = Act(random.choice(faults), 0.0)
    return [Act(Produce(4, 2), 2.0), *(act for each in flow for act in (each, crash, Act(Restart(), 1.0)))]


def _step(kind: str, random: Random) -> Step:
    member = random.choice("abc")
    common: list[Step] = [
        Join(member),
        Join(member),
        Leave(member, random.choice(["closed", "drained", "killed"])),
        Trouble(member, random.choice(["lost", "slow", "works", "stuck"])),
    ]
    special: dict[str, list[Step]] = {
        "moves": [],
        "zombies": [Trouble(member, random.choice(["stuck", "stuck", "lost", "works"]))] * 4,
        "cancels": [Trouble(member, "drained"), Trouble(member, "slow")],
        "crashes": [Crash(random.randint(1, 150)), CrashAt(random.choice(list(Point)))] * 2,
        "extracting": [CrashAt(random.choice([Point.COPYING, Point.COPIED]))] * 3,
        "committing": [CrashAt(Point.COMMITTED)] * 3,
        "refused": [Poison(random.randint(1, 3), random.choice(list(Refusal)))] * 4,
        "refusals": [Trouble(member, random.choice(["refuses", "accepts"]))] * 3,
        "restarts": [Crash(random.randint(1, 400))] * 8,
        "graceful": [Restart()] * 8,
        "full": [Trouble(member, random.choice(["stuck", "works"])), Crash(random.randint(1, 200))] * 3,
        "two": [Stall(random.choice([0.05, 0.5]), random.choice([0.3, 8.0])), Restart(), Crash(random.randint(1, 100))],
    }
    return random.choice(common + special[kind])


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_the_absence_of_a_rule_is_noticed(mutation: Mutation) -> None:
    for seed in range(HISTORIES):
        setting, script = history(mutation.kind, seed, silences=mutation.silences)
        with removed(mutation):
            outcome = play(setting, script)
        if outcome.violations:
            break
    else:
        raise AssertionError(f"{HISTORIES} histories without {mutation.rule!r}: nothing noticed")
    assert not play(setting, script).violations, "it fails with the rule in place, too"
