"""Who may own partitions now.

Invariant: a member keeps what it owns until it is known to be leaving; a member that was never seen ready and consuming
owns nothing.
"""

from dataclasses import dataclass
from enum import StrEnum


class PodState(StrEnum):
    """What the platform (Kubernetes, or the HTTP API) says of a client."""

    STARTING = "Starting"
    """Exists, is not terminating, is not (all containers) ready: its inbox is declared so that it can consume."""
    READY = "Ready"
    TERMINATING = "Terminating"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Pod:
    """A client that opted in; one that is not listed any more is gone.

    `returns` says that a client of this name comes back (a StatefulSet's pod): it is then absent rather than leaving
    while it is away.
    """

    name: str
    state: PodState
    returns: bool = False
