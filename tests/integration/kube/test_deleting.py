"""Deleting a PartitionGroup: its queues first, and a way out where that is not possible."""

import asyncio
import re
import shlex
from pathlib import Path

from partymq.errors import ConnectionLostError
from support.api_server import Kubectl, Start
from support.conditions import eventually

ROOT = Path(__file__).parents[3]


async def test_the_queues_are_deleted_before_the_resource(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    group = kubectl.group(deletionPolicy="Delete")
    watching = await watch()
    await watching.configured(group)
    await asyncio.to_thread(kubectl, "delete", "pgrp", "orders", "--timeout=20s")
    assert "remove Delete" in watching.router.calls
    again = kubectl.group()
    await watching.configured(again)


async def test_queues_that_stay_are_named_by_an_event_that_outlives_the_resource(
    kubectl: Kubectl, watch: Start
) -> None:
    kubectl.secret()
    group = kubectl.group()
    watching = await watch()
    await watching.configured(group)
    watching.router.removal = ("partymq.shop.orders.backlog.7",)
    await asyncio.to_thread(kubectl, "delete", "pgrp", "orders", "--timeout=20s")
    assert "partymq.shop.orders.backlog.7" in kubectl.events()["QueuesKept"]


async def test_while_the_broker_is_away_it_waits_says_why_and_can_be_forced(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    group = kubectl.group()
    watching = await watch()
    await watching.configured(group)
    watching.router.removal = ConnectionLostError("The broker cannot be reached.")
    kubectl("delete", "pgrp", "orders", "--wait=false")
    await eventually(lambda: asyncio.to_thread(lambda: "DeletionBlocked" in kubectl.events()), "an Event")
    assert kubectl.exists("pgrp", "orders")
    message = kubectl.events()["DeletionBlocked"]
    assert "The broker cannot be reached" in message
    _, _, command = message.partition("kubectl ")
    kubectl(*command.split())
    await eventually(lambda: asyncio.to_thread(lambda: not kubectl.exists("pgrp", "orders")), "the resource is gone")
    assert f"partymq.{kubectl.namespace}.orders." in kubectl.events()["QueuesAbandoned"]


async def test_without_an_operator_the_documented_command_lets_it_go(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    group = kubectl.group()
    watching = await watch()
    await watching.configured(group)
    await eventually(lambda: asyncio.to_thread(lambda: bool(kubectl.status())), "a status")
    await watching.thread.stop()
    kubectl("delete", "pgrp", "orders", "--wait=false")
    assert kubectl.exists("pgrp", "orders")
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    notes = (ROOT / "helm" / "partymq" / "templates" / "NOTES.txt").read_text()
    (command,) = re.findall(r"^    kubectl (patch pgrp NAME .*finalizers.*)$", page, re.MULTILINE)
    assert command in notes
    kubectl(*shlex.split(command.replace("NAME", "orders")))
    assert not kubectl.exists("pgrp", "orders")


async def test_a_deletion_that_began_without_an_operator_is_finished_by_the_next(
    kubectl: Kubectl, watch: Start
) -> None:
    kubectl.secret()
    group = kubectl.group()
    first = await watch("operator-a")
    await first.configured(group)
    await eventually(lambda: asyncio.to_thread(lambda: bool(kubectl.status())), "a status")
    await first.thread.stop()
    kubectl("delete", "pgrp", "orders", "--wait=false")
    assert kubectl.exists("pgrp", "orders")
    second = await watch("operator-b")
    await eventually(
        lambda: asyncio.to_thread(lambda: not kubectl.exists("pgrp", "orders")), "the resource is gone", 20.0
    )
    assert second.router.calls == ["configure", "remove DeleteEmpty"] or second.router.calls == [
        "configure",
        "set_pods",
        "remove DeleteEmpty",
    ]


async def test_a_finalizer_that_was_taken_away_by_hand_ends_routing(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    group = kubectl.group()
    watching = await watch()
    await watching.configured(group)
    watching.router.removal = None
    kubectl("delete", "pgrp", "orders", "--wait=false")
    await eventually(lambda: "remove DeleteEmpty" in watching.router.calls, "the removal begins")
    kubectl("patch", "pgrp", "orders", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    await eventually(lambda: asyncio.to_thread(lambda: not kubectl.exists("pgrp", "orders")), "the resource is gone")
    watching.router.removal = ()
    again = kubectl.group()
    await watching.configured(again)
