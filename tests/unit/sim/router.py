"""One operator process of a simulated world: the real sessions, one after the other, until it dies or is stopped.

Invariant: a process that was killed has no further effect, whatever its tasks still do.
"""

import asyncio
import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from partymq.errors import PartyMQError
from partymq.router.listener import Listener
from partymq.router.points import Point
from partymq.router.session import Session
from unit.sim.wire import SimConnection

if TYPE_CHECKING:
    from unit.sim.world import World


@dataclass(eq=False)
class Router:
    """One operator process: one session after the other."""

    world: "World"
    identity: str
    session: Session | None = None
    data: SimConnection | None = None
    topology: SimConnection | None = None
    task: asyncio.Task[None] | None = None
    killed: bool = False
    effects: int = 0
    """How often something has reached the broker or come from it."""
    crash_after: int = -1
    crash_at: Point | None = None
    stopping: bool = False
    stalled: bool = False

    @property
    def routes(self) -> bool:
        return self.session is not None and self.session.routing is not None and not self.killed and not self.stalled

    def start(self) -> None:
        self.task = asyncio.create_task(self._run(), name=f"router {self.identity}")

    def opened(self, connection: SimConnection, *, data: bool) -> None:
        if data:
            self.data = connection
        else:
            self.topology = connection

    def effect(self) -> None:
        self.effects += 1
        if self.crash_after > 0:
            self.crash_after -= 1
            if self.crash_after == 0:
                self.kill()

    def reached(self, point: Point) -> None:
        self.world.points.add(point)
        if point is self.crash_at:
            self.crash_at = None
            self.kill()

    def kill(self) -> None:
        """SIGKILL: whatever its tasks still do reaches nobody."""
        if self.killed:
            return
        self.killed = True
        self.world.kills += 1
        if self.data is not None:
            self.data.cut("killed")
        if self.topology is not None:  # two connections are two processes at the broker: one may lag behind
            self.topology.cut("killed", linger=self.world.random.choice([0.0, 0.02, 0.2]))
        if self.task is not None:
            asyncio.get_running_loop().call_soon(self.task.cancel)
        asyncio.get_running_loop().call_later(self.world.random.uniform(0.01, 0.5), self.world.revive)

    def stall(self, broker_notices: float, router_notices: float) -> None:
        """The network between it and the broker stops; both find out, each in its time."""
        if self.data is None or self.data.lost.done():
            return  # nothing runs over it
        self.stalled = True
        self.world.router_goes_down(self)
        loop = asyncio.get_running_loop()
        for connection in (self.data, self.topology):
            if connection is not None:
                connection.stall()
                loop.call_later(broker_notices, connection.vanish)
                loop.call_later(router_notices, connection.cut, "silent for too long")

    async def stop(self) -> None:
        """A graceful end of the process."""
        self.stopping = True
        if self.session is not None:
            self.session.stop()
        if self.task is not None:
            await asyncio.wait([self.task])

    async def _run(self) -> None:
        world = self.world
        while not self.stopping and not self.killed:
            self.stalled = False
            self.session = Session(
                config=replace(world.config, known_epoch=world.known_epoch, known_members=world.known_members),
                identity=self.identity,
                pods=world.listed,
                listener=Listener(
                    standby=lambda: None,
                    trouble=lambda _error: None,
                    wanted=lambda _identity: None,
                    changed=lambda: world.router_changed(self),
                    notice=lambda _notice: None,
                    committed=world.committed,
                ),
                remembered=lambda _queue: (),
                checkpoint=self.reached,
                wants=str,
            )
            if self.stopping:
                return
            try:
                await self.session.run()
            except PartyMQError as error:
                world.log(f"session of {self.identity} ended: {error}")
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what the simulation looks for
                if not self.killed:
                    world.defects.append(f"a session ended by a defect: {error!r} {trace(error)}")
            await asyncio.sleep(world.random.uniform(0.0, 0.3))


def trace(error: BaseException) -> str:
    """Where a defect was."""
    return "".join(traceback.format_exception(error))[-3000:]
