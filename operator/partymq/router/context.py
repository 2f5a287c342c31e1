"""What every part of a session needs: its connections, its journal, its names, and the settings of its group.

Invariant: nothing here is exchanged while a session lasts. It is made once, when the session has attached to its
journal, and a change of settings starts another session.
"""

from dataclasses import dataclass

from partymq.amqp.topology import Topology
from partymq.core.names import Names
from partymq.core.spec import GroupConfig
from partymq.router.broker.data_connection import DataConnection
from partymq.router.broker.polling import Polling
from partymq.router.broker.queue_troubles import Troubles
from partymq.router.failpoints import Checkpoint
from partymq.router.journal import Journal
from partymq.router.listener import Listener
from partymq.router.publish.publisher import Publisher


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Of one session."""

    config: GroupConfig
    names: Names
    link: DataConnection
    """The data connection, over which everything leaves."""
    topology: Topology
    """The second connection: declares, looks and deletes."""
    publisher: Publisher
    journal: Journal
    polling: Polling
    troubles: Troubles
    listener: Listener
    checkpoint: Checkpoint
