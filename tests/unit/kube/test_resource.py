"""What people write into a PartitionGroup becomes values, or a sentence that names the field."""

import pytest

from partymq.core.spec import DeletionPolicy, GroupId, GroupSpec, KeyFrom, KeySpec, OnMissing, OnTimeout
from partymq.errors import InvalidSpecError
from partymq.kube.resource import deletion_policy, group_spec, resource, secret_name
from support.fake_kubernetes import ORDERS, group_body

MINIMAL = {"broker": {"connectionSecret": {"name": "rabbitmq"}}, "source": {"queue": "orders"}}


def test_what_is_not_said_has_the_default_of_the_core() -> None:
    assert group_spec(ORDERS, MINIMAL) == GroupSpec(source_queue="orders")


def test_everything_that_can_be_said_arrives() -> None:
    spec = {
        **MINIMAL,
        "key": {"from": "body", "name": "/customer/id", "onMissing": "deadLetter"},
        "partitions": 12,
        "inbox": {"window": 5},
        "backlog": {"limit": 0},
        "members": {"rejoinSeconds": 0},
        "rebalance": {"delaySeconds": 7},
        "handoff": {"timeoutSeconds": 60, "onTimeout": "CloseConnection"},
        "deletionPolicy": "Delete",
        "paused": True,
    }
    assert group_spec(ORDERS, spec) == GroupSpec(
        source_queue="orders",
        key=KeySpec(source=KeyFrom.BODY, name="/customer/id", on_missing=OnMissing.DEAD_LETTER),
        partitions=12,
        inbox_window=5,
        backlog_limit=0,
        rejoin_seconds=0,
        rebalance_delay=7,
        handoff_timeout=60,
        on_timeout=OnTimeout.CLOSE_CONNECTION,
        deletion_policy=DeletionPolicy.DELETE,
        paused=True,
    )
    assert secret_name(spec) == "rabbitmq"


def test_a_routing_key_needs_no_name() -> None:
    assert group_spec(ORDERS, {**MINIMAL, "key": {"from": "routingKey"}}).key.source is KeyFrom.ROUTING_KEY


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"source": None}, r"spec\.source is missing"),
        ({"source": {}}, r"spec\.source\.queue is missing; it must be a text"),
        ({"source": {"queue": 5}}, r"spec\.source\.queue is 5; it must be a text"),
        (
            {"source": {"queue": "partymq.shop.x.dead"}},
            r"PartyMQ's own, with `amq\.` the broker's\. Name a queue of yours",
        ),
        ({"source": {"queue": "amq.gen-1"}}, "Name a queue of yours"),
        ({"source": {"queue": "ä" * 128}}, "more than 255 bytes"),
        ({"key": {"from": "header"}}, r"spec\.key\.name is missing"),
        (
            {"key": {"from": "topic", "name": "a"}},
            r"spec\.key\.from is 'topic'; it must be header or body or property or routingKey",
        ),
        (
            {"key": {"name": "a", "onMissing": "drop"}},
            r"spec\.key\.onMissing is 'drop'; it must be spread or deadLetter",
        ),
        ({"key": {"from": "property", "name": "customer"}}, r"no property of AMQP messages\. Use app_id, .*user_id"),
        ({"key": {"from": "body", "name": "/a~b"}}, r"no JSON pointer \(RFC 6901\)"),
        ({"key": {"from": "header", "name": "ü" * 128}}, "more than 255 bytes"),
        ({"key": "customer"}, r"spec\.key is missing"),
        ({"partitions": 0}, r"spec\.partitions is 0; it must be a whole number from 1 to 4096"),
        ({"partitions": 4097}, r"from 1 to 4096"),
        ({"partitions": True}, r"spec\.partitions is True; it must be a whole number"),
        ({"inbox": {"window": 0}}, r"spec\.inbox\.window is 0"),
        ({"backlog": {"limit": -1}}, r"spec\.backlog\.limit is -1"),
        ({"members": {"rejoinSeconds": "30"}}, r"spec\.members\.rejoinSeconds is '30'"),
        ({"rebalance": {"delaySeconds": -1}}, r"spec\.rebalance\.delaySeconds is -1"),
        ({"handoff": {"timeoutSeconds": 0}}, r"spec\.handoff\.timeoutSeconds is 0"),
        ({"handoff": {"onTimeout": "Kill"}}, r"spec\.handoff\.onTimeout is 'Kill'; it must be Wait or CloseConnection"),
        ({"deletionPolicy": "Keep"}, r"spec\.deletionPolicy is 'Keep'; it must be DeleteEmpty or Delete"),
        ({"paused": "yes"}, r"spec\.paused is 'yes'; it must be true or false"),
    ],
)
def test_a_mistake_is_refused_with_a_sentence_that_names_the_field(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(InvalidSpecError, match=sentence):
        group_spec(ORDERS, MINIMAL | changes)


@pytest.mark.parametrize(
    ("broker", "sentence"),
    [
        (None, r"spec\.broker is missing"),
        ({}, r"spec\.broker\.connectionSecret is missing"),
        ({"connectionSecret": {}}, r"spec\.broker\.connectionSecret\.name is missing"),
    ],
)
def test_a_missing_secret_reference_is_refused(broker: object, sentence: str) -> None:
    with pytest.raises(InvalidSpecError, match=sentence):
        secret_name({**MINIMAL, "broker": broker})


def test_a_name_that_could_be_another_groups_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match="without dots"):
        group_spec(GroupId(namespace="shop", name="a.inbox"), MINIMAL)


def test_an_unusable_deletion_policy_deletes_no_messages() -> None:
    assert deletion_policy({"deletionPolicy": "Everything"}) is DeletionPolicy.DELETE_EMPTY


def test_the_frame_is_read() -> None:
    body = group_body()
    body["metadata"] |= {
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "annotations": {"partymq.io/force-delete": "true"},
    }
    read = resource(body)
    assert (read.group, read.uid, read.generation, read.deleting, read.forced) == (ORDERS, "uid-orders", 1, True, True)
    body["metadata"] |= {"annotations": {"partymq.io/force-delete": "false"}}
    assert not resource(body).forced


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "a/b",
        "a%2fb",
        "../other/secrets/x",
        "a;rm -rf /",
        "$(id)",
        "a b",
        "A",
        "-a",
        "a-",
        "a..b",
        "a\n",
        "ä",
        "x" * 254,
    ],
)
def test_a_name_that_no_secret_has_is_refused_where_it_is_read(name: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"connectionSecret\.name") as caught:
        secret_name({"broker": {"connectionSecret": {"name": name}}})
    assert str(caught.value).isprintable()
    assert "kubectl -n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a", "rabbitmq-default-user", "a.b", "0", "x" * 253])
def test_names_of_secrets_are_read(name: str) -> None:
    assert secret_name({"broker": {"connectionSecret": {"name": name}}}) == name


def test_what_somebody_wrote_into_a_spec_is_cut_and_escaped() -> None:
    for spec in (
        {"source": {"queue": {"a": "\x1b" * 60_000}}},
        {"source": {"queue": "q"}, "partitions": "\x1b" * 60_000},
    ):
        with pytest.raises(InvalidSpecError) as caught:
            group_spec(GroupId(namespace="shop", name="orders"), spec)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
