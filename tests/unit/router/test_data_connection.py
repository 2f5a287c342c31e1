"""One way to fail: at the first surprise nothing is acknowledged any more."""

import asyncio
import gc

from pamqp import commands, frame

from partymq.amqp.connection import Connection
from partymq.amqp.frames import header_frame, plain_header, publish_frame
from partymq.router.broker.data_connection import DataConnection
from partymq.router.publish.outlet import Outlet, Sink
from support.fake_broker import ADDRESS, FakeBroker


class _Source:
    stopped = False

    def __init__(self) -> None:
        self.confirms: list[int] = []

    def confirmed(self, tag: int) -> None:
        self.confirms.append(tag)

    def stays(self, tag: int) -> None:
        """No queue takes it."""

    def keeps(self, _tag: int) -> bool:
        return False

    def leaves(self, tag: int) -> None:
        """Nothing has stayed."""


async def test_a_message_that_comes_back_is_not_acknowledged_although_it_is_confirmed() -> None:
    broker = FakeBroker()
    broker.tune.heartbeat = 0
    with broker.listening():
        connection = await Connection.open(ADDRESS, name="test", heartbeat=0)
    link, source = DataConnection(connection), _Source()
    reading = await link.channel()

    def acknowledge() -> None:
        for tag in source.confirms:
            reading.ack(tag)

    connection.add_chunk_hook(acknowledge)
    publishing = await link.channel()
    outlet = Outlet(publishing)
    await outlet.open()
    outlet.serve(source)
    Sink(outlet, publish_frame(publishing.number, "", "gone"), 1).arrival(plain_header(0), b"", 7)
    returned = commands.Basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange="", routing_key="gone")
    broker.give(  # what RabbitMQ sends for it, in one chunk
        (publishing.number, returned),
        header_frame(publishing.number, plain_header(0)),
        frame.marshal(commands.Basic.Ack(1), publishing.number),
    )
    assert not [method for _, method in broker.sent if isinstance(method, commands.Basic.Ack)]
    assert broker.aborted


async def test_a_failure_that_nobody_waits_for_is_no_warning() -> None:
    broker, warnings = FakeBroker(), list[str]()
    broker.tune.heartbeat = 0
    with broker.listening():
        connection = await Connection.open(ADDRESS, name="test", heartbeat=0)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: warnings.append(context["message"]))
    link = DataConnection(connection)
    await link.channel()
    connection.abort()
    await asyncio.sleep(0)  # the channel tells the link
    await asyncio.sleep(0)
    del link, connection, broker
    gc.collect()
    assert not warnings
