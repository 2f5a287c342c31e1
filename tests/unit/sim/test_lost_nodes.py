"""A node of the broker is lost, with the connections of routers and clients to it, while messages are routed.

The queues go on counting its consumers, and give them messages again when it is back: no history may lose, repeat or
reorder a message over that, or wait for longer than until the node is there.
"""

import os
from random import Random

import pytest

from partymq.router.flow.source_reader import PREFETCH
from unit.sim.script import MEMBERS, Act, Join, Leave, LoseNode, Outcome, Produce, Step, Trouble, play
from unit.sim.test_router import check
from unit.sim.world import Setting

EXAMPLES = int(os.environ.get("PARTYMQ_SIM_EXAMPLES", "30"))
AWAY = 18.0
"""Seconds within which everything that does not wait for the node goes on, with some to spare."""


def _began(outcome: Outcome, what: str, *, after: str = "") -> float:
    """When something happened first, by the log, after something else."""
    first = next((number for number, line in enumerate(outcome.log) if after in line), len(outcome.log))
    return next((float(line.split()[0]) for line in outcome.log[first:] if what in line), float("inf"))


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("listed", [False, True])
def test_a_classic_source_goes_on_while_the_node_of_the_router_is_away(keeps: bool, listed: bool) -> None:
    away = AWAY if listed else 80.0  # without the management API it takes a minute
    for seed in range(6):
        setting = Setting(seed=seed, pace="uneven", quorum_source=False, nodes=True, keeps=keeps, listed=listed)
        script = [Act(Produce(20, 6), 1.0), Act(LoseNode("router", away), away - 1.0), Act(Produce(20, 6), 3.0)]
        outcome = play(setting, script, begin=2.0)
        check(outcome)
        if any("is lost for" in line for line in outcome.log):
            assert _began(outcome, "router_up") < _began(outcome, "is back")


@pytest.mark.parametrize("keeps", [False, True])
def test_a_quorum_source_waits_for_the_node(keeps: bool) -> None:
    for seed in range(5):
        script = [
            Act(Produce(60, 6, 0.002), 0.05),
            Act(LoseNode("router", 20.0), 19.0),
            Act(Produce(60, 6, 0.002), 3.0),
        ]
        check(play(Setting(seed=seed, pace="uneven", nodes=True, keeps=keeps), script, begin=2.0))


@pytest.mark.parametrize("keeps", [False, True])
def test_a_quorum_source_with_a_single_active_consumer_does_not_wait_for_the_node(keeps: bool) -> None:
    """RabbitMQ 4.3 keeps what the lost router held of it for a minute, unless it is told otherwise."""
    away = 90.0 if keeps else AWAY
    for seed in range(6):
        setting = Setting(seed=seed, pace="uneven", one_reader=True, nodes=True, keeps=keeps)
        loss = [Act(Produce(60, 6, 0.002), 0.05), Act(LoseNode("router", away), away - 1.0)]
        outcome = play(setting, [*loss, Act(Produce(60, 6, 0.02), 3.0)], begin=2.0)
        check(outcome)
        if any("is lost for" in line for line in outcome.log):
            assert _began(outcome, "acked", after="router_up") < _began(outcome, "is back")


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("keeps", [False, True])
def test_backlogs_of_slow_members_are_read_when_the_node_is_lost(keeps: bool, older: bool) -> None:
    for seed in range(4):
        script = [
            *(Act(Trouble(name, "slow"), 0.0) for name in "ab"),
            Act(Produce(60, 6), 1.5),
            Act(LoseNode("router", AWAY), AWAY - 3.0),
            Act(Produce(20, 1), 2.9),
            Act(Produce(200, 1, 0.001), 3.0),
        ]
        setting = Setting(seed=seed, pace="rough", quorum_source=False, nodes=True, keeps=keeps, older=older)
        outcome = play(setting, script, begin=2.0)
        check(outcome)
        if not older and any("is lost for" in line for line in outcome.log):
            assert _began(outcome, "router_up") < _began(outcome, "is back")


@pytest.mark.parametrize("takeover", ["before", "after"])
def test_clients_are_lost_with_their_node_and_taken_over(takeover: str) -> None:
    """While RabbitMQ 4.3 keeps what they held, a takeover must not begin, nor wait for the client to come back."""
    for seed in range(24):
        random = Random(seed)
        loss = Act(LoseNode("a", random.uniform(1.0, 12.0)), random.choice([0.0, 0.3, 1.0]))
        join = Act(Join("c"), random.choice([0.05, 0.3, 1.0]))
        script = [
            Act(Produce(30, 6, 0.003), 0.1),
            *(Act(Trouble(name, "stuck"), 0.1) for name in "ab"),
            *([join, loss] if takeover == "before" else [loss, join]),
            *(Act(Trouble(name, "works"), 0.1) for name in "ab"),
            Act(Produce(20, 6, 0.003), 2.0),
        ]
        older = takeover == "after" and seed % 2 == 1
        setting = Setting(seed=seed, pace="rough", nodes=True, keeps=True, older=older, zombies=True)
        check(play(setting, script, begin=2.0))


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_no_history_with_lost_nodes_breaks_a_promise(seed: int) -> None:
    random = Random(seed)
    setting = Setting(
        seed=seed,
        pace=random.choice(["even", "uneven", "rough"]),
        members=random.randint(1, 3),
        prefetch=random.choice([1, 2, 4]),
        window=random.choice([2, 6, 20]),
        routers=random.randint(1, 2),
        quorum_source=random.random() < 0.5,
        one_reader=random.random() < 0.5,
        source_prefetch=random.choice([5, PREFETCH]),
        silences=random.random() < 0.3,
        soft_limit=random.choice([1, 2, 32]),
        budget=random.choice([150, 1500, 1 << 28]),
        listed=random.random() < 0.8,
        keeps=random.random() < 0.5,
        nodes=True,
        older=random.random() < 0.2,
    )
    script = [Act(_step(random), random.choice([0.0, 0.01, 0.1, 0.4, 1.0, 2.5])) for _ in range(random.randint(3, 9))]
    loss = Act(LoseNode("router", random.choice([1.0, 3.0, 8.0, 15.0])), random.choice([0.1, 1.0, 4.0, 10.0]))
    check(play(setting, [Act(Produce(30, 8, 0.005), 0.1), loss, *script], begin=2.0))


def _step(random: Random) -> Step:
    member = random.choice(MEMBERS)
    steps: list[Step] = [
        Join(member),
        Leave(member, random.choice(["closed", "drained", "killed"])),
        Produce(random.randint(5, 40), 8, random.choice([0.0, 0.003, 0.02])),
        Trouble(member, random.choice(["slow", "stuck", "works", "lost"])),
        LoseNode(random.choice(["router", *MEMBERS]), random.choice([1.0, 3.0, 8.0, 15.0])),
    ]
    return random.choice(steps)
