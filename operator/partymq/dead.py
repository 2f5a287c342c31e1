"""`partymq dead`: list, replay or drop the messages of a group's dead queue.

Invariant: nothing is dropped that was not named; whatever ends the command early leaves the rest in the queue.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, TypeVar

from partymq.amqp.address import parse_uri
from partymq.core.names import SPREAD, check_group
from partymq.core.spec import BrokerAddress, GroupId, KeyFrom, KeySpec
from partymq.errors import InvalidSpecError, PartyMQError
from partymq.foreign import multiline, shown
from partymq.limits import Limits
from partymq.message.dead_letter import DeadMessage, KeyOf
from partymq.message.key_reader import key_reader
from partymq.router.maintenance.dead_queue import LISTED_MOST, Choice, DeadQueue, Outcome

DONE: Final = 0
FAILED: Final = 1
BAD_INPUT: Final = 2

_SHOWN: Final = 50
_WIDTH: Final = 40
"""Characters of a column."""
_LONGEST: Final = 4000
"""Characters of what is told."""
_LARGEST: Final = 512 * 1024**2
"""Bytes of a message: what RabbitMQ lets nobody exceed. Whoever looks at the dead queue wants to see all of it."""
Parser = TypeVar("Parser", bound=argparse.ArgumentParser)
_DESCRIPTION: Final = (
    "Messages that consumers rejected and, with key.onMissing deadLetter, messages without a key stand in the queue "
    "partymq.<namespace>.<group>.dead. The broker is that of the group's Secret, found with the kubeconfig, or --uri."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where to look, and how to read keys."""

    group: GroupId
    address: BrokerAddress
    key_of: KeyOf
    source: str


