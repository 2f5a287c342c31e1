import pytest

from partymq.core.hazards import LEASE, SHIELD_LIMIT, QueueFacts, absences, hazards, remarks, shield, transient
from partymq.core.names import Names
from partymq.core.spec import GroupId

NAMES = Names(GroupId(namespace="shop", name="orders"))
INBOX, BACKLOG = NAMES.inbox("worker-1"), NAMES.backlog(3)


def facts(name: str = "orders", **changes: object) -> QueueFacts:
    return QueueFacts(name=name, **changes)  # type: ignore[arg-type]


def found(*queues: QueueFacts) -> tuple[str, ...]:
    return hazards(NAMES, "orders", "/", {queue.name: queue for queue in queues})


@pytest.mark.parametrize(
    ("queue", "words"),
    [
        (facts(auto_delete=True), ("auto-delete", "Declare it anew")),
        (facts(exclusive=True), ("exclusive", "gone with it")),
        (facts(arguments={"x-expires": 60_000}), ("its argument x-expires", "60000 ms", "Declare it anew")),
        (facts(policy="old", definition={"expires": 5}), ("policy 'old'", "5 ms", "out of the policy")),
        (facts(operator_policy="op", definition={"expires": 5}), ("operator policy 'op'", "out of the policy")),
    ],
)
def test_a_queue_that_the_broker_deletes_by_itself_says_why_and_what_mends_it(
    queue: QueueFacts, words: tuple[str, ...]
) -> None:
    why = transient(queue)
    assert why is not None
    assert all(word in why for word in ("'orders'", *words))
    assert why in found(queue)


def test_a_queue_that_stays_is_fine() -> None:
    assert transient(facts(kind="quorum", arguments={"x-message-ttl": 5}, definition={"max-length": 3})) is None


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("message-ttl", 1000, "message-ttl 1000"),
        ("expires", 1000, "expires 1000"),
        ("max-length", 5, "max-length 5 with overflow drop-head drops"),
        ("max-length-bytes", 5, "max-length-bytes 5 with overflow drop-head drops"),
        ("delivery-limit", 20, "delivery-limit 20"),
        ("consumer-timeout", 60_000, "consumer-timeout 60000"),
        ("dead-letter-strategy", "at-least-once", "at-least-once"),
        ("dead-letter-exchange", "x", "dead-letter-exchange x"),
        ("delayed-retry-type", "all", "delayed-retry-type all"),
        ("federation-upstream-set", "all", "federation-upstream-set all"),
    ],
)
def test_a_policy_that_takes_from_our_queues_is_named_with_queue_policy_key_and_command(
    key: str, value: object, why: str
) -> None:
    (what,) = found(facts(BACKLOG, kind="quorum", policy="everything", definition={key: value}))
    assert all(word in what for word in (BACKLOG, "policy 'everything'", why, shield("/")))


def test_what_overflow_does_is_said() -> None:
    (what,) = found(facts(INBOX, policy="p", definition={"max-length": 5, "overflow": "reject-publish"}))
    assert "overflow reject-publish refuses" in what


@pytest.mark.parametrize(
    "definition",
    [
        {"delivery-limit": SHIELD_LIMIT},
        {"delivery-limit": -1},  # then the limit that the queue was declared with holds
        {"consumer-timeout": LEASE},
        {"overflow": "reject-publish"},
        {"queue-leader-locator": "balanced"},
        {"max-in-memory-length": 5},
        {"delayed-retry-type": "disabled"},
    ],
)
def test_a_policy_that_takes_nothing_is_not_named(definition: dict[str, object]) -> None:
    assert not found(facts(INBOX, kind="quorum", policy="p", definition=definition))


def test_an_inbox_has_a_dead_letter_exchange_of_its_own() -> None:
    definition = {"dead-letter-exchange": "x"}
    assert not found(facts(INBOX, policy="p", definition=definition), facts(NAMES.dead, definition=definition))


def test_many_queues_of_one_policy_are_one_sentence() -> None:
    queues = [facts(NAMES.backlog(p), policy="p", definition={"message-ttl": 5}) for p in range(64)]
    (what,) = found(*queues)
    assert "and 61 more" in what


def test_an_operator_policy_cannot_be_kept_off() -> None:
    (what,) = found(facts(INBOX, operator_policy="op", definition={"max-length": 5}))
    assert "operator policy 'op'" in what
    assert "set_policy" not in what
    assert "change the pattern" in what
    (both,) = found(facts(INBOX, policy="p", operator_policy="op", definition={"max-length": 5}))
    assert "policy 'p' or operator policy 'op'" in both
    assert "set_policy" in both


