"""What a PartitionGroup's spec may say: every field, declared once.

Invariant: names, defaults, bounds and descriptions of fields stand here and nowhere else. Resources and the file of
`partymq serve` are read by it (`core/spec_reader.py`); `make generate` makes the kind's schema in `crds/`, the chart's
copy and `docs/reference.md` out of it.
"""

import re
from typing import Final

from partymq.core.choices import DeletionPolicy, KeyFrom, OnMissing, OnTimeout
from partymq.core.fields import Choice, Field, Flag, Number, Rule, Section, Text
from partymq.core.window import MAX_WINDOW

MOST_BYTES: Final = 255
"""Of the name of a queue or a header, in UTF-8."""

KEY_PROPERTIES: Final = (
    "app_id",
    "content_encoding",
    "content_type",
    "correlation_id",
    "message_id",
    "priority",
    "reply_to",
    "type",
    "user_id",
)
"""The properties of a message that can hold a key; the others say how it is delivered."""

_NO_ESCAPE: Final = re.compile("~(?![01])")


def is_pointer(name: str) -> bool:
    """Whether a name that begins with `/` is a JSON pointer (RFC 6901)."""
    return not _NO_ESCAPE.search(name)


def _fits(name: str) -> bool:
    return len(name.encode()) <= MOST_BYTES


def _is_not_reserved(queue: str) -> bool:
    # The API server refuses all of `partymq.`. All of PartyMQ's own have a namespace and a group in their names; the
    # source that `partymq serve` has by default is not among them.
    return not queue.startswith("amq.") and not (queue.startswith("partymq.") and queue.count(".") > 2)


BROKER: Final = Section(
    path="broker",
    description="The RabbitMQ broker (4.0 or newer) that holds the source and the group's queues.",
)
CONNECTION_SECRET: Final = Section(
    path="broker.connectionSecret",
    description=(
        "The Secret, in the group's namespace, that says how to connect. Its keys: `uri` (such as "
        "amqps://user:password@host:5671/vhost), or `host`, `port`, `username`, `password` and, optionally, "
        "`vhost`. Several nodes of a cluster are listed with commas, each with or without a port "
        "(amqp://user:password@n1,n2:5673/ or `host` n1,n2): one that does not answer is passed over. Optionally "
        "`ca.crt`, `tls.crt` and `tls.key` for TLS; optionally `management-uri`, the address of the broker's "
        "management API (such as https://host:15671, with user:password@ if that is another user) where it is not "
        "at port 15672 (15671 with TLS) of the same hosts. It is used to look at consumers and for "
        "handoff.onTimeout, and routing does not need it. The Secrets `<cluster>-default-user` of the RabbitMQ "
        "cluster operator can be used as they are. A changed Secret is noticed within a minute."
    ),
)
SOURCE: Final = Section(
    path="source",
    description="Where the messages come from.",
)
KEY: Final = Section(
    path="key",
    description=(
        "Where a message's key stands. Messages with the same key are handled in order and by one pod at a time. "
        "Changing it while messages are under way lets two pods hold one key for a while."
    ),
    rules=(
        Rule(
            cel="self.from == 'routingKey' || has(self.name)",
            message=(
                "key.name is needed with key.from header, body or property: the header, the JSON field (or JSON "
                "pointer), or the property that holds the key"
            ),
            holds=lambda key: key["from"] == KeyFrom.ROUTING_KEY or "name" in key,
        ),
        Rule(
            cel=f"self.from != 'property' || !has(self.name) || self.name in {list(KEY_PROPERTIES)}",
            message=(
                "key.name must be a property of AMQP messages with key.from property: "
                f"{', '.join(KEY_PROPERTIES[:-1])} or {KEY_PROPERTIES[-1]}"
            ),
            holds=lambda key: key["from"] != KeyFrom.PROPERTY or key["name"] in KEY_PROPERTIES,
            refusal=f"is {{value}}, no property of AMQP messages. Use {', '.join(KEY_PROPERTIES)}.",
        ),
        Rule(
            cel=(
                "self.from != 'body' || !has(self.name) || !self.name.startsWith('/') || "
                "!self.name.matches('~([^01]|$)')"
            ),
            message="key.name is not a JSON pointer (RFC 6901): `~` must be written `~0` and a `/` within a name `~1`",
            holds=lambda key: key["from"] != KeyFrom.BODY or not key["name"].startswith("/") or is_pointer(key["name"]),
            refusal="is {value}, no JSON pointer (RFC 6901). Write `~` as `~0` and `/` in a name as `~1`.",
        ),
    ),
)

