"""`make try`: a router, consumers and a producer as processes on this machine, scaled and killed, and an audit.

Invariant: everything on the broker carries the name of this run and is deleted in the end, the exchange that all
servers share only if it was not there before; processes are ended by their own ids.
"""

import argparse
import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

import aio_pika
import aiohttp
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from demo.command import Outcome, run
from demo.picture import NOBODY, Shares, of_api
from demo.plan import FIRST, PLAN, Act, Step, consumers
from demo.view import View
from demo.watch import News, Watch, beside
from partymq.amqp.topology import Topology
from partymq.core.names import Names
from partymq.core.spec import GroupId
from partymq.serve.settings import EXCHANGE
from support.broker import QUORUM, Depths, amqp_url, unique
from support.conditions import eventually
from support.group import address
from support.processes import Client, Clients
from support.serve import Served, serving
from support.spool import Spool
from support.verdict import Verdict

REJOIN: Final = 3
"""Seconds that a killed consumer is waited for: less than the default, so that there is something to see."""
DELAY: Final = 1
"""Seconds in which moves are collected, likewise."""
STUCK: Final = 30.0
"""Seconds without an acknowledgement after which something is wrong."""
_SOURCE: Final = {**QUORUM, "x-delivery-limit": 1_000_000}
"""RabbitMQ's default would drop what a router gives back twenty times, and PartyMQ warns of that."""
_EXPECTED: Final = ("NoMembers", "MemberJoining", "MemberActive")
"""What the server says of each consumer that comes, and the picture shows."""
NEXT: Final = """
What next?
  make try ARGS="--rate 1000 --keys 5000"                    more of it (ARGS=--help)
  PARTYMQ_AMQP_URL=amqp://user:password@host/vhost make try  on a RabbitMQ 4 of your own; nothing is left there
  .venv/bin/partymq serve --config examples/serve.yaml       your own queues without Kubernetes: docs/http-api.md
  make demo                                                  pods on a real Kubernetes, with rollouts"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What goes through it."""

    rate: float
    """Messages a second."""
    keys: int
    work: float
    """Seconds that a consumer takes for a message."""
    seconds: float
    """How long it goes on after each change."""


class Trial:
    """The steps; what is to be seen of them is asked for here."""

    def __init__(self, served: Served, clients: Clients, load: Load, log: Path, view: View) -> None:
        self._served = served
        self._clients = clients
        self._load = load
        self._log = log
        self._view = view
        self._read = 0
        self._running: dict[str, Client] = {}
        self._said = re.compile(rf": default/{served.group}: (.*)")

    async def shares(self) -> Shares | None:
        """Who has what, by the clients API."""
        try:
            health, clients, partitions = [
                (await self._served.call("GET", path))[1] for path in ("/health", "/clients", "/partitions")
            ]
        except aiohttp.ClientError:
            return None
        if "clients" not in clients or "partitions" not in partitions:  # it does not route at the moment
            return None
        return of_api(health["groups"].get(self._served.group, {}), clients["clients"], partitions["partitions"])

    async def news(self) -> list[News]:
        """What the server has logged of its group since the last time."""
        with self._log.open(encoding="utf-8") as log:
            log.seek(self._read)
            lines = log.readlines()
            self._read = log.tell()
        found = [said[1] for said in map(self._said.search, lines) if said and not said[1].startswith(_EXPECTED)]
        return [News(sentence=sentence.replace(f"{self._served.group}.", "")) for sentence in found]

    def inbox(self, member: str) -> str:
        """A member's queue."""
        return Names(GroupId(namespace="default", name=self._served.group)).inbox(f"{self._served.group}.{member}")

    async def join(self, name: str) -> None:
        """A plain AMQP consumer on the inbox that the server gives it."""
        self._served.managed.add(name)
        binding = await self._served.post(f"/clients/{name}/bind", json={"managed": True})
        client = await self._clients.consumer(binding["queue"], name=name, prefetch=20, work=self._load.work)
        self._running[name] = await client.started()

    async def leave(self, name: str) -> None:
        """It is unbound, hands over, and ends."""
        await self._served.post(f"/clients/{name}/unbind")
        await self._running.pop(name).stop()

    async def change(self, step: Step) -> None:
        """One step of the plan."""
        self._view.step(step.announced(REJOIN))
        match step.act:
            case Act.JOIN:
                await self.join(step.name)
            case Act.KILL:
                await self._running.pop(step.name).kill()
            case Act.LEAVE:
                await self.leave(step.name)

    async def end(self) -> None:
        """Everybody leaves, and the server stops; nothing is delivered any more."""
        await asyncio.gather(*(client.stop() for client in self._running.values()))
        await self._served.stop()


class Stage:
    """Waits for what is to be seen."""

    def __init__(self, watch: Watch, view: View, load: Load) -> None:
        self._watch = watch
        self._view = view
        self._load = load

    async def shared_by(self, names: frozenset[str], began: float) -> None:
        """Until they, and no others, have all partitions; what led to it began then."""

        def is_so() -> bool:
            holders = self._watch.picture.shares.holders
            return bool(holders) and NOBODY not in holders and set(holders) == names

        await eventually(is_so, lambda: f"not shared by {', '.join(sorted(names))} alone: {self._says}", 60)
        self._view.note(f"    shared by {len(names)} consumers after {monotonic() - began:.1f} s")

    async def goes_on(self) -> None:
        """Load for a while: consumers may be slow, but not stand still."""
        acked, until = self._watch.picture.acked, monotonic() + self._load.seconds

        def enough() -> bool:
            return monotonic() >= until and self._watch.picture.acked > acked

        await eventually(enough, lambda: f"nothing is handled any more: {self._says}", self._load.seconds + STUCK)

    @property
    def _says(self) -> str:
        return self._watch.picture.shares.says


