"""A broker with several addresses: one that is down or frozen costs nobody the others."""

import socket
from dataclasses import replace
from pathlib import Path

from support.conditions import eventually
from support.group import group


async def test_nodes_that_are_frozen_or_down_are_passed_over(tmp_path: Path) -> None:
    """A frozen process takes TCP connections (its kernel does) and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as frozen, socket.create_server(("127.0.0.1", 0)) as down:
        ports = frozen.getsockname()[1], down.getsockname()[1]
        down.close()
        async with group(tmp_path) as g:
            broker = g.config.broker
            nodes = (("127.0.0.1", ports[0]), ("127.0.0.1", ports[1]), (broker.host, broker.port))
            for first in range(3):
                host, port = nodes[first]
                others = tuple(node for node in nodes if node != (host, port))
                g.config = replace(g.config, broker=replace(broker, host=host, port=port, others=others))
                await g.route()
                await g.join(f"m{first}")
                await eventually(lambda: g.report.routing, lambda: f"{g.reports[-1:]}", 15.0)
                producer = await g.clients.producer(g.source, name=f"p{first}", count=100, keys=10)
                await producer.ended()
                await g.settled()
                await g.stop()
        verdict = g.spool.audit()
        assert verdict.ok, verdict.report()
