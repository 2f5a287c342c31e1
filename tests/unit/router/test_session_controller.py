"""Inboxes of pods that come and go without becoming members: none is left behind, and none is taken from somebody."""

from types import SimpleNamespace
from typing import Any, cast

from partymq.amqp.topology import QueueState
from partymq.core.ledger import admit, empty
from partymq.core.membership import Pod, PodState
from partymq.core.names import Names
from partymq.core.spec import GroupId, GroupSpec
from partymq.router.controller import Controller
from partymq.router.inboxes import Inboxes
from partymq.router.outlet import Sink
from partymq.router.pace import Pace
from partymq.router.troubles import Troubles

NAMES = Names(GroupId(namespace="shop", name="orders"))


class Stage:
    """A controller, its inboxes, and the queues that exist with what is in them."""

    def __init__(self) -> None:
        self.queues: dict[str, QueueState] = {}
        self.managed: tuple[Pod, ...] = ()
        topology = cast(Any, SimpleNamespace(declare_quorum=self._declare, delete=self._delete, poll=self._poll))
        pace = Pace(topology, queues=tuple)
        self.inboxes = Inboxes(
            topology=topology,
            names=NAMES,
            publisher=cast(Any, SimpleNamespace(sink=lambda _queue, *, left: Sink(cast(Any, None), b"", left))),
            window=10,
            room=1 << 30,
            pace=pace,
            troubles=Troubles(on_notice=lambda _: None, on_change=lambda: None),
            on_polled=lambda _: None,
            on_refused=lambda *_: None,
        )
        self.journal = SimpleNamespace(ledger=empty(2))
        self.controller = Controller(
            spec=GroupSpec(source_queue="orders", rejoin_seconds=0.0),
            journal=cast(Any, self.journal),
            inboxes=self.inboxes,
            handoffs=cast(Any, SimpleNamespace(running={})),
            pace=pace,
            managed=lambda: self.managed,
            on_membership=lambda _: None,
            on_ledger=lambda _: None,
        )

    async def _declare(self, queue: str, **_: object) -> None:
        self.queues[queue] = QueueState(0, 0)

    async def _delete(self, queue: str) -> None:
        del self.queues[queue]

    async def _poll(self, queue: str) -> QueueState | None:
        return self.queues.get(queue)

    async def see(self, *pods: Pod) -> None:
        """Pods are listed, and looked at."""
        self.controller.set_pods(pods)
        listed = self.controller._listed
        assert listed is not None
        await self.controller._observe(listed)

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
    stage.controller.set_pods(())
    stage.managed = (Pod(name="a", state=PodState.READY),)
    await stage.controller._observe(())  # of those that were listed before
    assert stage.exists("a")
