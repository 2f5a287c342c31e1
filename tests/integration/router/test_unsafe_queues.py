"""Policies and properties of queues that take messages or leases away are named while they hold."""

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from partymq.core.hazards import shield
from partymq.router.reporting import consumer_scan
from support.broker import QUORUM, management_url, policy
from support.conditions import eventually
from support.group import Group, group


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_scan, "LOOK_EVERY", 0.3)
    monkeypatch.setattr(consumer_scan, "QUEUES_EVERY", 0.3)
    monkeypatch.setattr(consumer_scan, "QUEUES_SHARE", 0)
    monkeypatch.setattr(consumer_scan, "SECOND_LOOK", 0.3)


async def named(g: Group, *words: str) -> None:
    def is_so() -> bool:
        safe = g.report.queues_safe
        return safe.reason == "UnsafeQueue" and all(word in safe.message for word in words)

    await eventually(is_so, lambda: f"{words} not in {g.report.queues_safe}", 20)
    told = [notice.message for notice in g.notices if notice.reason == "UnsafeQueue"]
    assert any(all(word in message for word in words) for message in told)


async def safe(g: Group) -> None:
    await eventually(lambda: bool(g.reports) and g.report.queues_safe.ok, lambda: f"not safe: {g.reports[-1:]}", 20)


async def routed(g: Group) -> None:
    await g.route()
    await g.join("a")
    await g.owners("a")
    await safe(g)


TAKING: Mapping[str, object] = {
    "message-ttl": 600_000,
    "expires": 6_000_000,
    "max-length": 100_000,
    "max-length-bytes": 100_000_000,
    "overflow": "reject-publish",
    "delivery-limit": 20,
    "consumer-timeout": 6_000_000,
    "dead-letter-strategy": "at-least-once",
}


async def test_policies_that_take_from_our_queues_are_named_until_they_are_gone(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await routed(g)
        async with policy(rf"^partymq\.test\.{g.config.group.name}\.", TAKING) as name:
            for key, value in TAKING.items():
                await named(g, g.names.prefix, f"policy '{name}'", f"{key} {value}", "set_policy")
            assert g.report.ready.ok
        await safe(g)
        assert g.seen("QueuesSafe")


async def test_an_operator_policy_is_named_as_what_cannot_be_kept_off(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await routed(g)
        pattern = rf"^partymq\.test\.{g.config.group.name}\.inbox"
        async with policy(pattern, {"max-length": 100_000}, operator=True, apply_to="queues") as name:
            await named(g, g.names.inbox("a"), f"operator policy '{name}'", "max-length 100000", "change the pattern")
        await safe(g)


async def test_a_quorum_source_with_the_default_delivery_limit_is_named_with_what_mends_it(tmp_path: Path) -> None:
    async with group(tmp_path, source_arguments=QUORUM) as g:
        await g.route()
        await g.join("a")
        await eventually(lambda: bool(g.reports) and g.report.queues_safe.known, "not looked at", 20)
        await named(g, g.source, "delivery limit of 20", "no dead letter exchange")
        command = shlex.split(g.report.queues_safe.message.rpartition("`rabbitmqctl")[2].partition("`")[0])
        pattern, definition = command[-2:]
        async with policy(pattern, json.loads(definition)):
            await safe(g)
        async with policy(pattern, {"dead-letter-exchange": "amq.fanout"}):
            await safe(g)
        await named(g, "delivery limit of 20")


async def test_what_a_source_is_meant_to_drop_is_said_and_safe(tmp_path: Path) -> None:
    async with group(tmp_path, source_arguments={"x-message-ttl": 600_000}) as g:
        await routed(g)
        await eventually(lambda: "x-message-ttl" in g.report.queues_safe.message, lambda: f"{g.report}", 20)
        assert g.report.queues_safe.ok


@pytest.mark.alone  # the shield is for the whole virtual host
async def test_the_shield_keeps_other_policies_off(tmp_path: Path) -> None:
    """The documented command, and a policy under which nothing would arrive."""
    *words, name, pattern, definition = shlex.split(shield("/").strip("`"))
    priority, apply_to = int(words[words.index("--priority") + 1]), words[words.index("--apply-to") + 1]
    path = f"{management_url()}/api/policies/%2F/{name}"
    body = {"pattern": pattern, "definition": json.loads(definition), "priority": priority, "apply-to": apply_to}
    harm = {"message-ttl": 0, "max-length": 1, "consumer-timeout": 1000, "alternate-exchange": "amq.fanout"}
    async with group(tmp_path) as g, aiohttp.ClientSession(raise_for_status=True) as api:
        await api.put(path, json=body)
        try:
            async with policy(rf"^partymq\.test\.{g.config.group.name}\.", harm, priority=priority - 1):
                await routed(g)
                await g.join("b", work=0.002)
                await g.owners("a", "b")
                producer = await (await g.clients.producer(g.source, rate=400, keys=50)).started()
                await g.progress(300)
                await g.audited(producer)
                await safe(g)
                vhost_path = f"{management_url()}/api/exchanges/%2F/{g.names.dlx}"
                async with api.get(vhost_path) as answer:
                    assert (await answer.json())["policy"] == name
                await _removed(path)
                await named(g, g.names.prefix, "message-ttl 0")
        finally:
            await _removed(path)


async def _removed(path: str) -> None:
    """Takes a policy away. Telling its queues may take the broker longer than the API keeps a request.

    By a client of its own, for one that has a connection already sends such a request again unasked.
    """
    async with aiohttp.ClientSession() as api:
        with suppress(aiohttp.ServerDisconnectedError):
            async with api.delete(path) as answer:
                assert answer.status in (204, 404)
        async with api.get(path) as answer:
            assert answer.status == 404
