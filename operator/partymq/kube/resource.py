"""A PartitionGroup as the API server gives it, read into values.

Invariant: what comes out of here is usable as it stands. The kind's schema refuses most mistakes before they get this
far; an older one may not, so the same declaration is asked again, and every refusal is a sentence that names the field.
"""

from dataclasses import dataclass
from typing import Final

from partymq.core import spec_reader
from partymq.core.fields import Body as Body
from partymq.core.spec import GroupId, GroupSpec
from partymq.core.spec_reader import deletion_policy as deletion_policy

API_GROUP: Final = "partymq.io"
API_VERSION: Final = "v1alpha1"
PLURAL: Final = "partitiongroups"
KIND: Final = "PartitionGroup"

GROUP_ANNOTATION: Final = "partymq.io/group"
"""On a pod: the group that it joins."""

FORCE_ANNOTATION: Final = "partymq.io/force-delete"
"""On a PartitionGroup, with the value "true": let it go although its queues could not be deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What matters of a PartitionGroup besides its spec; `spec` and `status` are as they came."""

    group: GroupId
    uid: str
    version: str
    created: str
    generation: int
    deleting: bool
    forced: bool
    spec: Body
    status: Body


def resource(body: Body) -> Resource:
    """Read the frame of a PartitionGroup; nothing in it can be wrong, the API server writes it."""
    meta = body["metadata"]
    return Resource(
        group=GroupId(namespace=meta["namespace"], name=meta["name"]),
        uid=meta["uid"],
        version=meta["resourceVersion"],
        created=meta.get("creationTimestamp", ""),
        generation=meta.get("generation", 0),
        deleting="deletionTimestamp" in meta,
        forced=(meta.get("annotations") or {}).get(FORCE_ANNOTATION) == "true",
        spec=body.get("spec") or {},
        status=body.get("status") or {},
    )


def secret_name(spec: Body) -> str:
    """The name of the Secret that says how to connect."""
    return spec_reader.secret_name(spec, _explain)


def group_spec(group: GroupId, spec: Body) -> GroupSpec:
    """Read a spec; raises InvalidSpecError with the sentence that its author needs."""
    return spec_reader.group_spec(group, spec, _explain)


def _explain(path: str, which: str) -> str:
    return f"`kubectl explain partitiongroup.spec.{path}` says {which}."
