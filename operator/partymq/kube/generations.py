"""Which version of its owner's template a pod was made from, and which pods of one owner are taken away first.

Invariant: what is not known for certain is left out. A pod of an owner that has no versions has no generation, and
where pods cannot be put in order they are equal.

The order is the one in which a ReplicaSet takes pods away (`ActivePodsWithRanks` of Kubernetes), as far as pods show
it: those with the lower deletion cost first, of these those that share their node with the most, of these those that
became ready last (ages count in powers of two), of these by uid. Nothing rests on it: it says who should stand in.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from partymq.core.membership import Generation
from partymq.kube.resource import Body

_HASHES: Final = (("pod-template-hash", "Deployment"), ("rollouts-pod-template-hash", "Rollout"))
"""A ReplicaSet's labels on its pods, by whose it is."""
_REVISION: Final = "controller-revision-hash"
_REVISED: Final = ("StatefulSet", "DaemonSet")
_COST: Final = "controller.kubernetes.io/pod-deletion-cost"


def generation_of(pod: Body) -> Generation | None:
    """The pod's owner and its generation; None for a bare pod, a Job's, or one of a ReplicaSet without an owner."""
    meta = pod["metadata"]
    labels: Mapping[str, str] = meta.get("labels") or {}
    owner = next((one for one in meta.get("ownerReferences") or () if one.get("controller")), None)
    if owner is None:
        return None
    kind, name = owner.get("kind", ""), owner.get("name", "")
    if kind == "ReplicaSet":
        for label, of in _HASHES:
            if value := labels.get(label):
                return Generation(owner=f"{of} {name.removesuffix(f'-{value}')}", name=value)
    elif kind in _REVISED and (value := labels.get(_REVISION)):
        return Generation(owner=f"{kind} {name}", name=value.removeprefix(f"{name}-"))
    return None


def created(pod: Body) -> float:
    """When the pod was made, in Unix seconds; 0 where it does not say."""
    return _seconds(pod["metadata"].get("creationTimestamp"))


def changed(pod: Body) -> float:
    """When it was made, became ready or ceased to be, or was told to end, whichever was last."""
    meta = pod["metadata"]
    deleted = _seconds(meta.get("deletionTimestamp"))  # when it is to be gone at the latest
    told = deleted - (meta.get("deletionGracePeriodSeconds") or 0) if deleted else 0.0
    return max(created(pod), _seconds(_readiness(pod).get("lastTransitionTime")), told)


def tenures(pods: Iterable[Body], now: float) -> dict[str, int]:
    """By name: the higher, the later the pod is taken away of those of its owner and generation."""
    siblings: defaultdict[Generation, list[Body]] = defaultdict(list)
    crowds: Counter[tuple[str, str]] = Counter()
    for pod in pods:
        generation = generation_of(pod)
        if generation is not None and "deletionTimestamp" not in pod["metadata"]:
            siblings[generation].append(pod)
            crowds[generation.owner, _node(pod)] += 1

    def stays(pod: Body, owner: str) -> tuple[bool, int, int, int, str]:
        readiness = _readiness(pod)
        age = max(1.0, now - _seconds(readiness.get("lastTransitionTime")))
        return (
            readiness.get("status") == "True",
            _cost(pod),
            -crowds[owner, _node(pod)],
            math.floor(math.log2(age * 1e9)),
            pod["metadata"].get("uid", ""),
        )

    places: dict[str, int] = {}
    for generation, those in siblings.items():
        keys = {pod["metadata"]["name"]: stays(pod, generation.owner) for pod in those}
        order = {key: place for place, key in enumerate(sorted(set(keys.values())))}
        places |= {name: order[key] for name, key in keys.items()}
    return places


def _node(pod: Body) -> str:
    return str((pod.get("spec") or {}).get("nodeName", ""))


def _readiness(pod: Body) -> Mapping[str, str]:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == "Ready"), {})


def _cost(pod: Body) -> int:
    try:
        return int((pod["metadata"].get("annotations") or {}).get(_COST, 0))
    except ValueError:
        return 0


def _seconds(timestamp: str | None) -> float:
    """A time as Kubernetes writes it, in Unix seconds; 0 where there is none."""
    if not timestamp:
        return 0.0
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return 0.0
