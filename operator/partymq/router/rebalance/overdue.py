"""Handoffs that take too long: people are told, and where the group says so the donor's connection is closed.

Invariant: no promise rests on this and nothing waits for it. Closing a connection only makes the broker take back what
its client held, as if the client had died; the takeover, which waits beside it, then goes on as always.

RabbitMQ 4.3 can leave a takeover waiting for a consumer that is gone: a client that died when an earlier takeover had
quiesced it and had ended (a router that stopped or crashed), and before the next one began. It is put in line again
after it was found dead, is served, and keeps what it is given. No client can end that, so people are told what does.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from partymq.amqp.management import Management, prove
from partymq.core import ranges
from partymq.core.consumers import Consumer
from partymq.core.hazards import start_members
from partymq.core.report import Notice
from partymq.core.spec import OnTimeout
from partymq.errors import PartyMQError
from partymq.router.context import Context
from partymq.router.rebalance.handoffs import Handoffs
from partymq.router.rebalance.progress import Progress

LOG = logging.getLogger(__name__)

AGAIN_AFTER = 30.0
"""Seconds until an overdue handoff is looked at again; less where the group's own time is shorter."""

LISTED_WITHIN = 10.0
"""Seconds within which the management API shows a new consumer, with some to spare."""

_HARMLESS = re.compile(r"[\w ./-]*")
"""What can stand between quotes of a program and of a shell."""
ZOMBIE = "a consumer that the broker counts although its client is gone"

Remembered = Callable[[str], tuple[Consumer, ...]]
"""The consumers that a queue was last seen to have."""


@dataclass(slots=True)
class _Case:
    """A handoff that is overdue."""

    due: float
    sentence: str = ""
    told: set[str] = field(default_factory=set)
    """Reasons of which there was an Event: each is told once."""


