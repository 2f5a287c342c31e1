"""A session's snapshot as unit tests need one: a group in which nothing happens, but for what a test says."""

from typing import Any

from partymq.core.ledger import empty
from partymq.core.membership import Membership
from partymq.core.names import Names
from partymq.core.rollouts import NO_ROLES
from partymq.core.spec import GroupId
from partymq.router.flow.keyless import KeylessStatistics
from partymq.router.flow.source_gate import SourceStatistics
from partymq.router.poison.isolation import IsolationStatistics
from partymq.router.rebalance.rebalancer import RebalancerStatistics
from partymq.router.session.snapshot import Snapshot

NAMES = Names(GroupId(namespace="shop", name="orders"))


def rebalancer(**changes: Any) -> RebalancerStatistics:  # noqa: ANN401 - fields
    """Everybody was looked at, and there is nothing to do."""
    nobody: dict[str, Any] = {
        "observed": True,
        "balanced": True,
        "membership": Membership(),
        "pods": {},
        "rollouts": (),
        "roles": NO_ROLES,
    }
    return RebalancerStatistics(**(nobody | changes))


def snapshot(**changes: Any) -> Snapshot:  # noqa: ANN401 - fields
    """A session that routes a group of four partitions without members."""
    still: dict[str, Any] = {
        "session": "0123456789abcdef",
        "names": NAMES,
        "ledger": empty(4),
        "calm": True,
        "source": SourceStatistics(ready=0, routed=0, full=False, askable=True, stands=0.0),
        "inboxes": {},
        "lanes": {},
        "backlogs": {},
        "waiting": 0,
        "backlogged": 0,
        "released": 0,
        "handoffs": {},
        "overdue": (),
        "troubles": {},
        "rebalancer": rebalancer(),
        "keyless": KeylessStatistics(missing=0, dead=0, causes={}),
        "isolation": IsolationStatistics(engaged=False, aside=0, kept=()),
    }
    return Snapshot(**(still | changes))
