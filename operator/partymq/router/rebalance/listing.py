"""Who is listed: pods that opted in, and clients that are as good as pods.

Invariant: one name is one owner. A pod that has the name of a plain client waits until that is unbound, and a managed
client that has a pod's name is that pod.
"""

import time

from partymq.core.membership import Pod, PodState
from partymq.router.journal import Journal


class Listing:
    """What the platform and the journal say, for one session."""

    def __init__(self, journal: Journal, *, clients: bool) -> None:
        """`clients` says whether there are any: without the API nobody speaks for those that were bound."""
        self._journal = journal
        self._clients = clients
        self._pods: tuple[Pod, ...] | None = None
        self.listed_at = float("-inf")
        """When pods were listed last."""

    def set_pods(self, pods: tuple[Pod, ...]) -> None:
        """Takes the whole list of pods that opted in."""
        self._pods = pods
        self.listed_at = time.monotonic()

    @property
    def all(self) -> tuple[Pod, ...] | None:
        """Pods and managed clients; None while pods have not been listed yet."""
        if self._pods is None:
            return None
        names, plain = {pod.name for pod in self._pods}, self._journal.ledger.plain
        pods = (pod for pod in self._pods if pod.name not in plain)
        return (*pods, *(client for client in self._managed if client.name not in names))

    @property
    def _managed(self) -> tuple[Pod, ...]:
        """Managed clients as pods: they are ready when they consume."""
        if not self._clients:
            return ()
        ledger = self._journal.ledger
        return tuple(Pod(name=name, state=PodState.READY) for name in sorted(ledger.clients.keys() - ledger.plain))

    def present(self, member: str) -> bool:
        """True while the member's pod exists and is not on its way out."""
        return any(pod.name == member and pod.state is not PodState.TERMINATING for pod in self.all or ())

    def is_pod(self, name: str) -> bool:
        """True if a pod of that name has opted in, as far as is known."""
        return any(pod.name == name for pod in self._pods or ())
