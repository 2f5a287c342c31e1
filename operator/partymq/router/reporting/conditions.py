"""The sentences that a group's conditions say.

Invariant: each says what is so, what it means for messages, and what a person can do about it.
"""

from collections.abc import Sequence
from typing import Final

from partymq.core.report import Condition
from partymq.core.spec import GroupConfig

SHOWN: Final = 5
"""Handoffs, troubles or messages that a condition names."""

BLOCKED: Final = Condition(
    ok=False,
    reason="BrokerBlocked",
    message="the broker takes no messages: it is short of memory or disk (`rabbitmqctl status` shows the alarm). "
    "Nothing is lost; routing goes on when the alarm is over",
)
NOT_ROUTING: Final = Condition(ok=False, reason="NotRouting", message="this process does not route the group now")
BACKLOG_FULL: Final = Condition(
    ok=False,
    reason="BacklogFull",
    message="members are slower than producers: the backlogs are at spec.backlog.limit and the source waits. Add pods",
)
ONE_AT_A_TIME: Final = (
    " one at a time for now, and so slowly: the broker ended the session before this one over something that was "
    "published, and until what was under way then has passed, each message waits until the one before it is stored"
)


def standby(config: GroupConfig) -> Condition:
    """Another router has the group."""
    return Condition(
        ok=False,
        reason="Standby",
        message="another router holds this group's journal; this one waits until it is gone. If no pod of this "
        "operator routes the group, a second PartyMQ (another cluster's, or `partymq serve`) uses the same virtual "
        "host, namespace and group name, and serves its own pods only: in the broker's management its connection "
        f"is called `partymq {config.group} ...`. Stop it, give each cluster a virtual host of its own, or "
        "rename the group",
    )


def refused(kept: Sequence[str]) -> Condition:
    """Messages that fit nowhere."""
    more = f"; and {len(kept) - SHOWN} more" if len(kept) > SHOWN else ""
    return Condition(
        ok=True,
        reason="MessageRefused",
        message=f"messages are routed, but for {'; '.join(kept[:SHOWN])}{more}: the broker refuses to take them again, "
        "and they stay unacknowledged where they were read. When it does (for one that is too large, raise "
        "max_message_size), they go to the dead queue",
    )


def stands(troubles: Sequence[str]) -> Condition:
    """Nothing more comes out of the source."""
    return Condition(
        ok=False,
        reason="SourceStands",
        message="nobody is given anything more out of the source: as many messages as may be unacknowledged are, for "
        f"the oldest of them wait. {listed(troubles)}. All goes on when that is mended, and nothing is lost",
    )


def nobody(config: GroupConfig) -> str:
    """There is no member."""
    if config.clients is not None:
        return (
            "no client is bound and ready, or consumes its inbox: messages wait in the source. Clients bind over "
            "HTTP; in a cluster pods opt in with the annotation partymq.io/group, too"
        )
    return (
        "no pod is ready and consumes its inbox: messages wait in the source. Pods opt in with the annotation "
        f"partymq.io/group: {config.group.name}"
    )


def listed(sentences: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f"; and {len(sentences) - SHOWN} more" if len(sentences) > SHOWN else ""
    return "; ".join(sentences[:SHOWN]) + more


def is_wrong(ready: Condition) -> bool:
    """Whether a person has to be told of it."""
    return not ready.ok and ready.reason not in ("Standby", "Paused", "NoMembers")
