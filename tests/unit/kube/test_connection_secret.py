"""The Secret that a group names: read again when it may have changed, kept while nothing better can be had."""

import asyncio

import pytest

from partymq.errors import InvalidSecretError
from partymq.kube.client import ApiError
from partymq.kube.connection_secret import REREAD, REREAD_IN_TROUBLE, ConnectionSecret
from support.fake_kubernetes import FakeApi, in_virtual_time


def setup() -> tuple[FakeApi, ConnectionSecret]:
    api = FakeApi()
    return api, ConnectionSecret(api, "shop")


@in_virtual_time
async def test_a_good_secret_is_read_again_after_a_while_only() -> None:
    api, connection = setup()
    for _ in range(3):
        await connection.address("rabbitmq", trouble=False)
    assert api.secret_reads == 1
    await asyncio.sleep(REREAD)
    await connection.address("rabbitmq", trouble=False)
    assert api.secret_reads == 2


@in_virtual_time
async def test_trouble_with_the_broker_makes_it_look_sooner() -> None:
    api, connection = setup()
    await connection.address("rabbitmq", trouble=True)
    await asyncio.sleep(REREAD_IN_TROUBLE)
    api.secrets["shop", "rabbitmq"] = {"uri": "amqp://user:new@broker/"}
    assert (await connection.address("rabbitmq", trouble=True)).password == "new"


@in_virtual_time
async def test_another_name_is_another_secret_at_once() -> None:
    api, connection = setup()
    api.secrets["shop", "other"] = {"uri": "amqp://user:x@elsewhere/"}
    await connection.address("rabbitmq", trouble=False)
    assert (await connection.address("other", trouble=False)).host == "elsewhere"


@in_virtual_time
async def test_a_missing_secret_is_refused_with_the_command_that_makes_one_and_asked_for_again() -> None:
    api, connection = setup()
    with pytest.raises(
        InvalidSecretError, match=r"Secret shop/nope does not exist\. Create it.*create secret generic nope"
    ):
        await connection.address("nope", trouble=False)
    api.secrets["shop", "nope"] = {"uri": "amqp://user:x@broker/"}
    with pytest.raises(InvalidSecretError):  # not read again for every event
        await connection.address("nope", trouble=False)
    await asyncio.sleep(REREAD_IN_TROUBLE)
    assert (await connection.address("nope", trouble=False)).host == "broker"


@in_virtual_time
async def test_a_secret_that_is_no_broker_is_named() -> None:
    api, connection = setup()
    api.secrets["shop", "rabbitmq"] = {"colour": "blue"}
    with pytest.raises(InvalidSecretError, match=r"^Secret shop/rabbitmq: "):
        await connection.address("rabbitmq", trouble=False)


@in_virtual_time
async def test_a_missing_right_is_the_secrets_problem_but_an_api_server_that_is_away_is_not() -> None:
    api, connection = setup()
    api.secrets["shop", "rabbitmq"] = ApiError("read", 403, "forbidden")
    with pytest.raises(InvalidSecretError, match="Allow its service account to get it"):
        await connection.address("rabbitmq", trouble=False)
    api.secrets["shop", "rabbitmq"] = ApiError("read", 0, "away")
    await asyncio.sleep(REREAD_IN_TROUBLE)
    with pytest.raises(ApiError):
        await connection.address("rabbitmq", trouble=False)


@in_virtual_time
async def test_an_api_server_that_is_away_does_not_take_a_known_address_away() -> None:
    api, connection = setup()
    known = await connection.address("rabbitmq", trouble=False)
    await asyncio.sleep(REREAD)
    api.failure = ApiError("read", 0, "away")
    with pytest.raises(ApiError):
        await connection.address("rabbitmq", trouble=False)
    api.failure = None
    assert await connection.address("rabbitmq", trouble=False) == known
