"""Clients that bind without end get no further than to a limit, and cost nobody else."""

import asyncio
import time

from partymq.router.client_service import BINDS
from support.conditions import eventually
from support.serve import serving

MOST = 20


async def test_binding_without_end_ends_at_the_limit() -> None:
    async with serving(PARTYMQ_LIMIT_CLIENTS=str(MOST)) as s:
        await s.call("POST", "/clients/first/bind", json={"managed": True})

        async def bind(number: int) -> int:
            return (await s.call("POST", f"/clients/c{number}/bind", json={"managed": True}))[0]

        asking = asyncio.gather(*(bind(number) for number in range(150)))
        began = time.monotonic()
        assert (await s.call("GET", "/health"))[0] == 200
        assert time.monotonic() - began < 1.0
        statuses = await asking
        assert statuses.count(200) == MOST - 1
        assert set(statuses) == {200, 429}
        bound = (await s.call("GET", "/clients"))[1]["clients"]
        assert len(bound) == MOST
        status, told = await s.call("POST", "/clients/late/bind")
        assert status == 429
        assert "limit `clients`" in told["detail"]
        assert (await s.call("POST", "/clients/first/bind", json={"managed": True}))[0] == 200, "who is back is welcome"
        await s.call("DELETE", "/clients/first")

        async def there_is_room() -> bool:
            return (await s.call("POST", "/clients/late/bind"))[0] == 200

        await eventually(there_is_room, "who has left still counts")


async def test_one_that_binds_and_unbinds_without_end_waits() -> None:
    async with serving() as s:
        statuses = []
        for _ in range(BINDS.burst + 5):
            statuses.append((await s.call("POST", "/clients/storm/bind", json={"managed": True}))[0])
            assert (await s.call("POST", "/clients/storm/unbind"))[0] == 200, "who leaves is never kept from it"
        assert statuses[: BINDS.burst] == [200] * BINDS.burst
        assert 429 in statuses
        status, told = await s.call("POST", "/clients/storm/bind", json={"managed": True})
        assert (status, "again and again" in told["detail"]) == (429, True)
        assert (await s.call("POST", "/clients/another/bind", json={"managed": True}))[0] == 200

        async def may_again() -> bool:
            return (await s.call("POST", "/clients/storm/bind", json={"managed": True}))[0] == 200

        await eventually(may_again, "it is never let in again")
