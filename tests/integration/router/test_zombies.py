"""A client that dies while its inbox is taken over, with messages in its hands.

RabbitMQ 4.3 serves it again once the takeover leaves: see `partymq.router.broker.takeover`.
"""

import re
from pathlib import Path

import pytest

from partymq.amqp.connection import Connection
from partymq.router.broker.data_connection import ZOMBIES_SINCE
from partymq.router.rebalance.overdue import LISTED_WITHIN
from support.broker import amqp_url
from support.broker_script import NoBrokerError, erlang
from support.conditions import eventually
from support.group import Group, address, group
from support.processes import Client

HELD = "the donor's consumer"


async def _handing_off(g: Group) -> tuple[Client, Client]:
    """A handoff waits for a client that holds messages of its inbox; returns that client, and a producer."""
    await g.route()
    client = await g.join("a", prefetch=10, hold_after=20)
    producer = await (await g.clients.producer(g.source, rate=200, keys=50)).started()
    await eventually(lambda: g.waiting_in_inbox("a") > 20, "nothing waits behind what the client holds")
    await g.join("b")
    await eventually(lambda: HELD in g.waiting_for, "no handoff waits for the client")
    return client, producer


@pytest.mark.parametrize("router", ["goes on", "restarts"])
async def test_whoever_died_while_it_was_taken_over_is_served_no_more(tmp_path: Path, router: str) -> None:
    async with group(tmp_path) as g:
        first, producer = await _handing_off(g)
        if router == "restarts":
            epoch = g.report.epoch
            await g.stop()
            await g.route()
            await eventually(lambda: g.report.epoch > epoch and HELD in g.waiting_for, "no takeover is attached again")
        await first.kill()
        await eventually(lambda: g.report.balanced.ok and "b" in g.active(), "the handoff does not end")
        await g.restart("a", prefetch=10)
        await g.owners("a", "b")
        await g.progress(300)
        second = await g.join("c")
        await g.owners("a", "b", "c")
        await second.kill()
        g.set_pod("c", None)
        await g.owners("a", "b")
        await g.progress(300)
        await producer.stop()
        await g.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


async def _makes_zombies() -> bool:
    connection = await Connection.open(address(), name="test")
    await connection.close()
    return connection.server_version >= ZOMBIES_SINCE


async def test_one_that_died_between_two_takeovers_is_named_with_the_command_that_helps(tmp_path: Path) -> None:
    """RabbitMQ 4.3 serves it before the second one comes, which then waits for what only the broker can end."""
    async with group(tmp_path, handoff_timeout=LISTED_WITHIN + 1) as g:
        client, producer = await _handing_off(g)
        await g.stop()
        await client.kill()
        g.set_pod("a", None)
        await g.route()
        if await _makes_zombies():
            notice = await g.notice("HandoffOverdue", "although its client is gone", deadline=60)
            command = re.search("rabbitmqctl eval '(.*)'", notice.message)
            assert command is not None
            try:
                await erlang(amqp_url(), command[1])
            except NoBrokerError as error:
                pytest.skip(str(error))
        await eventually(lambda: g.report.balanced.ok and "b" in g.active(), lambda: f"no end: {g.report}")
        await g.owners("b")
        await g.audited(producer)
