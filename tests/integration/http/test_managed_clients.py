"""Managed clients have what pods have: the same handoff, judged by the same auditor; plain ones may share the group."""

from pathlib import Path

from support.broker import amqp_url
from support.conditions import eventually
from support.processes import Client, Clients
from support.serve import Served, serving
from support.spool import Spool


async def join(s: Served, clients: Clients, name: str) -> Client:
    s.managed.add(name)
    binding = await s.post(f"/clients/{name}/bind", json={"managed": True})
    assert await s.post(f"/clients/{name}/bind", json={"managed": True}) == binding, "who is back is welcome"
    return await (await clients.consumer(binding["queue"], name=name, prefetch=10, work=0.002)).started()


async def active(s: Served, *names: str) -> bool:
    bound = (await s.call("GET", "/clients"))[1]["clients"]
    return {client["hostname"] for client in bound if client["partitions"]} == set(names)


async def test_rolling_joins_crashes_and_leaves(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    async with serving() as s, Clients(spool, amqp_url()) as clients:
        await join(s, clients, "a")
        producer = await (await clients.producer(s.source, rate=300, keys=200)).started()
        b = await join(s, clients, "b")
        await eventually(lambda: active(s, "a", "b"), "b is given nothing", 30.0)
        c = await join(s, clients, "c")
        await eventually(lambda: active(s, "a", "b", "c"), "c is given nothing", 30.0)
        await s.post("/clients/b/unbind")
        await eventually(lambda: active(s, "a", "c"), "b keeps what it has", 30.0)
        await b.kill()
        await c.kill()
        await s.post("/clients/c/unbind")
        await eventually(lambda: active(s, "a"), "c keeps what it has", 30.0)
        await producer.stop()
        await spool.settled()
    verdict = spool.audit()
    assert verdict.ok, verdict.report()


async def test_plain_and_managed_clients_in_one_group(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    async with serving() as s, Clients(spool, amqp_url()) as clients:
        await s.join("plain")
        await s.publish(f"k{n}" for n in range(500))
        await s.drained()
        await join(s, clients, "managed")
        await eventually(lambda: active(s, "managed"), "it is given nothing", 30.0)
        status, owned = await s.call("GET", "/clients/managed")
        assert (status, owned["state"], owned["partitions"]) == (200, "active", "0-31")
        for n in range(500):
            shown = (await s.call("GET", f"/keys/k{n}"))[1]
            assert (shown["owner"], shown["state"]) == ("plain", "pinned"), "a key was moved"
        owners = {(await s.call("GET", f"/keys/new{n}"))[1]["owner"] for n in range(50)}
        assert {"managed", None} <= owners, "half of what is new is the managed one's, the rest is open"
        await s.post("/clients/plain/unbind")
        await eventually(lambda: _owns_all(s), "the plain client's partitions are nobody's", 30.0)


async def _owns_all(s: Served) -> bool:
    return bool((await s.call("GET", "/clients/managed"))[1]["partitions"] == "0-63")


async def test_an_inbox_that_is_somebody_elses_is_a_conflict_and_can_be_unbound(tmp_path: Path) -> None:
    async with serving() as s, Clients(Spool(tmp_path), amqp_url()):
        await s.join("plain")
        s.managed.add("m")
        inbox = f"partymq.default.{s.group}.inbox.{s.group}.m"
        theirs = await s.channel.declare_queue(inbox, durable=True)
        answer = await s.post("/clients/m/bind", 409, json={"managed": True})
        assert inbox in answer["detail"]
        assert "delete it" in answer["detail"]
        await s.post("/clients/m/unbind")
        await s.publish(f"k{n}" for n in range(200))
        await s.drained()
        await theirs.delete()
        binding = await s.post("/clients/m/bind", json={"managed": True})
        await s.channel.queue_delete(binding["queue"])
        theirs = await s.channel.declare_queue(inbox, durable=True)
        await s.kill()
        await s.start()
        shown = (await s.call("GET", "/clients/m"))[1]
        assert "delete it" in shown["waitingFor"]
        await s.publish(f"k{n}" for n in range(200))
        await s.drained()
        await s.post("/clients/m/unbind")
        assert [c["hostname"] for c in (await s.call("GET", "/clients"))[1]["clients"]] == ["plain"]
