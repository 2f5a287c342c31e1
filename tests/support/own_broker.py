"""A broker that a test may kill, restart, starve and cut off, and what its management API says of connections.

Invariant: it is never the broker that other tests use: it is an instance of its own of `hack/broker.sh`.
"""

from urllib.parse import quote

import aiohttp

from support.broker_script import broker_script


class OwnBroker:
    """An instance by name; `up` first."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self.url = ""
        self.management_url = ""

    async def up(self) -> None:
        """Start it with the data that it has, or find it running."""
        self.url = await self._run("up")
        self.management_url = await self._run("management-url")

    async def kill(self) -> None:
        """SIGKILL."""
        await self._run("kill")

    async def sync(self) -> None:
        """Have it write the names of its queues, as `kill` does of itself: it cannot when it is frozen before."""
        await self.control("eval", "[dets:sync(T) || T <- dets:all()], ok.")

    async def freeze(self) -> None:
        """SIGSTOP: it does nothing more, with its connections open."""
        await self._run("freeze")

    async def thaw(self) -> None:
        """SIGCONT; one that is not frozen just goes on."""
        await self._run("thaw")

    async def cut(self) -> None:
        """Nothing passes between it and anybody else any more, and nobody is told."""
        await self._run("cut")

    async def mend(self) -> None:
        """It is reached again; one that was not cut stays as it is."""
        await self._run("mend")

    async def down(self, *, purge: bool = False) -> None:
        """Stop it in order."""
        await self._run("down", *(["--purge"] if purge else []))

    async def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints; takes about a second."""
        return await self._run("ctl", "-q", *arguments)

    async def name(self) -> str:
        """What the node is called in its cluster."""
        return (await self.control("eval", "node().")).strip("'")

    async def memory_alarm(self, *, on: bool) -> None:
        """Let it believe that its memory is used up: it reads nothing more from those who publish."""
        await self._run("ctl", "-q", "set_vm_memory_high_watermark", "0.00001" if on else "0.6")

    async def connections(self) -> dict[str, str]:
        """Open connections: what clients call themselves (their address, where they do not) -> the broker's name."""
        found = await self._api("GET", "/api/connections")
        assert isinstance(found, list)
        names = {}
        for connection in found:
            properties = connection.get("client_properties") or {}
            names[properties.get("connection_name", connection["name"])] = connection["name"]
        return names

    async def nodes_of(self, client: str, *, exactly: bool = False) -> set[str]:
        """The nodes to which connections go that call themselves this, or something that begins like this."""
        found = await self._api("GET", "/api/connections")
        assert isinstance(found, list)
        named = [(str((one.get("client_properties") or {}).get("connection_name", "")), one["node"]) for one in found]
        return {node for name, node in named if name == client or (not exactly and name.startswith(client))}

    async def close(self, connection: str) -> None:
        """Have the broker close a connection by its name; one that is gone is no error."""
        await self._api("DELETE", f"/api/connections/{quote(connection, safe='')}")

    async def _api(self, method: str, path: str) -> object:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.management_url + path) as response,
        ):
            if response.status == 404:
                return None
            response.raise_for_status()
            return await response.json() if response.status == 200 else None

    async def _run(self, *arguments: str) -> str:
        return await broker_script("--instance", self._instance, *arguments)