async def play(load: Load, view: View, directory: Path) -> Outcome:
    """All of it."""
    spool, log, group = Spool(directory / "reports"), directory / "serve.log", unique("try")
    async with AsyncExitStack() as stack:
        view.step(f"a queue, {group}.source, and `partymq serve`: a router without Kubernetes")
        await (await Topology.open(address(), name=group)).close()  # says what is wrong with a broker
        connection = await stack.enter_async_context(await aio_pika.connect(amqp_url()))
        await stack.enter_async_context(shared_exchange(connection))
        served = await stack.enter_async_context(
            serving(_SOURCE, group=group, log=log, PARTYMQ_CONFIG=str(_config(directory, group)), **_management())
        )
        clients = await stack.enter_async_context(Clients(spool, amqp_url()))
        trial = Trial(served, clients, load, log, view)
        watch = Watch(
            view=view,
            spool=spool,
            depths=Depths(connection),
            source=served.source,
            inbox=trial.inbox,
            shares=trial.shares,
            news=trial.news,
        )
        scene = Stage(watch, view, load)
        async with beside(watch.run()):
            view.step(f"{len(FIRST)} plain AMQP consumers: {', '.join(FIRST)}")
            began = monotonic()
            await asyncio.gather(*map(trial.join, FIRST))
            await scene.shared_by(consumers(FIRST, ()), began)
            view.step(f"a producer: {load.rate:g} messages a second of {load.keys} keys")
            producer = await clients.producer(served.source, name="customer", rate=load.rate, keys=load.keys)
            await producer.started()
            await scene.goes_on()
            for number, step in enumerate(PLAN, 1):
                began = monotonic()
                await trial.change(step)
                await scene.shared_by(consumers(FIRST, PLAN[:number]), began)
                await scene.goes_on()
            view.step("the producer stops; what is under way is handled")
            remark = await watch.drain(producer)
            await watch.look()
        view.step("cleaning up: processes and queues")
        await trial.end()
    verdict = spool.audit()
    return Outcome(verdict=verdict, picture=watch.picture, remarks=tuple(filter(None, (told(verdict), remark))))


def told(verdict: Verdict) -> str:
    """What kept promises mean, in a sentence; empty if one was broken."""
    if not verdict.ok:
        return ""
    again = verdict.excused_by_consumer
    return (
        f"{verdict.messages} messages of {verdict.keys} keys: none is lost, each key's came in order, "
        "and no two consumers held one key at a time."
        + (f" {again} came again: the killed consumer had not acknowledged them." if again else "")
    )


@asynccontextmanager
async def shared_exchange(connection: aio_pika.abc.AbstractConnection) -> AsyncIterator[None]:
    """The exchange that a server declares is deleted in the end, if it was not there and nobody uses it."""
    try:
        await (await connection.channel()).get_exchange(EXCHANGE)
        before = True
    except ChannelNotFoundEntity:
        before = False
    try:
        yield
    finally:
        if not before:
            with suppress(ChannelPreconditionFailed):  # somebody's client is bound to it by now
                await (await connection.channel()).exchange_delete(EXCHANGE, if_unused=True)


def _config(directory: Path, group: str) -> Path:
    """What the server is told."""
    spec = {
        "source": {"queue": f"{group}.source"},
        "members": {"rejoinSeconds": REJOIN},
        "rebalance": {"delaySeconds": DELAY},
    }
    file = directory / "serve.yaml"
    file.write_text(json.dumps({"groups": [{"name": group, "spec": spec}]}), encoding="utf-8")
    return file


def _management() -> dict[str, str]:
    """The broker's management API, where one is named; else the server looks for it where it usually is."""
    return {"PARTYMQ_MANAGEMENT_URI": os.environ.get("PARTYMQ_MANAGEMENT_URL", "")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Play it; the exit code."""
    parser = argparse.ArgumentParser(prog="make try", description="PartyMQ at work, on this machine alone.")
    parser.add_argument("--rate", type=float, default=300.0, help="messages a second (300)")
    parser.add_argument("--keys", type=int, default=200, help="keys (200)")
    parser.add_argument("--work", type=float, default=1.0, help="milliseconds that a consumer takes for a message (1)")
    parser.add_argument("--seconds", type=float, default=1.5, help="how long the load goes on after each change (1.5)")
    chosen = parser.parse_args(arguments)
    load = Load(rate=chosen.rate, keys=chosen.keys, work=chosen.work / 1000, seconds=chosen.seconds)
    for name in [name for name in os.environ if name.startswith("PARTYMQ_") and name not in _OURS]:
        del os.environ[name]  # what is meant for a server of one's own

    async def trial(view: View, directory: Path) -> Outcome:
        return await play(load, view, directory)

    return run(trial, title="PartyMQ", line_every=2.0, next_steps=NEXT)


_OURS: Final = frozenset(("PARTYMQ_AMQP_URL", "PARTYMQ_MANAGEMENT_URL"))

if __name__ == "__main__":
    sys.exit(main())
