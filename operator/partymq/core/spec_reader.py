"""A group's spec, as a resource or a file says it, read into values.

Invariant: every field of `core/schema.py` is read here, and nothing else; what comes out is usable as it stands.
"""

from typing import Final

from partymq.core import schema
from partymq.core.choices import DeletionPolicy, KeyFrom
from partymq.core.fields import Body, Explain
from partymq.core.names import check_group
from partymq.core.spec import GroupId, GroupSpec, KeySpec
from partymq.errors import InvalidSpecError

_KEY_NAME: Final = schema.KEY_NAME.path


def group_spec(group: GroupId, spec: Body, explain: Explain) -> GroupSpec:
    """All of a spec but the broker; raises InvalidSpecError with the sentence that its author needs."""
    check_group(group)
    schema.SOURCE.read(spec, explain)
    return GroupSpec(
        source_queue=schema.SOURCE_QUEUE.read(spec, explain),
        key=_key(spec, explain),
        partitions=schema.PARTITIONS.read(spec),
        inbox_window=schema.INBOX_WINDOW.read(spec),
        backlog_limit=schema.BACKLOG_LIMIT.read(spec),
        rejoin_seconds=schema.REJOIN_SECONDS.read(spec),
        rebalance_delay=schema.REBALANCE_DELAY.read(spec),
        rollout_patience=schema.ROLLOUT_PATIENCE.read(spec),
        handoff_timeout=schema.HANDOFF_TIMEOUT.read(spec),
        on_timeout=schema.ON_TIMEOUT.read(spec),
        deletion_policy=schema.DELETION_POLICY.read(spec),
        paused=schema.PAUSED.read(spec),
    )


def secret_name(spec: Body, explain: Explain) -> str:
    """The name of the Secret that says how to connect."""
    schema.BROKER.read(spec, explain)
    schema.CONNECTION_SECRET.read(spec, explain)
    return schema.SECRET_NAME.read(spec, explain)


def deletion_policy(spec: Body) -> DeletionPolicy:
    """The policy alone: a group whose spec is unusable can still be deleted."""
    try:
        return schema.DELETION_POLICY.read(spec)
    except InvalidSpecError:
        return schema.DELETION_POLICY.default


def _key(spec: Body, explain: Explain) -> KeySpec:
    if spec.get("key") is None:
        return KeySpec()
    schema.KEY.read(spec, explain)
    source, on_missing = schema.KEY_FROM.read(spec), schema.KEY_ON_MISSING.read(spec)
    if source is KeyFrom.ROUTING_KEY:
        return KeySpec(source=source, name="", on_missing=on_missing)
    name = schema.KEY_NAME.read(spec, explain)
    for rule in schema.KEY.rules:
        rule.check(_KEY_NAME, {"from": source, "name": name}, name)
    return KeySpec(source=source, name=name, on_missing=on_missing)
