"""The journal is deleted: managed clients stay what they are, plain ones bind again, and nothing is lost."""

from pathlib import Path

from partymq.amqp.topology import Topology
from partymq.core.names import Names
from partymq.core.spec import GroupId
from support.broker import amqp_url
from support.conditions import eventually
from support.events import Kind
from support.group import address
from support.processes import Clients
from support.routers import ROUTER
from support.serve import Served, disorder, serving
from support.spool import Spool


async def delete_journal(s: Served) -> None:
    """Deletes it, and waits until the next session has declared it: what is answered from then on is the next one's."""
    journal = Names(GroupId(namespace="default", name=s.group)).journal
    await s.channel.queue_delete(journal)
    topology = await Topology.open(address(), name="test")

    async def declared() -> bool:
        return await topology.poll(journal) is not None

    await eventually(declared, "nobody begins again", 30.0)
    await topology.close()


async def clients(s: Served) -> set[str]:
    bound = (await s.call("GET", "/clients"))[1]
    return {client["hostname"] for client in bound.get("clients", ())}


async def test_plain_clients_are_told_to_bind_again_and_nothing_is_lost() -> None:
    async with serving() as s:
        await s.join("one")
        await s.join("two")
        await s.publish(f"k{n}" for n in range(2_000))
        await s.routed(2_000)  # what is not when the session ends may be repeated
        await delete_journal(s)

        async def told() -> bool:
            status, body = await s.call("POST", "/clients/one/heartbeat")
            return status == 200 and body is not None and "call bind" in body["detail"]

        await eventually(told, "it is not told", 30.0)
        assert await clients(s) == set()
        assert "call bind first" in (await s.post("/clients/one/ready", 409))["detail"]
        await s.publish(f"k{n}" for n in range(2_000))
        status, shown = await s.call("GET", "/keys/k1")
        assert (status, shown["owner"]) == (200, None), "it goes to nobody"
        await s.join("one")
        await s.join("two")
        await s.drained()
        received = await s.received()
    numbers = sorted(number for messages in received.values() for number, _ in messages)
    assert numbers == list(range(1, 4_001)), "a message is lost or repeated"
    assert disorder(received) == 0


async def test_the_journal_is_deleted_under_load() -> None:
    async with serving() as s:
        await s.join("one")
        await s.publish(f"k{n % 500}" for n in range(20_000))
        await delete_journal(s)

        async def forgotten() -> bool:
            status, body = await s.call("POST", "/clients/one/heartbeat")
            return status == 200 and body is not None

        await eventually(forgotten, "it is not told", 30.0)
        await s.join("one")
        received: dict[str, list[tuple[int, str]]] = {}

        async def all_there() -> bool:  # repeats are, too, so a count says nothing
            received.update(await s.received())
            return {number for number, _ in received["one"]} == set(range(1, 20_001))

        await eventually(all_there, "a message is lost", 60.0, every=0.5)
    assert disorder(received) == 0


async def test_managed_clients_notice_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    async with serving() as s, Clients(spool, amqp_url()) as processes:
        for name in ("a", "b"):
            s.managed.add(name)
            binding = await s.post(f"/clients/{name}/bind", json={"managed": True})
            await (await processes.consumer(binding["queue"], name=name, prefetch=10, work=0.001)).started()
        producer = await (await processes.producer(s.source, rate=300, keys=100)).started()
        await eventually(lambda: spool.counts()[1] > 300, "nothing arrives", 30.0)
        spool.note(ROUTER, Kind.ROUTER_DOWN)
        await delete_journal(s)

        async def goes_on() -> bool:
            bound = (await s.call("GET", "/clients"))[1].get("clients", ())
            return {c["hostname"] for c in bound if c["state"] == "active"} == {"a", "b"}

        await eventually(goes_on, "they are not what they were", 60.0)
        spool.note(ROUTER, Kind.ROUTER_UP)
        handled = spool.counts()[1]
        await eventually(lambda: spool.counts()[1] > handled + 300, "nothing arrives any more", 30.0)
        await producer.stop()
        await spool.settled()
    verdict = spool.audit()
    assert verdict.ok, verdict.report()
