"""The rollouts that are measured, and what each may cost."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A Deployment as it is rolled out, with limits; a limit of 0 is none."""

    title: str
    replicas: int = 8
    partitions: int = 64
    strategy: Mapping[str, object] | None = None
    """`rollingUpdate`; None for Kubernetes' default, 25 % and 25 %."""
    probe: bool = True
    """Whether a pod counts as available only when it consumes, as with the examples as shipped."""
    moved: int
    handoffs: int
    most: int
    pause: float
    """Seconds."""


ROWS: Mapping[str, Row] = {
    "surge": Row(
        title="maxSurge 1, maxUnavailable 0",
        strategy={"maxSurge": 1, "maxUnavailable": 0},
        moved=66,
        handoffs=9,
        most=1,
        pause=0.5,
    ),
    "default": Row(title="25 % / 25 %, the examples as shipped", moved=82, handoffs=12, most=2, pause=0.7),
    "bare": Row(title="25 % / 25 % without a probe", probe=False, moved=110, handoffs=16, most=2, pause=3.0),
    "all": Row(
        title="100 % / 0",
        strategy={"maxSurge": "100%", "maxUnavailable": 0},
        moved=66,
        handoffs=9,
        most=1,
        pause=0.7,
    ),
    "large": Row(
        title="24 pods, 256 partitions, 25 % / 25 % as shipped",
        replicas=24,
        partitions=256,
        moved=332,
        handoffs=0,
        most=2,
        pause=1.0,
    ),
}
