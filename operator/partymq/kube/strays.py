"""Pods that mean to join a group and join none: a name that no group of their namespace has, several names, a blank.

Invariant: nobody is named whose group may only be late. A pod is judged by complete lists of its namespace, not before
PATIENCE seconds after it was seen first, and told once for what it says.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable
from typing import Final

from partymq.core.report import Notice
from partymq.core.spec import GroupId
from partymq.kube.pods import group_of
from partymq.kube.resource import API_GROUP, GROUP_ANNOTATION, KIND, Body

PATIENCE: Final = 10.0
"""Seconds for a group to come after its pods."""
_ENDED: Final = ("Succeeded", "Failed")
_SHOWN: Final = 5

Tell = Callable[[str, str, str, Notice], None]
"""Called with a pod's namespace, name and uid."""

_Claim = tuple[str, str, str]
"""A pod's namespace and name, and what it says."""


class Strays:
    """The pods of all namespaces that join no group, for one loop."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._seen: dict[_Claim, float] = {}
        """When the pod was first seen to say this; infinite once it was told."""

    @property
    def namespaces(self) -> frozenset[str]:
        """Where there are any."""
        return frozenset(namespace for namespace, _, _ in self._seen)

    @property
    def due(self) -> float:
        """When a namespace has to be listed."""
        return min((at + PATIENCE for at in self._seen.values()), default=math.inf)

    def overdue(self, now: float) -> set[str]:
        """The namespaces that have to be listed."""
        return {namespace for (namespace, _, _), at in self._seen.items() if at + PATIENCE <= now}

    def saw(self, namespace: str, pod: str, claim: str, now: float) -> None:
        """A pod may be one of them."""
        self._seen.setdefault((namespace, pod, claim), now)

    def observe(self, namespace: str, pods: Iterable[Body], groups: Collection[GroupId], now: float) -> None:
        """What a list of a namespace has; `groups` are those of all namespaces."""
        seen: dict[_Claim, float] = {}
        for pod in pods:
            sentence = _astray(namespace, pod, groups)
            if not sentence:
                continue
            meta = pod["metadata"]
            claim = namespace, meta["name"], claim_of(pod) or ""
            seen[claim] = self._seen.get(claim, now)
            if seen[claim] + PATIENCE <= now:
                seen[claim] = math.inf
                notice = Notice(warning=True, reason="NoSuchGroup", message=sentence)
                self._tell(namespace, meta["name"], meta.get("uid", ""), notice)
        self._seen = {claim: at for claim, at in self._seen.items() if claim[0] != namespace} | seen


def claim_of(pod: Body) -> str | None:
    """What a pod says of a group, by whichever of our annotations or labels; None where it says nothing."""
    group = group_of(pod)
    return group if group is not None else _misnamed(pod)


def _misnamed(pod: Body) -> str | None:
    """An annotation that is none of ours, or a label, where no annotation names a group."""
    meta = pod["metadata"]
    keys = (*(meta.get("annotations") or {}), *(meta.get("labels") or {}))
    return next((key for key in keys if key.startswith(f"{API_GROUP}/")), None)


def _astray(namespace: str, pod: Body, groups: Collection[GroupId]) -> str:
    """Why the pod joins no group, and what to do; empty where it joins one or means to join none."""
    if "deletionTimestamp" in pod["metadata"] or (pod.get("status") or {}).get("phase") in _ENDED:
        return ""
    group, here = group_of(pod), sorted(known.name for known in groups if known.namespace == namespace)
    if group in here:
        return ""
    if group is None:
        key = _misnamed(pod)
        why = f"it has no annotation {GROUP_ANNOTATION}, but the annotation or label {key}" if key else ""
    elif not group.strip():
        why = f"its annotation {GROUP_ANNOTATION} is empty"
    elif group.strip() in here:
        why = f"its annotation {GROUP_ANNOTATION} is {group!r}, with blanks around the name"
    elif len(names := [name for name in re.split(r"[\s,;]+", group) if name]) > 1:
        why = f"its annotation {GROUP_ANNOTATION} is {_short(group)}, {len(names)} names, and a pod joins one group"
    else:
        elsewhere = sorted(known.namespace for known in groups if known.name == group)
        there = f", only one in {', '.join(elsewhere[:_SHOWN])}, and a pod joins a group of its own namespace"
        why = f"there is no {KIND} {_short(group)} in the namespace {namespace}{there if elsewhere else ''}"
    if not why:
        return ""
    more = ", ..." if len(here) > _SHOWN else ""
    known = f"one of {', '.join(here[:_SHOWN])}{more}" if here else "one that has yet to be created"
    return (
        f"The pod joins no group and gets no messages: {why}. "
        f"Let the annotation {GROUP_ANNOTATION} of the pod template name a {KIND} of the namespace {namespace}, {known}"
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 130 else f"{text[:130]}...")
