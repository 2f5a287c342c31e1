"""What becomes of a lost node's consumers is the same on the model and on a broker of three nodes.

All histories are played beside each other, each on a queue of its own, for a node takes seconds to come back: what is
before the node is killed, just after that, when what its clients held is kept no more, and when it is back.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from random import Random
from time import monotonic

import pytest

from integration.model.raw_client import RawClient
from integration.model.twin import KEPT_FOR, Attach, Leave, Publish, Settle, Step, Twin, attach
from support.cluster import Cluster, lost

pytestmark = pytest.mark.alone

LOST, KEPT = 0, 1
"""Nodes: the first is killed, and queues have their leader on the other."""
EXAMPLES = int(os.environ.get("PARTYMQ_MODEL_EXAMPLES", "20"))


@dataclass(frozen=True, kw_only=True)
class History:
    """What clients do before, while and after a node is lost."""

    kind: str
    before: Sequence[Step]
    soon: Sequence[Step] = ()
    later: Sequence[Step] = ()
    """When what was held is kept no more."""
    after: Sequence[Step] = ()


def on_lost(client: int, *, prefetch: int = 0, priority: int = 0) -> Attach:
    return attach(client, prefetch=prefetch, priority=priority, node=LOST)


def living(client: int, *, prefetch: int = 0, priority: int = 0) -> Attach:
    return attach(client, prefetch=prefetch, priority=priority, node=KEPT)


FACTS = {
    "a lost reader is counted until its node is back": History(
        kind="backlog", before=[Publish(4), on_lost(0, prefetch=2)], soon=[Publish(1)], later=[Publish(1)]
    ),
    "what a lost reader held comes behind what another was given": History(
        kind="backlog",
        before=[Publish(6), on_lost(0, prefetch=3)],
        soon=[living(1, prefetch=2), Settle(1, "first", "ack")],
        later=[Settle(1, "all", "ack")],
        after=[Settle(1, "all", "ack"), Settle(1, "all", "ack")],
    ),
    "a lost reader is given messages when its node is back, and they come back behind newer ones": History(
        kind="backlog",
        before=[on_lost(0, prefetch=3)],
        soon=[living(1, prefetch=1), Publish(8)],
        after=[Settle(1, "all", "ack"), Settle(1, "all", "ack"), Settle(1, "all", "ack"), Settle(1, "all", "ack")],
    ),
    "who cancelled on a lost node": History(
        kind="backlog", before=[Publish(4), on_lost(0, prefetch=2), Leave(0, "cancel")], after=[living(1)]
    ),
    "who cancelled on a lost node of an inbox": History(
        kind="inbox",
        before=[Publish(4), on_lost(0, prefetch=2), living(1), Leave(0, "cancel")],
        after=[Settle(1, "all", "ack")],
    ),
    "a classic queue settles at once": History(
        kind="classic", before=[Publish(4), on_lost(0, prefetch=2)], soon=[living(1), Settle(1, "all", "ack")]
    ),
    "a standby of the journal": History(
        kind="inbox", before=[Publish(1), on_lost(0), living(1)], soon=[Publish(1)], later=[Publish(1)]
    ),
    "a standby that is lost": History(
        kind="inbox", before=[Publish(1), living(0), on_lost(1)], soon=[Leave(0, "kill")], after=[living(0)]
    ),
    "a client that is lost, and comes to another node": History(
        kind="inbox",
        before=[Publish(5), on_lost(0, prefetch=2)],
        soon=[living(1, prefetch=2), Publish(1)],
        later=[Settle(1, "all", "ack")],
        after=[Settle(1, "all", "ack"), Settle(1, "all", "ack")],
    ),
    "a client that is lost while it is taken over": History(
        kind="inbox",
        before=[Publish(5), on_lost(0, prefetch=2), living(1, priority=9)],
        soon=[Publish(1)],
        later=[Settle(1, "all", "ack")],
        after=[Leave(1, "close"), living(2), Publish(2)],
    ),
    "a client that is lost while it is taken over, and comes to another node": History(
        kind="inbox",
        before=[Publish(5), on_lost(0, prefetch=2), living(1, priority=9)],
        soon=[living(2, prefetch=2), Publish(1)],
        later=[Settle(1, "all", "ack")],
        after=[Leave(1, "close"), Publish(2)],
    ),
    "a client that is lost, and taken over at once": History(
        kind="inbox",
        before=[Publish(5), on_lost(0, prefetch=2)],
        soon=[living(1, priority=9)],
        later=[Publish(1)],
        after=[Publish(1), Leave(1, "kill"), living(2), Publish(1)],
    ),
    "a client that is lost, and taken over later": History(
        kind="inbox",
        before=[Publish(5), on_lost(0, prefetch=2)],
        later=[living(1, priority=9), Settle(1, "all", "ack"), Leave(1, "close")],
        after=[living(2), Publish(2)],
    ),
    "a client that held nothing is lost, and taken over at once": History(
        kind="inbox", before=[on_lost(0, prefetch=2)], soon=[living(1, priority=9), Publish(3)], after=[Publish(1)]
    ),
    "a takeover that is lost": History(
        kind="inbox",
        before=[Publish(5), living(0, prefetch=2), on_lost(1, priority=9), Settle(0, "all", "ack")],
        soon=[Publish(1)],
        later=[Settle(0, "all", "ack")],
        after=[Settle(0, "all", "ack"), Settle(0, "all", "ack"), Publish(2)],
    ),
    "a takeover that is lost while it waits": History(
        kind="inbox",
        before=[Publish(5), living(0, prefetch=2), on_lost(1, priority=9)],
        soon=[Settle(0, "first", "ack"), Settle(0, "all", "ack")],
        after=[Settle(0, "all", "ack"), Publish(2), Settle(0, "all", "ack")],
    ),
    "a client and its takeover are lost": History(
        kind="inbox",
        before=[Publish(5), on_lost(0, prefetch=2), on_lost(1, priority=9)],
        soon=[Publish(1)],
        later=[living(2, priority=9)],
        after=[Settle(2, "all", "ack"), Publish(1)],
    ),
}


def at_random(random: Random) -> History:
    """Few clients, as many on the node that is lost as on another."""
    return History(
        kind=random.choice(["inbox", "inbox", "backlog", "classic"]),
        before=[Publish(random.randint(1, 6)), *(_step(random, lost=True) for _ in range(random.randint(2, 6)))],
        soon=[_step(random) for _ in range(random.randint(0, 3))],
        later=[_step(random) for _ in range(random.randint(0, 3))],
        after=[_step(random) for _ in range(random.randint(1, 5))],
    )


def _step(random: Random, *, lost: bool = False) -> Step:
    client = random.randint(0, 2)
    node = random.choice([LOST, KEPT]) if lost else KEPT
    attached = attach(client, prefetch=random.choice([0, 1, 2, 3]), priority=random.choice([0, 0, 9]), node=node)
    settled = Settle(client, random.choice(["first", "last", "all"]), "ack")
    left = Leave(client, random.choice(["cancel", "close", "kill"]))
    steps: list[Step] = [attached, attached, settled, Publish(random.randint(1, 3)), left]
    return random.choice(steps)


def test_the_model_and_the_broker_look_the_same_around_a_lost_node(started_cluster: Cluster) -> None:
    asyncio.run(started_cluster.up())
    histories = [*FACTS.values(), *(at_random(Random(number)) for number in range(EXAMPLES))]
    urls = [node.url for node in started_cluster.nodes[: KEPT + 1]]
    with ExitStack() as stack:
        twins = [stack.enter_context(_twin(history.kind, urls)) for history in histories]
        pairs = list(zip(twins, histories, strict=True))
        for twin, history in pairs:
            twin.run(history.before)
        asyncio.run(_around_the_loss(started_cluster, pairs))
        for twin, history in pairs:
            if not twin.stuck(LOST):  # a new leader would mend that, and there may be one when the node comes
                twin.back(LOST)
                twin.run(history.after)


async def _around_the_loss(cluster: Cluster, pairs: Sequence[tuple[Twin, History]]) -> None:
    async with lost(cluster.nodes[LOST]):
        killed = monotonic()
        for twin, history in pairs:
            twin.lose(LOST)
            twin.run(history.soon)
        assert monotonic() < killed + KEPT_FOR, "too slow: what was held is kept no more"
        await asyncio.sleep(killed + KEPT_FOR - monotonic())
        for twin, history in pairs:
            twin.wait(KEPT_FOR)
            twin.run(history.later)


@contextmanager
def _twin(kind: str, urls: Sequence[str]) -> Iterator[Twin]:
    admin = RawClient(urls[KEPT])
    twin = Twin(kind, admin, urls, keeps=admin.version >= (4, 3))
    try:
        yield twin
    finally:
        twin.close()
        admin.kill()