SECTIONS: Final = (
    BROKER,
    CONNECTION_SECRET,
    SOURCE,
    KEY,
    Section(path="inbox", description="The queues that pods consume."),
    Section(path="backlog", description="The queues of messages that may not go to a pod yet."),
    Section(path="members", description="How pods come and go."),
    Section(path="rebalance", description="How partitions are moved between pods."),
    Section(
        path="rollout", description="What happens while pods of an owner are replaced by pods of a newer generation."
    ),
    Section(path="handoff", description="Taking partitions from a pod that still works on their messages."),
)

SECRET_NAME: Final = Text(
    path="broker.connectionSecret.name",
    description="The Secret's name.",
    change="The group connects anew. At another broker it finds none of its queues; what waits in them stays.",
    longest=253,
    # It becomes a part of a path at the API server, and of a command that people are told to run.
    pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    refusal=(
        "is {value}, and no Secret has such a name: use at most 253 lower-case letters, digits, hyphens and dots, "
        "which do not stand first or last."
    ),
)
SOURCE_QUEUE: Final = Text(
    path="source.queue",
    description=(
        "An existing classic or quorum queue. Producers go on publishing to it as before; PartyMQ must be its only "
        "consumer, because any other one would take messages out of the order."
    ),
    change="The other queue is read. What came from the old one is still handed on, what is in it stays there.",
    longest=MOST_BYTES,
    refusal="has more than 255 bytes: the broker has no queue of that name.",
    rules=(
        Rule(
            cel="!self.startsWith('partymq.') && !self.startsWith('amq.')",
            message=(
                "source.queue must not begin with `partymq.` (PartyMQ's own queues) or `amq.` (the broker's own): "
                "name a queue of yours"
            ),
            holds=_is_not_reserved,
            refusal=(
                "is {value}: names that begin with `partymq.` are PartyMQ's own, with `amq.` the broker's. "
                "Name a queue of yours."
            ),
        ),
        Rule(
            cel="bytes(self).size() <= 255",
            message="source.queue must have at most 255 bytes in UTF-8, as every queue's name",
            holds=_fits,
            refusal="has more than 255 bytes: the broker has no queue of that name.",
        ),
    ),
)
KEY_FROM: Final = Choice(
    path="key.from",
    description=(
        "`header`: the AMQP header `name`. `body`: a field of a JSON body. `property`: the AMQP property `name`, "
        "such as correlation_id. `routingKey`: the routing key that the message was published with."
    ),
    change="Two pods may hold one key for a while: pause the group first, and let the pods work off what they have.",
    default=KeyFrom.HEADER,
)
KEY_NAME: Final = Text(
    path="key.name",
    description=(
        "The header, the property, or in a JSON body the top-level field (`customer`) or the JSON pointer "
        "(`/order/customer`). Not used with `from: routingKey`."
    ),
    change="As for `key.from`.",
    longest=MOST_BYTES,
    required=False,
    with_section="partitionKey",
    refusal="has more than 255 bytes: no header has a name of that length.",
    rules=(
        Rule(
            cel="bytes(self).size() <= 255",
            message="key.name must have at most 255 bytes in UTF-8, as every header's name",
            holds=_fits,
            refusal="has more than 255 bytes: no header has a name of that length.",
        ),
    ),
)
KEY_ON_MISSING: Final = Choice(
    path="key.onMissing",
    description=(
        "What happens to messages without a usable key. `spread`: any pod gets them, in no particular order. "
        "`deadLetter`: they go to the queue `partymq.<namespace>.<group>.dead`."
    ),
    change="It holds for messages that come from then on.",
    default=OnMissing.SPREAD,
)
PARTITIONS: Final = Number(
    path="partitions",
    description=(
        "Into how many partitions the keys are divided. It bounds how many pods can work at the same time; several "
        "times the most pods that you expect divides the work evenly. Fixed while the group exists."
    ),
    change=(
        "It is refused; [another number of partitions](troubleshooting.md#another-number-of-partitions) says what to "
        "do instead."
    ),
    unit="partitions",
    default=64,
    least=1,
    most=4096,
    rules=(
        Rule(
            cel="self == oldSelf",
            message=(
                "spec.partitions cannot be changed, because keys would move between partitions while their messages"
                " are under way. For another number set spec.paused, wait until the pods have worked off what they "
                "have and status.messages.backlog is 0, delete this PartitionGroup (the source keeps what is in "
                "it), and create it again under the same name. If an Event QueuesKept names a queue, it still held "
                'messages: see docs/troubleshooting.md, "Another number of partitions"'
            ),
            holds=lambda _: True,  # what it was stands in the journal, and a session refuses another number
        ),
    ),
)
INBOX_WINDOW: Final = Number(
    path="inbox.window",
    description=(
        "Most messages that stand ready in a pod's inbox; more wait in the partitions' backlogs. Smaller values "
        "make handoffs shorter, larger ones serve fast consumers better."
    ),
    change="An inbox that has more than a smaller window is given nothing until it has less.",
    unit="messages",
    default=256,
    least=1,
    most=MAX_WINDOW,
)
BACKLOG_LIMIT: Final = Number(
    path="backlog.limit",
    description=(
        "Most messages that wait in all backlogs of the group together. Beyond it the group stops consuming the "
        "source until room is made, and messages stay in the source."
    ),
    change="While more than a smaller limit waits, the source is not read.",
    unit="messages",
    default=100_000,
    least=0,
    most=1_000_000_000,
    wide=True,
)
REJOIN_SECONDS: Final = Number(
    path="members.rejoinSeconds",
    description=(
        "How long a pod that is not ready, has no consumer, or belongs to a StatefulSet and is away keeps its "
        "partitions, so that a restart moves nothing. 0 moves them at once."
    ),
    change="Pods that are away are given the new time from then on.",
    unit="seconds",
    default=30,
    least=0,
    most=86_400,
)
REBALANCE_DELAY: Final = Number(
    path="rebalance.delaySeconds",
    description=(
        "How long new pods are collected before partitions are moved to them from pods that stay. What a pod that "
        "leaves has owned, and what nobody owns, does not wait for this."
    ),
    change="It holds for the next change of pods.",
    unit="seconds",
    default=2,
    least=0,
    most=3600,
)
ROLLOUT_PATIENCE: Final = Number(
    path="rollout.patienceSeconds",
    description=(
        "While a Deployment (or Argo Rollout), StatefulSet or DaemonSet has pods of several generations, what an "
        "old pod leaves goes to a new one, and new pods wait for that instead of taking partitions from everybody. "
        "When no pod of it was made, became ready or began to terminate for this long, it is a rollout no more "
        "until it goes on, and partitions are balanced as usual. 0 turns this off."
    ),
    change="It holds for a rollout that is under way, too.",
    unit="seconds",
    default=60,
    least=0,
    most=86_400,
)
HANDOFF_TIMEOUT: Final = Number(
    path="handoff.timeoutSeconds",
    description=(
        "How long a pod may hold messages of partitions that move. Then the condition Balanced and an Event name it"
        " (HandoffOverdue), and `onTimeout` applies. Other partitions go on meanwhile."
    ),
    change="It holds for handoffs that are under way, too; their time goes on.",
    unit="seconds",
    default=300,
    least=1,
    most=86_400,
)
ON_TIMEOUT: Final = Choice(
    path="handoff.onTimeout",
    description=(
        "`Wait`: the partitions wait until the pod has acknowledged its messages or its connection is gone. "
        "`CloseConnection`: the operator closes the pod's connection through the broker's management API; what it "
        "held is delivered again, to the new owners, in order. It tries again every 30 seconds at most. The user "
        "needs the tag `administrator`, or `management` if the pods connect as the same user."
    ),
    change="It holds for handoffs that are under way, too.",
    default=OnTimeout.WAIT,
)
DELETION_POLICY: Final = Choice(
    path="deletionPolicy",
    description=(
        "Which of the group's queues are deleted with it. `DeleteEmpty`: those without messages; an Event names the"
        " others. `Delete`: all of them, messages included."
    ),
    change="What it is when the group is deleted counts.",
    default=DeletionPolicy.DELETE_EMPTY,
)
PAUSED: Final = Flag(
    path="paused",
    description="True stops consuming the source; what is under way reaches its pod.",
    change="True stops the reading of the source, false begins it again.",
    default=False,
)

FIELDS: Final[tuple[Field, ...]] = (
    SECRET_NAME,
    SOURCE_QUEUE,
    KEY_FROM,
    KEY_NAME,
    KEY_ON_MISSING,
    PARTITIONS,
    INBOX_WINDOW,
    BACKLOG_LIMIT,
    REJOIN_SECONDS,
    REBALANCE_DELAY,
    ROLLOUT_PATIENCE,
    HANDOFF_TIMEOUT,
    ON_TIMEOUT,
    DELETION_POLICY,
    PAUSED,
)