def test_other_groups_queues_are_not_ours() -> None:
    assert not found(facts("partymq.shop.other.inbox.x", policy="p", definition={"message-ttl": 5}))


@pytest.mark.parametrize(
    ("queue", "words"),
    [
        (facts(kind="quorum"), ("of 20", "default", "rabbitmqctl set_policy", "^orders$", str(SHIELD_LIMIT))),
        (facts(kind="quorum", policy="p", definition={"delivery-limit": 5}), ("of 5", 'add "delivery-limit"', "'p'")),
        (facts(kind="quorum", arguments={"x-delivery-limit": 5}), ("of 5", "x-delivery-limit", "declare it anew")),
        (facts(kind="quorum", arguments={"x-delivery-limit": -1}), ("no delivery limit", "newer messages")),
        (facts(definition={"consumer-timeout": 1000}, policy="p"), ("1000 ms", "policy 'p'", "consumer-timeout")),
        (facts(kind="quorum", definition={"delayed-retry-type": "all", "delivery-limit": SHIELD_LIMIT}), ("delayed",)),
    ],
)
def test_what_a_source_does_with_what_it_is_given_back_is_named(queue: QueueFacts, words: tuple[str, ...]) -> None:
    (what,) = found(queue)
    assert all(word in what for word in ("'orders'", *words))


@pytest.mark.parametrize(
    "queue",
    [
        facts(),
        facts(kind="quorum", arguments={"x-dead-letter-exchange": "dlx"}),
        facts(kind="quorum", definition={"dead-letter-exchange": "dlx"}),
        facts(kind="quorum", definition={"delivery-limit": SHIELD_LIMIT}),
        facts(kind="quorum", arguments={"x-delivery-limit": SHIELD_LIMIT}),
        facts(arguments={"x-message-ttl": 5, "x-max-length": 5}),
        facts(durable=False),
    ],
)
def test_a_source_that_keeps_what_it_is_given_back_is_safe(queue: QueueFacts) -> None:
    assert not found(queue)


def test_the_smaller_of_argument_and_policy_holds() -> None:
    queue = facts(kind="quorum", policy="p", arguments={"x-delivery-limit": 9}, definition={"delivery-limit": 3})
    assert (queue.value("delivery-limit"), queue.origin("delivery-limit")) == (3, "policy 'p'")
    queue = facts(kind="quorum", policy="p", arguments={"x-delivery-limit": 3}, definition={"delivery-limit": 9})
    assert (queue.value("delivery-limit"), queue.origin("delivery-limit")) == (3, "its argument x-delivery-limit")


def test_what_a_source_drops_because_it_is_meant_to_is_a_remark() -> None:
    assert remarks(None) == ()
    assert remarks(facts()) == ()
    assert "5 ms" in remarks(facts(arguments={"x-message-ttl": 5}))[0]
    assert not remarks(facts(arguments={"x-message-ttl": 5, "x-dead-letter-exchange": "dlx"}))
    assert "max-length 5" in remarks(facts(policy="p", definition={"max-length": 5}))[0]
    assert not remarks(facts(arguments={"x-max-length": 5, "x-overflow": "reject-publish"}))
    assert "not durable" in remarks(facts(durable=False))[0]


def test_a_command_can_be_pasted_into_a_shell() -> None:
    assert shield("a b") == (
        "`rabbitmqctl set_policy --vhost 'a b' --apply-to all --priority 1000 partymq '^partymq\\.' "
        "'{\"delivery-limit\":1000000}'`"
    )


def test_a_member_is_absent_where_the_node_runs_and_it_does_not() -> None:
    nodes = frozenset({"n1", "n2", "n3"})
    whole, lacks = facts("whole", members=nodes, online=nodes), facts("lacks", members=nodes, online=nodes - {"n3"})
    assert absences([whole, lacks]) == {"lacks": {"n3"}}
    assert not absences([lacks, facts("classic")]), "the node may be away"
    assert not absences([whole, facts("unknown", members=nodes)]), "nobody says where it runs"


@pytest.mark.parametrize("name", [INBOX, "orders"])
def test_a_queue_without_a_member_on_a_node_is_named_with_what_mends_it(name: str) -> None:
    (told,) = found(facts(name, absent=frozenset({"rabbit@n3"})))
    assert f"{name!r} has no member on rabbit@n3, which runs" in told
    assert f"`rabbitmq-queues delete_member --vhost / {name} rabbit@n3`" in told
    assert f"`rabbitmq-queues add_member --vhost / {name} rabbit@n3`" in told
