"""A broker for tests that do it harm."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from support.broker_script import NoBrokerError
from support.own_broker import OwnBroker


@pytest.fixture(scope="session")
def started_broker(worker_id: str) -> Iterator[OwnBroker]:
    broker = OwnBroker("faults" if worker_id == "master" else f"faults-{worker_id}")
    try:
        asyncio.run(broker.up())
    except NoBrokerError as error:
        pytest.skip(str(error))
    yield broker
    asyncio.run(broker.down(purge=True))


@pytest.fixture
async def broker(started_broker: OwnBroker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OwnBroker]:
    """The broker of everything in the test; it runs, whatever the test before has left."""
    await started_broker.up()
    monkeypatch.setenv("PARTYMQ_AMQP_URL", started_broker.url)
    yield started_broker
    await started_broker.up()
