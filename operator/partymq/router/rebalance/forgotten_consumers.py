"""Clients whose consumers the broker has forgotten: their connections are closed, so that they consume again.

Invariant: a connection is closed only where its consumer is given nothing and never will be: the management API shows
it on an inbox in two looks, from before the first to after the second the queue was seen to count nobody, and its
leader says so in the end.

RabbitMQ may let a client consume a quorum queue that is being deleted, and never tell it that the queue is gone; the
one that is declared under that name afterwards does not know it (docs/rabbitmq-defects.md). No promise rests on this.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from partymq.amqp.management import Management, prove
from partymq.core.membership import PodState
from partymq.core.report import Notice
from partymq.errors import PartyMQError
from partymq.router.context import Context
from partymq.router.flow.inboxes import Inboxes

LOG = logging.getLogger(__name__)

VACANT_FOR: Final = 20.0
"""Seconds without a consumer after which the API is asked; it shows one that is gone for up to five."""
LOOK_EVERY: Final = 10.0
LOOK_RARELY: Final = 320.0
"""Seconds between two looks at a pod: when one has shown a consumer, and when none ever does."""


@dataclass(slots=True)
class _Vacancy:
    """The inbox of a pod that is ready and does not consume."""

    due: float
    """When to look."""
    wait: float = LOOK_EVERY
    shown: frozenset[str] = frozenset()
    """The connections that the last look has shown."""


class ForgottenConsumers:
    """Of one session's inboxes."""

    def __init__(self, context: Context, *, inboxes: Inboxes, pods: Callable[[], Mapping[str, PodState]]) -> None:
        self._config = context.config
        self._names = context.names
        self._journal = context.journal
        self._on_notice = context.listener.notice
        self._inboxes = inboxes
        self._pods = pods
        self._vacancies: dict[str, _Vacancy] = {}
        inboxes.news.connect(self._note)

    async def run(self) -> None:
        """Looks at those who should consume by now."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self._note()
            now = time.monotonic()
            if due := [name for name, vacancy in self._vacancies.items() if vacancy.due <= now]:
                for name in due:
                    _put_off(self._vacancies[name])
                await self._look(due)

    def _note(self) -> None:
        """A consumer has come or gone, or some time has passed."""
        due = time.monotonic() + VACANT_FOR
        ready = [name for name, state in self._pods().items() if state is PodState.READY]
        consuming = self._inboxes.consuming
        idle = [name for name in ready if consuming.get(name) is False]
        self._vacancies = {name: self._vacancies.get(name) or _Vacancy(due) for name in idle}

    async def _look(self, names: Collection[str]) -> None:
        broker = self._config.broker
        try:
            async with Management(broker) as management:
                journal, session = self._names.journal, self._journal.session
                await prove(management, address=broker, journal=journal, session=session)
                for name in names:
                    await self._look_at(management, name)
        except PartyMQError as error:
            LOG.info("%s: whether consumers are forgotten is not known: %s", self._config.group, error)

    async def _look_at(self, management: Management, name: str) -> None:
        consumers = await management.consumers(self._names.inbox(name))
        if (vacancy := self._vacancies.get(name)) is None:
            return  # it consumes, as was seen meanwhile
        before, vacancy.shown = vacancy.shown, frozenset(each.connection for each in consumers if each.foreign)
        if vacancy.shown - before:
            vacancy.wait = LOOK_EVERY
            _put_off(vacancy)
        forgotten = before & vacancy.shown
        if forgotten and await self._inboxes.ascertain(name):
            for connection in sorted(forgotten):
                await self._close(management, name, connection)

    async def _close(self, management: Management, name: str, connection: str) -> None:
        inbox = self._names.inbox(name)
        reason = f"PartitionGroup {self._config.group}: {inbox} was deleted while this connection began to consume it"
        what = f"the connection {connection} of {name} consumes an {inbox} that was deleted meanwhile, unknown to it"
        try:
            closed = await management.close_connection(connection, reason=reason)
        except PartyMQError as error:
            self._tell(f"{what}. It cannot be closed: {error}. Delete the pod")
        else:
            if closed:
                self._tell(f"{what}: a defect of RabbitMQ. It was closed, so that {name} consumes again")

    def _tell(self, message: str) -> None:
        self._on_notice(Notice(warning=True, reason="ConsumerForgotten", message=message))


def _put_off(vacancy: _Vacancy) -> None:
    """Looks again later, and later each time."""
    vacancy.due = time.monotonic() + vacancy.wait
    vacancy.wait = min(2 * vacancy.wait, LOOK_RARELY)
