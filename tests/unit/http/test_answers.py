"""What is sent stays as it was, to the letter, and is what the document says of it."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from partymq.core.clients import ClientKind
from partymq.core.ledger import Ledger, admit, begin_handoff, claim, empty
from partymq.core.pinning import bind, pin, ready
from partymq.core.spec import ClientsSpec
from partymq.http import views
from partymq.http.answers import Answer, BindingAnswer, GroupHealth, HealthAnswer, NotBoundAnswer, sent
from partymq.http.openapi import DOCUMENT
from partymq.http.problems import problem
from partymq.router.broker.queue_troubles import Trouble
from partymq.router.flow.statistics import LaneStatistics
from support.snapshots import NAMES, snapshot

SPEC = ClientsSpec(exchange="x")
INBOX = NAMES.inbox("managed")


def body(answer: Answer) -> str:
    text = sent(answer).text
    assert text is not None
    return text


def group() -> Ledger:
    """A plain client with a slot, one that is pending, and a managed one that hands partition 3 off and keeps 2."""
    ledger = ready(bind(empty(4), name="plain", kind=ClientKind.PLAIN), name="plain")
    ledger = bind(ledger, name="pending", kind=ClientKind.PLAIN)
    ledger = admit(bind(ledger, name="managed", kind=ClientKind.MANAGED), {"managed"})
    return claim(pin(ledger, {5: "plain"}), {2: "managed"})


SEEN = snapshot(ledger=group())
MOVING = snapshot(
    ledger=begin_handoff(group(), handoff_id="1.1", donor="managed", targets={2: "plain"}),
    troubles={
        INBOX: Trouble(reason="Refused", message="it is refused"),
        "client plain": Trouble(reason="Full", message="it is full"),
    },
)
SLOW = snapshot(ledger=group(), lanes={2: LaneStatistics(owner="managed", owner_full=True)})


CLIENT = '{"hostname": "plain", "kind": "plain", "state": "ready", "partitions": "", '
PLAIN = CLIENT + '"routingKey": "partymq.partition-plain", "exchange": "x", "slots": 1'
MANAGED = f'{{"hostname": "managed", "kind": "managed", "state": "joining", "partitions": "2", "queue": "{INBOX}"'
HELD = '"owner": "managed", "state": "held", "waitingFor": "its handoff to go on (managed hands off)"'
WAITING = '"state": "waiting", "waitingFor": "managed to work off its inbox"'
GROUP = GroupHealth(ready=False, routing=True, reason="NotRouting", message="wait")
SHOWN = '{"ready": false, "routing": true, "reason": "NotRouting", "message": "wait"}'
SENT: list[tuple[str, Answer, str]] = [
    ("Client", views.client("plain", SEEN, NAMES, SPEC), PLAIN + "}"),
    ("Client", views.client("plain", MOVING, NAMES, SPEC), PLAIN + ', "waitingFor": "it is full"}'),
    ("Client", views.client("managed", SEEN, NAMES, SPEC), MANAGED + "}"),
    ("Client", views.client("managed", MOVING, NAMES, SPEC), MANAGED + ', "waitingFor": "it is refused"}'),
    ("Key", views.key("k0", MOVING), f'{{"key": "k0", "partition": 2, "slot": 27862, {HELD}}}'),
    ("Key", views.key("k2", SEEN), '{"key": "k2", "partition": 0, "slot": 32712, "owner": null, "state": "open"}'),
    (
        "Partition",
        views.partitions(SEEN)[1],
        '{"partition": 1, "owner": null, "slots": {"plain": 1}, "state": "open"}',
    ),
    (
        "Partition",
        views.partitions(SLOW)[2],
        f'{{"partition": 2, "owner": "managed", "slots": {{}}, {WAITING}}}',
    ),
    ("Binding", BindingAnswer(routing_key="r", exchange="x"), '{"routingKey": "r", "exchange": "x"}'),
    (
        "Binding",
        BindingAnswer(routing_key="r", exchange="x", queue="q"),
        '{"routingKey": "r", "exchange": "x", "queue": "q"}',
    ),
    ("Health", HealthAnswer(status="ok"), '{"status": "ok"}'),
    ("Health", HealthAnswer(status="ok", groups={}), '{"status": "ok", "groups": {}}'),
    ("Health", HealthAnswer(status="ok", groups={"g": GROUP}), f'{{"status": "ok", "groups": {{"g": {SHOWN}}}}}'),
    ("", NotBoundAnswer(bound=False, detail="bind"), '{"bound": false, "detail": "bind"}'),
]


@pytest.mark.parametrize(("component", "answer", "text"), SENT, ids=[text[:40] for *_, text in SENT])
def test_an_answer_is_sent_and_described_as_it_is(component: str, answer: Answer, text: str) -> None:
    assert body(answer) == text
    if component:  # one that is not described: most heartbeats have no body
        described(component, json.loads(text))


@pytest.mark.parametrize(("reason", "more"), [("", ""), ("NotRouting", ', "reason": "NotRouting"')])
def test_a_problem_has_a_reason_where_there_is_one(reason: str, more: str) -> None:
    text = problem(503, "ask again", reason).text
    assert text == (
        f'{{"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "ask again"{more}}}'
    )
    described("Problem", json.loads(text))


def described(component: str, found: object) -> None:
    schema: dict[str, Any] = {**DOCUMENT, "$ref": f"#/components/schemas/{component}"}
    Draft202012Validator(schema).validate(found)
    assert isinstance(found, dict)
    assert found.keys() <= DOCUMENT["components"]["schemas"][component]["properties"].keys()


def test_what_lacks_a_field_is_not_what_is_described() -> None:
    with pytest.raises(Exception, match="'exchange' is a required property"):
        described("Binding", {"routingKey": "r"})
