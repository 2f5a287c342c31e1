"""One operator process of a simulated world: the real sessions, one after the other, until it dies or is stopped.

Invariant: a process that was killed has no further effect, whatever its tasks still do.
"""

import asyncio
import traceback
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from partymq.core.report import Notice
from partymq.errors import PartyMQError
from partymq.router.broker.memory_budget import Budget
from partymq.router.failpoints import Point
from partymq.router.listener import Listener
from partymq.router.poison.failed_sessions import FailedSessions
from partymq.router.session.session import Session
from partymq.router.session.terms import Consulted, Host, Legacy
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
    side: list[SimConnection] = field(default_factory=list)
    """Connections on which queues are declared and looked at, or messages tried one by one."""
    backlogs: list[SimConnection] = field(default_factory=list)
    """Those that heavy backlogs are read over."""
    failed_sessions: FailedSessions = field(default_factory=FailedSessions)
    notices: list[Notice] = field(default_factory=list)
    source: SimConnection | None = None
    task: asyncio.Task[None] | None = None
    killed: bool = False
    effects: int = 0
    """How often something has reached the broker or come from it."""
    crash_after: int = -1
    crash_at: Point | None = None
    stopping: bool = False
    stalled: bool = False
    budget: Budget = field(default_factory=Budget)

    @property
    def routes(self) -> bool:
        return self.session is not None and self.session._assembly is not None and not self.killed and not self.stalled

    def start(self) -> None:
        self.task = asyncio.create_task(self._run(), name=f"router {self.identity}")

    def opened(self, connection: SimConnection, purpose: str) -> None:
        if purpose == "backlog":
            self.backlogs = [each for each in self.backlogs if not each.lost.done()] + [connection]
        elif purpose in ("topology", "probe", "deletion"):
            self.side = [each for each in self.side if not each.lost.done()] + [connection]
        elif purpose == "source":
            self.source = connection
        else:
            self.data = connection

    @property
    def beside(self) -> list[SimConnection]:
        """All connections but the one that publishes."""
        return [*self.side, *self.backlogs, *([self.source] if self.source is not None else [])]

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
        for connection in self.beside:  # connections are processes at the broker: one may lag behind
            connection.cut("killed", linger=self.world.random.choice([0.0, 0.02, 0.2]))
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
        for connection in (self.data, *self.beside):
            connection.stall()
            loop.call_later(broker_notices, connection.vanish)
            loop.call_later(router_notices, connection.cut, "silent for too long")

    def lose_side(self) -> None:
        """The connection on which queues are looked at breaks."""
        for connection in self.side:
            connection.cut("closed by an administrator", linger=self.world.random.choice([0.0, 0.02]))

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
                replace(world.config, known_epoch=world.known_epoch, known_members=world.known_members),
                Listener(
                    standby=lambda: None,
                    trouble=lambda _error: None,
                    rival=lambda _identity: None,
                    wanted=lambda _identity: None,
                    changed=lambda: world.router_changed(self),
                    notice=self.notices.append,
                    committed=world.committed,
                ),
                host=Host(identity=self.identity, budget=self.budget, checkpoint=self.reached),
                legacy=Legacy(pods=world.listed, advice=self.failed_sessions.advice),
                consulted=Consulted(wants=str, remembered=lambda _queue: (), ask_about=_nobody_knows),
            )
            if self.stopping:
                return
            begun, failure = world.loop.time(), None
            try:
                await self.session.run()
            except PartyMQError as error:
                world.log(f"session of {self.identity} ended: {error}")
                failure = error
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what the simulation looks for
                if not self.killed:
                    world.defects.append(f"a session ended by a defect: {error!r} {trace(error)}")
            self.failed_sessions.ended(self.session.past, error=failure, seconds=world.loop.time() - begun)
            await asyncio.sleep(world.random.uniform(0.0, 0.3))


def trace(error: BaseException) -> str:
    """Where a defect was."""
    return "".join(traceback.format_exception(error))[-3000:]


async def _nobody_knows(_queue: str, _session: str) -> None:
    """There is no management API."""
