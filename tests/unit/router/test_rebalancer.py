"""Inboxes of pods that come and go without becoming members: none is left behind, and none is taken from somebody."""

from partymq.amqp.topology import Look, QueueState
from partymq.core.clients import ClientKind
from partymq.core.ledger import admit, empty
from partymq.core.membership import Pod, PodState
from partymq.core.names import Names
from partymq.core.pinning import bind
from partymq.core.spec import GroupId, GroupSpec
from partymq.errors import LimitReachedError
from partymq.router.flow.inboxes import Inboxes
from partymq.router.flow.lane_table import LaneTable
from partymq.router.rebalance.listing import Listing
from partymq.router.rebalance.rebalancer import Rebalancer
from unit.router.doubles import FakeChannel, FakeConnection, FakeJournal, FakeLink, FakeTopology, context, make_handoffs

NAMES = Names(GroupId(namespace="shop", name="orders"))


class Channel(FakeChannel):
    """Deletes queues of a topology."""

    def __init__(self, queues: dict[str, Look]) -> None:
        super().__init__()
        self._queues = queues

    async def delete_queue(self, queue: str) -> int:
        del self._queues[queue]
        return 0


class Link(FakeLink):
    """There is one connection, and no more."""

    def __init__(self, queues: dict[str, Look]) -> None:
        super().__init__()
        self._queues = queues

    async def beside(self, what: str) -> FakeConnection:
        raise LimitReachedError("connection limit (1) is reached")

    async def channel(self) -> Channel:
        return Channel(self._queues)


class Stage:
    """A rebalancer, its inboxes, and the queues that exist with what is in them."""

    def __init__(self) -> None:
        topology = FakeTopology()
        self.queues = topology.states
        self.journal = FakeJournal(empty(2))
        parts = context(
            spec=GroupSpec(source_queue="orders", rejoin_seconds=0.0),
            link=Link(self.queues),
            topology=topology,
            journal=self.journal,
        )
        table = LaneTable(1)
        self.inboxes = Inboxes(parts, table)
        listing = Listing(self.journal, clients=True)
        self.rebalancer = Rebalancer(
            parts, inboxes=self.inboxes, handoffs=make_handoffs(parts, table, self.inboxes, listing), listing=listing
        )

    async def see(self, *pods: Pod) -> None:
        """Pods are listed, and looked at."""
        self.rebalancer.set_pods(pods)
        listed = self.rebalancer._listing.all
        assert listed is not None
        await self.rebalancer._observe(listed)

    def exists(self, name: str) -> bool:
        return NAMES.inbox(name) in self.queues


STARTING = Pod(name="a", state=PodState.STARTING)


async def test_a_pod_that_never_consumed_leaves_no_inbox_behind() -> None:
    stage = Stage()
    await stage.see(STARTING)
    assert stage.exists("a")
    await stage.see()
    await stage.see()
    assert not stage.exists("a")
    assert "a" not in stage.inboxes.members
    await stage.see(STARTING)
    assert stage.exists("a"), "it is not declared again"


async def test_an_inbox_that_somebody_uses_is_not_deleted() -> None:
    for ready, consumers in ((1, 0), (0, 1)):
        stage = Stage()
        await stage.see(STARTING)
        stage.queues[NAMES.inbox("a")] = QueueState(ready, consumers)
        await stage.inboxes._poll(stage.inboxes.members["a"])
        await stage.see()
        await stage.see()
        assert stage.exists("a")


async def test_an_inbox_that_the_ledger_knows_is_not_deleted() -> None:
    stage = Stage()
    await stage.see(STARTING)
    stage.journal.ledger = admit(stage.journal.ledger, {"a"})
    await stage.see()
    await stage.see()
    assert stage.exists("a"), "it is emptied by a handoff first"


async def test_the_inbox_of_a_client_that_was_bound_a_moment_ago_is_not_deleted() -> None:
    stage = Stage()
    await stage.inboxes.ensure("a")
    stage.rebalancer.set_pods(())
    stage.journal.ledger = bind(stage.journal.ledger, name="a", kind=ClientKind.MANAGED)
    await stage.rebalancer._observe(())  # of those that were listed before
    assert stage.exists("a")
