"""Calls reach the router on its own thread, in order."""

import asyncio
import threading

from partymq.core.membership import Pod, PodState
from partymq.core.spec import BrokerAddress, DeletionPolicy, GroupConfig, GroupSpec
from partymq.kube.bridge import Bridge
from support.fake_kubernetes import ORDERS, FakeRouter

CONFIG = GroupConfig(group=ORDERS, spec=GroupSpec(source_queue="orders"), broker=BrokerAddress(host="broker"))


class Watched(FakeRouter):
    """Notes the thread of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def configure(self, config: GroupConfig) -> None:
        self.threads.add(threading.get_ident())
        super().configure(config)

    async def remove(self, group: object, policy: DeletionPolicy) -> tuple[str, ...]:
        self.threads.add(threading.get_ident())
        return await super().remove(ORDERS, policy)


async def test_the_order_of_calls_is_kept_and_their_thread_is_the_routers() -> None:
    router = Watched()
    router.removal = ("left",)
    bridge = Bridge(router, asyncio.get_running_loop())

    async def elsewhere() -> tuple[str, ...]:
        bridge.configure(CONFIG)
        bridge.set_pods(ORDERS, (Pod(name="a", state=PodState.READY),))
        return await bridge.remove(ORDERS, DeletionPolicy.DELETE)

    assert await asyncio.to_thread(asyncio.run, elsewhere()) == ("left",)
    assert router.calls == ["configure", "set_pods", "remove Delete"]
    assert router.threads == {threading.get_ident()}


async def test_a_removal_that_is_given_up_is_given_up_over_there() -> None:
    router = FakeRouter()
    router.removal = None
    ended = asyncio.Event()

    class Ending(FakeRouter):
        async def remove(self, group: object, policy: DeletionPolicy) -> tuple[str, ...]:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return ()

    bridge = Bridge(Ending(), asyncio.get_running_loop())

    async def elsewhere() -> None:
        try:
            await asyncio.wait_for(bridge.remove(ORDERS, DeletionPolicy.DELETE), 0.05)
        except TimeoutError:
            return

    await asyncio.to_thread(asyncio.run, elsewhere())
    await asyncio.wait_for(ended.wait(), 5.0)
