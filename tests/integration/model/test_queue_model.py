"""The model of a queue is worth what the broker confirms: short random histories run on both and must look the same."""

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integration.model.twin import Attach, Fence, Leave, Publish, Purge, Settle, Step, attach, twin

CLIENTS = 3

CONSUMING: dict[str, st.SearchStrategy[Any]] = {
    "prefetch": st.sampled_from([0, 1, 2, 3]),
    "priority": st.sampled_from([0, 0, 5]),
    "automatic": st.just(False),
}

clients = st.integers(0, CLIENTS - 1)
steps = st.one_of(
    st.builds(Publish, st.integers(1, 4)),
    st.builds(
        Attach,
        clients,
        prefetch=st.sampled_from([0, 1, 2]),
        priority=st.sampled_from([0, 0, 5]),
        automatic=st.just(False),
    ),
    st.builds(Attach, clients, prefetch=st.just(0), priority=st.sampled_from([0, 5]), automatic=st.just(True)),
    st.builds(Settle, clients, which=st.sampled_from(["first", "last", "all"]), how=st.just("ack")),
    st.builds(Settle, clients, which=st.sampled_from(["first", "last"]), how=st.sampled_from(["reject", "requeue"])),
    st.builds(Leave, clients, how=st.sampled_from(["cancel", "close", "kill"])),
    st.builds(Fence),
    st.builds(Purge),
)
openings = st.tuples(st.just(Publish(4)), *(st.builds(Attach, st.just(client), **CONSUMING) for client in range(2)))
histories = st.builds(lambda opening, rest: [*opening, *rest], openings, st.lists(steps, max_size=12))


FACTS: dict[str, tuple[str, list[Step]]] = {
    "a takeover waits for the client's acks": (
        "inbox",
        [Publish(5), attach(0, prefetch=2), attach(1, priority=9), Settle(0, "first", "ack"), Settle(0, "all", "ack")],
    ),
    "a takeover that closes gives back in order": (
        "inbox",
        [Publish(5), attach(0, prefetch=2), attach(1, priority=9), Settle(0, "all", "ack"), Leave(1, "close")],
    ),
    "returns go to the back of earlier returns": (
        "inbox",
        [Publish(5), attach(0), Leave(0, "kill"), attach(0, prefetch=1), Leave(0, "kill"), attach(0)],
    ),
    "a reader that changes its prefetch reorders": (
        "backlog",
        [Publish(6), attach(0, prefetch=10), Leave(0, "kill"), attach(0, prefetch=2), Leave(0, "kill"), attach(0)],
    ),
    "returns to a classic queue stay where they stood": (
        "classic",
        [Publish(6), attach(0, prefetch=10), Leave(0, "kill"), attach(0, prefetch=2), Leave(0, "kill"), attach(0)],
    ),
    "quiescing outlasts the takeover": (
        "inbox",
        [
            Publish(4),
            attach(0, prefetch=3),
            attach(1, priority=9),
            Leave(1, "close"),
            Settle(0, "first", "ack"),
            Settle(0, "all", "ack"),
        ],
    ),
    "a cancelled client is counted, and its messages come last": (
        "inbox",
        [
            Publish(12),
            attach(0, prefetch=5),
            attach(1, priority=9),
            Leave(0, "cancel"),
            Settle(0, "first", "ack"),
            Leave(0, "kill"),
        ],
    ),
    "who cancels without credit left gives back in order": (
        "backlog",
        [Publish(9), attach(0, prefetch=3), Leave(0, "cancel"), Publish(2), Leave(0, "kill"), attach(0)],
    ),
    "a classic queue does not count who cancelled": (
        "classic",
        [Publish(2), attach(0), Leave(0, "cancel"), Leave(0, "kill")],
    ),
    "automatic acknowledgement hides what a client has": (
        "inbox",
        [Publish(9), attach(0, automatic=True), attach(1, priority=9), Publish(1)],
    ),
    "a standby of the journal waits, then sees old before new": (
        "inbox",
        [Publish(1), attach(0), attach(1), Publish(1), Leave(0, "kill"), Publish(1)],
    ),
    "of equals that wait the one with more credit is next": (
        "inbox",
        [Publish(1), attach(0, prefetch=1), attach(1, prefetch=1), attach(2), Leave(0, "kill")],
    ),
    "a requeue under a takeover": (
        "inbox",
        [
            Publish(2),
            attach(0, prefetch=1),
            attach(1, priority=9),
            Settle(0, "first", "requeue"),
            Publish(1),
            attach(2),
        ],
    ),
    "a fence reaches an active consumer, and none that has no credit": (
        "inbox",
        [attach(0), Fence(), Settle(0, "all", "ack"), attach(1, prefetch=1, priority=9), Publish(1), Fence()],
    ),
    "a fence is nobody's dead letter, a rejected message is one": (
        "inbox",
        [Fence(), Publish(2), attach(0), Settle(0, "first", "reject"), Fence(), Settle(0, "last", "reject")],
    ),
    "who dies while it quiesces": (
        "inbox",
        [
            Publish(5),
            attach(0, prefetch=2),
            attach(1, priority=9),
            Leave(0, "kill"),
            Settle(1, "all", "ack"),
            Leave(1, "close"),
            attach(2),
            Publish(5),
        ],
    ),
    "who leaves while it quiesces": (
        "inbox",
        [Publish(3), attach(0), attach(1, priority=9), Leave(0, "close"), Leave(1, "kill"), attach(2), Publish(2)],
    ),
    "who dies while it quiesces for a second takeover": (
        "inbox",
        [
            Publish(5),
            attach(0, prefetch=2),
            attach(1, priority=9),
            Leave(1, "close"),
            attach(1, priority=9),
            Leave(0, "kill"),
            Settle(1, "all", "ack"),
            Leave(1, "close"),
            attach(2),
            Publish(5),
        ],
    ),
    "who cancels while it quiesces": (
        "inbox",
        [
            Publish(3),
            attach(0),
            attach(1, priority=9),
            Leave(0, "cancel"),
            Leave(0, "kill"),
            Leave(1, "kill"),
            attach(2),
        ],
    ),
    "a purge misses what consumers hold": (
        "backlog",
        [Publish(5), attach(0, prefetch=3), Purge(), Leave(0, "kill"), attach(0)],
    ),
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_is_the_same_on_the_model_and_on_the_broker(fact: str) -> None:
    kind, history = FACTS[fact]
    with twin(kind) as pair:
        pair.run(history)


@settings(
    max_examples=int(os.environ.get("PARTYMQ_MODEL_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@pytest.mark.parametrize("kind", ["inbox", "backlog", "classic"])
@given(history=histories)
def test_the_model_and_the_broker_look_the_same(kind: str, history: list[Step]) -> None:
    with twin(kind) as pair:
        pair.run(history)