def add_parser(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command to the command line."""
    dead = commands.add_parser("dead", help="list, replay or drop dead messages", description=_DESCRIPTION)
    actions = dead.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_list(actions.add_parser("list", help="show messages, oldest first", description=_DESCRIPTION))
    replay = actions.add_parser(
        "replay",
        help="publish messages to the source queue again",
        description=f"Publish messages to the source queue again, in their order, as new arrivals. {_DESCRIPTION}",
    )
    _add_common(replay)
    drop = actions.add_parser(
        "drop",
        help="remove messages for good",
        description=f"Remove messages for good: all of them with --yes, or those that are chosen. {_DESCRIPTION}",
    )
    _add_common(drop)
    drop.add_argument("--yes", action="store_true", help="drop all that are meant, without a choice or a limit")


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", metavar="NAMESPACE/NAME", help="the PartitionGroup")
    where = parser.add_argument_group("where")
    where.add_argument("--uri", help="the broker, without looking into the cluster (PARTYMQ_AMQP_URL)")
    where.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API server (KUBECONFIG; ~/.kube/config)")
    where.add_argument("--source", metavar="QUEUE", help="the source queue; needed for a replay with --uri")
    where.add_argument(
        "--key-from", choices=[one.value for one in KeyFrom], help="where the key stands, with --uri (header)"
    )
    where.add_argument("--key-name", metavar="NAME", help="its name, with --uri (partitionKey)")
    which = parser.add_argument_group("which messages (all conditions must hold)")
    which.add_argument("--id", action="append", default=[], metavar="ID", help="this one; may be given several times")
    which.add_argument("--key", help="those of this key")
    which.add_argument("--partition", type=int, metavar="N", help="those of this partition (-1: those without a key)")
    which.add_argument("--reason", help="those that died so: rejected, expired, no-key, unstamped ...")
    which.add_argument("--pod", metavar="NAME", help="those that this pod rejected")
    which.add_argument("--limit", type=int, metavar="N", help=f"at most so many (list: {_SHOWN}; 0 is no limit)")


def run(chosen: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    try:
        _check(chosen)
        with asyncio.Runner() as runner:
            return runner.run(_run(chosen))
    except KeyboardInterrupt:
        return FAILED
    except (PartyMQError, ExceptionGroup) as error:
        first: Exception = error
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        if not isinstance(first, PartyMQError):
            raise
        _say(f"partymq dead {chosen.action}: {first}")
        return BAD_INPUT if isinstance(first, InvalidSpecError) else FAILED


def _check(chosen: argparse.Namespace) -> None:
    namespace, slash, name = chosen.group.partition("/")
    if not slash:
        raise InvalidSpecError(f"{chosen.group!r} is no group: write NAMESPACE/NAME, such as shop/orders.")
    check_group(GroupId(namespace=namespace, name=name))
    if chosen.uri and chosen.kubeconfig:
        raise InvalidSpecError("--uri and --kubeconfig: say one of them, a broker or a cluster that knows it.")
    if (chosen.key_from or chosen.key_name) and not _uri(chosen):
        raise InvalidSpecError("--key-from and --key-name go with --uri: in a cluster the PartitionGroup says it.")
    if chosen.limit is not None and chosen.limit < 0:
        raise InvalidSpecError(f"--limit {chosen.limit} is no number of messages: 0 is no limit.")
    if chosen.action == "drop" and not (chosen.yes or chosen.limit or _is_choice(chosen)):
        raise InvalidSpecError("this would drop every message: choose some, or say --yes.")


async def _run(chosen: argparse.Namespace) -> int:
    place = await _place(chosen)
    if chosen.action == "replay" and not place.source:
        raise InvalidSpecError("with --uri a replay needs the source queue's name: --source QUEUE.")
    if chosen.action != "list":
        _say(f"{chosen.group} on {place.address.where}, virtual host {place.address.vhost!r}")
    limit = (_SHOWN if chosen.action == "list" else 0) if chosen.limit is None else chosen.limit
    address = replace(place.address, limits=Limits(message=_LARGEST))
    async with DeadQueue.open(address, place.group, place.key_of) as queue:
        outcome = queue.outcome
        choose = _choice(chosen)
        try:
            match chosen.action:
                case "list":
                    _show(await queue.list(choose, limit=limit or None), outcome, as_json=chosen.json)
                case "replay":
                    await queue.replay(choose, source=place.source, limit=limit or None)
                case _:
                    await queue.drop(choose, limit=limit or None)
        finally:
            if chosen.action != "list":
                did = "replayed" if chosen.action == "replay" else "dropped"
                _say(f"{did} {_messages(outcome.done)} of {outcome.there}")
    missing = len(set(chosen.id)) > outcome.chosen
    if missing:
        _say(f"not in the dead queue: {_messages(len(set(chosen.id)) - outcome.chosen)} of those that were named")
    return FAILED if missing else DONE


async def _place(chosen: argparse.Namespace) -> _Place:
    namespace, _, name = chosen.group.partition("/")
    group = GroupId(namespace=namespace, name=name)
    if uri := _uri(chosen):
        source = KeyFrom(chosen.key_from or KeyFrom.HEADER)
        key = KeySpec(source=source, name=chosen.key_name or KeySpec().name)
        return _Place(group=group, address=parse_uri(uri), key_of=key_reader(key), source=chosen.source or "")
    # Late: the API server's client takes a second to import.
    from partymq.kube.lookup import look_up

    spec, address = await look_up(group, chosen.kubeconfig)
    return _Place(group=group, address=address, key_of=key_reader(spec.key), source=chosen.source or spec.source_queue)


def _uri(chosen: argparse.Namespace) -> str | None:
    """The broker, where the cluster is not asked for it: what was said counts for more than the environment."""
    if chosen.uri:
        return str(chosen.uri)
    return None if chosen.kubeconfig else os.environ.get("PARTYMQ_AMQP_URL")


def _is_choice(chosen: argparse.Namespace) -> bool:
    return bool(chosen.id) or any(
        value is not None for value in (chosen.key, chosen.partition, chosen.reason, chosen.pod)
    )


def _choice(chosen: argparse.Namespace) -> Choice | None:
    if not _is_choice(chosen):
        return None
    ids = set(chosen.id)
    key = None if chosen.key is None else os.fsencode(chosen.key)

    def choose(message: DeadMessage) -> bool:
        return (
            (not ids or message.id in ids)
            and (key is None or message.key == key)
            and (chosen.partition is None or message.partition == chosen.partition)
            and (chosen.reason is None or message.reason == chosen.reason)
            and (chosen.pod is None or message.member == chosen.pod)
        )

    return choose


def _show(messages: Sequence[DeadMessage], outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        for message in messages:
            sys.stdout.write(json.dumps(_as_json(message)) + "\n")  # in ASCII: a terminal obeys none of it
        sys.stdout.flush()
    elif messages:
        _print_table([_HEAD, *(_row(message) for message in messages)])
    more = "" if len(messages) >= outcome.there else " (no more are shown at once: choose)"
    if more and len(messages) < LISTED_MOST:
        more = " (--limit shows more)"
    _say(f"{len(messages)} of {_messages(outcome.there)}{more}")


_HEAD: Final = ("ID", "KEY", "REASON", "POD", "AGE", "EXCHANGE", "ROUTING KEY", "BYTES")


def _row(message: DeadMessage) -> tuple[str, ...]:
    age = "-" if message.died_at is None else _age(time.time() - message.died_at)
    return (
        message.id or "-",
        _shortened(_key_text(message) or "-"),
        f"{message.reason}: {_shortened(message.why)}" if message.why else message.reason,
        message.member or "-",
        age,
        _shortened(message.exchange or "-"),
        _shortened(message.routing_key or "-"),
        str(message.size),
    )


def _as_json(message: DeadMessage) -> dict[str, object]:
    return {
        "id": message.id or None,
        "partition": message.partition,
        "key": _key_text(message),
        "reason": message.reason,
        "why": message.why or None,
        "pod": message.member,
        "died": None if message.died_at is None else datetime.fromtimestamp(message.died_at, UTC).isoformat(),
        "exchange": message.exchange,
        "routingKey": message.routing_key,
        "bytes": message.size,
    }


def _key_text(message: DeadMessage) -> str | None:
    return None if message.partition == SPREAD or message.key is None else message.key.decode(errors="backslashreplace")


def _print_table(rows: Iterable[tuple[str, ...]]) -> None:
    lines = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    sys.stdout.flush()


def _shortened(text: str) -> str:
    return shown(text, _WIDTH)


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"


def _say(text: str) -> None:
    sys.stderr.write(f"{multiline(text, _LONGEST)}\n")
    sys.stderr.flush()
