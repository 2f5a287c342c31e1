"""A path of the clients API means one group, or the answer says which paths there are."""

import pytest
from aiohttp.test_utils import make_mocked_request

from partymq.core.names import Names
from partymq.core.spec import ClientsSpec, GroupId
from partymq.http.groups import Groups
from partymq.http.problems import ProblemError
from partymq.router.client_service import ClientService, NotRoutingError

ORDERS = GroupId(namespace="shop", name="orders")
OTHERS = GroupId(namespace="test", name="orders")
PAYMENTS = GroupId(namespace="shop", name="payments")


def service(group: GroupId) -> ClientService:
    return ClientService(names=Names(group), spec=ClientsSpec(exchange="x"), session=lambda: None)


def find(groups: Groups, name: str, namespace: str | None = None) -> GroupId:
    named = {"group": name} if namespace is None else {"group": name, "namespace": namespace}
    return groups.find(make_mocked_request("GET", "/", match_info=named)).names.group


def test_a_name_is_enough_where_there_is_one_of_it() -> None:
    groups = Groups(known=lambda: (ORDERS, OTHERS, PAYMENTS), service=service)
    assert find(groups, "payments") == PAYMENTS
    assert find(groups, "payments", "shop") == PAYMENTS
    assert find(groups, "orders", "test") == OTHERS


def test_a_name_of_two_groups_is_refused_with_their_paths() -> None:
    groups = Groups(known=lambda: (OTHERS, ORDERS), service=service)
    with pytest.raises(
        ProblemError, match="use /namespaces/shop/groups/orders or /namespaces/test/groups/orders"
    ) as it:
        find(groups, "orders")
    assert it.value.status == 409


@pytest.mark.parametrize("namespace", [None, "test"])
def test_what_is_not_there_is_said_so_once_that_is_known(namespace: str | None) -> None:
    with pytest.raises(ProblemError, match="There is no group") as it:
        find(Groups(known=lambda: (ORDERS,), service=service), "payments", namespace)
    assert it.value.status == 404
    starting = Groups(known=tuple, service=service, unready=lambda: "Not listed yet.")
    with pytest.raises(NotRoutingError, match=r"Not listed yet\."):
        find(starting, "payments", namespace)


def test_a_group_that_serves_no_clients_is_none() -> None:
    with pytest.raises(ProblemError, match="There is no group"):
        find(Groups(known=lambda: (ORDERS,), service=lambda _: None), "orders")
