"""From the pods of a namespace to a group's clients.

Invariant: a pod is listed as long as it could hold messages. It is left out only when it is gone or all of its
containers have ended for good; one that is being deleted is still listed, as terminating.
"""

from collections.abc import Iterable, Sequence

from partymq.core.membership import Pod, PodState
from partymq.core.names import Names
from partymq.core.spec import GroupId
from partymq.errors import InvalidSpecError
from partymq.kube.generations import changed, created, generation_of, tenures
from partymq.kube.resource import GROUP_ANNOTATION, Body

_ENDED = ("Succeeded", "Failed")


def group_of(pod: Body) -> str | None:
    """The group, in the pod's own namespace, that the pod joins."""
    group: str | None = (pod["metadata"].get("annotations") or {}).get(GROUP_ANNOTATION)
    return group


def pods_of(group: GroupId, pods: Iterable[Body], *, now: float) -> tuple[tuple[Pod, ...], tuple[str, ...]]:
    """The group's pods in the order of their names, and a sentence for each that cannot have an inbox."""
    names = Names(group)
    ours = _that_join(group, pods)
    lasting = tenures(ours, now)
    listed: list[Pod] = []
    refused: list[str] = []
    for body in ours:
        name = body["metadata"]["name"]
        pod = Pod(
            name=name,
            state=_state(body),
            returns=_returns(body),
            generation=generation_of(body),
            created=created(body),
            changed=changed(body),
            tenure=lasting.get(name, 0),
        )
        try:
            names.inbox(pod.name)
        except InvalidSpecError as error:
            refused.append(str(error))
        else:
            listed.append(pod)
    return tuple(sorted(listed)), tuple(sorted(refused))


def _that_join(group: GroupId, pods: Iterable[Body]) -> Sequence[Body]:
    return [
        body for body in pods if group_of(body) == group.name and (body.get("status") or {}).get("phase") not in _ENDED
    ]


def _state(pod: Body) -> PodState:
    if "deletionTimestamp" in pod["metadata"]:
        return PodState.TERMINATING
    status = pod.get("status") or {}
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
    return PodState.READY if ready and status.get("phase") == "Running" else PodState.STARTING


def _returns(pod: Body) -> bool:
    """A StatefulSet makes a pod of the same name again."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner.get("kind") == "StatefulSet" for owner in owners)
