"""The same group is the same picture, whether a resource's status or the clients API is asked."""

from typing import Any

from demo.picture import NOBODY, Member, Shares, of_api, of_resource

ALPHA = {"name": "alpha", "state": "Active", "partitions": "0-1"}
BRAVO = {"name": "bravo", "state": "Leaving", "partitions": "2-3"}
READY = {"reason": "Routing", "message": "messages are routed"}


def shares_by_status(**status: object) -> Shares:
    return of_resource({"status": {"conditions": [{"type": "Ready", **READY}], "partitions": {"total": 5}, **status}})


def shares_by_api(*partitions: dict[str, Any]) -> Shares:
    clients = [{**one, "hostname": one["name"], "state": one["state"].lower()} for one in (ALPHA, BRAVO)]
    return of_api(READY, clients, partitions)


def test_both_sides_give_the_same() -> None:
    direct = [{"partition": p, "state": "direct"} for p in range(4)]
    by_api = shares_by_api(*direct, {"partition": 4, "state": "unassigned", "waitingFor": "a client"})
    assert by_api == shares_by_status(members=[ALPHA, BRAVO])
    assert by_api.holders == ("alpha", "alpha", "bravo", "bravo", NOBODY)
    assert by_api.says == "Routing: messages are routed"
    assert by_api.counts() == "alpha 2, bravo 2"
    assert by_api.members[1] == Member(name="bravo", state="Leaving", partitions=(2, 3))


def test_what_changes_hands_is_nobodys_and_says_what_it_waits_for() -> None:
    handoff = {"id": "2.1", "donor": "bravo", "phase": "Draining", "partitions": "3", "waitingFor": "bravo to finish"}
    by_status = shares_by_status(members=[ALPHA, BRAVO], handoffs=[handoff])
    assert by_status.holders == ("alpha", "alpha", "bravo", NOBODY, NOBODY)
    assert by_status.handoffs == ("handoff 2.1 from bravo: Draining, bravo to finish",)
    direct = [{"partition": p, "state": "direct"} for p in range(3)]
    held = {"partition": 3, "state": "held", "waitingFor": "bravo to finish"}
    by_api = shares_by_api(*direct, held, {"partition": 4, "state": "held", "waitingFor": "bravo to finish"})
    assert by_api.holders == ("alpha", "alpha", "bravo", NOBODY, NOBODY)
    assert by_api.handoffs == ("2 partitions change hands and wait for bravo to finish",)


def test_who_has_nothing_does_not_count() -> None:
    assert shares_by_status(members=[ALPHA, {"name": "delta", "state": "Joining"}]).counts() == "alpha 2"


def test_a_group_without_a_status_has_nobody() -> None:
    assert of_resource({}) == of_api({}, [], []) == Shares(says="waiting")