class OverdueHandoffs:
    """Watches the handoffs of one session."""

    def __init__(self, context: Context, *, handoffs: Handoffs, remembered: Remembered) -> None:
        self._config = context.config
        self._timeout = context.config.spec.handoff_timeout
        self._names = context.names
        self._journal = context.journal
        self._makes_zombies = context.link.makes_zombies
        self._on_notice = context.listener.notice
        self._handoffs = handoffs
        self._remembered = remembered
        self._cases: dict[str, _Case] = {}

    @property
    def sentences(self) -> tuple[str, ...]:
        """A sentence for every handoff that takes longer than the group allows."""
        cases = (self._cases.get(progress.handoff_id) for progress in self._handoffs.running.values())
        return tuple(case.sentence for case in cases if case is not None and case.sentence)

    async def run(self) -> None:
        """Looks at each handoff when it is overdue, and again and again after that."""
        while True:
            running = {progress.handoff_id: progress for progress in self._handoffs.running.values()}
            self._cases = {
                handoff_id: self._cases.get(handoff_id) or _Case(due=progress.begun + self._timeout)
                for handoff_id, progress in running.items()
            }
            now = time.monotonic()
            late = [progress for handoff_id, progress in running.items() if self._cases[handoff_id].due <= now]
            await asyncio.gather(*(self._escalate(progress, self._cases[progress.handoff_id]) for progress in late))
            # A handoff that begins while we sleep is overdue after we wake.
            due = min((case.due for case in self._cases.values()), default=now + self._timeout)
            await asyncio.sleep(max(0.0, min(due - time.monotonic(), self._timeout)))

    async def _escalate(self, progress: Progress, case: _Case) -> None:
        handoff = self._journal.ledger.handoffs.get(progress.handoff_id)
        partitions = f"partitions {ranges.text(handoff.targets)}" if handoff is not None and handoff.targets else ""
        age = time.monotonic() - progress.begun
        lacking = await self._lacking(progress)
        zombie = (
            not lacking and self._makes_zombies and age > LISTED_WITHIN and await self._waits_for_a_zombie(progress)
        )
        waiting_for = ZOMBIE if zombie else progress.waiting_for
        if lacking:
            waiting_for = f"its inbox, which has no member on {', '.join(lacking)} (docs/rabbitmq-defects.md)"
        case.sentence = (
            f"{partitions or 'what is left in its inbox'} cannot leave pod {progress.donor} for {age:.0f} s "
            f"(spec.handoff.timeoutSeconds: {self._timeout:.0f}): waiting for {waiting_for}"
        )
        if lacking:
            mend = start_members(self._config.broker.vhost, self._names.inbox(progress.donor), lacking)
            self._tell(case, "HandoffOverdue member", f"{case.sentence}. Nothing is lost. {mend}")
        elif zombie:
            advice = self._zombie_advice(self._names.inbox(progress.donor))
            self._tell(case, "HandoffOverdue zombie", f"{case.sentence}. {advice}")
        else:
            self._tell(case, "HandoffOverdue", f"{case.sentence}. {self._advice(progress)}")
        if not lacking and not zombie and self._closes and progress.waits_for_donor:
            await self._close(progress, case, partitions)
        case.due = time.monotonic() + min(self._timeout, AGAIN_AFTER)

    @property
    def _closes(self) -> bool:
        return self._config.spec.on_timeout is OnTimeout.CLOSE_CONNECTION

    def _advice(self, progress: Progress) -> str:
        if not progress.waits_for_donor:
            return "Other partitions go on"
        if self._closes:
            return "Its connection is being closed; other partitions go on"
        return (
            "Other partitions go on. Fix the pod or delete it, or let its connection be closed: "
            "spec.handoff.onTimeout: CloseConnection"
        )

    async def _lacking(self, progress: Progress) -> list[str]:
        """The nodes that run without their member of the inbox: RabbitMQ gives a takeover from there nothing."""
        if not progress.waits_for_donor:
            return []
        try:
            async with Management(self._config.broker) as management:
                members = await management.members(self._names.inbox(progress.donor))
        except PartyMQError:
            return []
        return sorted(node for node, runs in members.items() if not runs)

    async def _waits_for_a_zombie(self, progress: Progress) -> bool:
        """Whether the broker lists nobody who could hold what the takeover waits for; False where that is not known."""
        if not progress.waits_for_donor:
            return False
        inbox = self._names.inbox(progress.donor)
        try:
            async with Management(self._config.broker) as management:
                await self._prove(management)
                consumers = (await management.all_consumers()).get(inbox, ())
        except PartyMQError as error:
            LOG.info("%s: who consumes %s is not known: %s", self._config.group, inbox, error)
            return False
        # That ours is shown, and waits, tells that the list is one of now.
        return any(not each.foreign and not each.active for each in consumers) and not _holders(consumers)

    def _zombie_advice(self, inbox: str) -> str:
        vhost = self._config.broker.vhost
        if not _HARMLESS.fullmatch(vhost + inbox):  # it would be a part of a program, and a tenant has written it
            vhost, inbox = "VIRTUAL-HOST", "INBOX"
        return (
            "RabbitMQ 4.3 does not let go of it by itself (docs/rabbitmq-defects.md). Nothing is lost, and other "
            "partitions go on. Let the leader of its queue start anew, on the node that has it: rabbitmqctl eval '"
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{inbox}">>)), '
            "{N, _} = amqqueue:get_pid(Q), ra:stop_server(quorum_queues, {N, node()}), "
            "ra:restart_server(quorum_queues, {N, node()}).'"
        )

    async def _prove(self, management: Management) -> None:
        await prove(management, address=self._config.broker, journal=self._names.journal, session=self._journal.session)

    async def _close(self, progress: Progress, case: _Case, partitions: str) -> None:
        inbox = self._names.inbox(progress.donor)
        reason = (
            f"PartitionGroup {self._config.group}: {partitions or 'messages'} held for longer than "
            f"spec.handoff.timeoutSeconds ({self._timeout:.0f}) while they move to other pods"
        )
        try:
            async with Management(self._config.broker) as management:
                await self._prove(management)
                consumers = await management.consumers(inbox)
                closed = [
                    connection
                    for connection in sorted(_holders(consumers) or _holders(self._remembered(inbox)))
                    # Looked at again before each: nobody is to lose a connection over what is done already.
                    if progress.waits_for_donor and await management.close_connection(connection, reason=reason)
                ]
        except Exception as error:  # a defect too: routing must not end for it
            if not isinstance(error, PartyMQError):
                LOG.exception("%s: a connection of pod %s could not be closed", self._config.group, progress.donor)
            self._tell(
                case, "CloseConnectionFailed", f"the connection of pod {progress.donor} cannot be closed: {error}"
            )
            return
        if closed:
            where = " and ".join(closed)
            text = f"closed the connection {where} of pod {progress.donor}, which held {partitions or 'messages'}"
            self._tell(case, f"ConnectionClosed {where}", text)
        elif progress.waits_for_donor:
            text = f"the management API lists no connection that consumes {inbox}: delete pod {progress.donor}"
            self._tell(case, "CloseConnectionFailed", text)

    def _tell(self, case: _Case, what: str, message: str) -> None:
        if what not in case.told:
            case.told.add(what)
            self._on_notice(Notice(warning=True, reason=what.partition(" ")[0], message=message))


def _holders(consumers: Iterable[Consumer]) -> set[str]:
    """The connections of those that may hold messages: only the active one is given any."""
    return {
        consumer.connection for consumer in consumers if consumer.foreign and consumer.active and consumer.connection
    }
