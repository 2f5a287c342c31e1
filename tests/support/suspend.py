"""A queue's process that does nothing for a while, as one does on a machine that is too busy.

Of a quorum queue in this state RabbitMQ 4 says after a quarter of a second that it has no messages and no consumers; a
classic queue's answer comes when it goes on. Publishes, acknowledgements and consumers wait for it in both.

Invariant: a queue that was suspended goes on again whatever becomes of the test, because the broker itself resumes it,
on the very node that the queue's process is on.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from secrets import token_hex
from string import Template
from urllib.parse import unquote, urlsplit

from support.broker import amqp_url
from support.broker_script import erlang

_SUSPEND = Template("""
    Found = [rabbit_amqqueue:lookup(rabbit_misc:r(<<"$vhost"/utf8>>, queue, Name)) || Name <- [$queues]],
    [Q | _] = [One || {ok, One} <- Found],
    P = case amqqueue:get_pid(Q) of
            {Name, _} = Known -> case ra_leaderboard:lookup_leader(Name) of undefined -> Known; Leader -> Leader end;
            Pid -> Pid
        end,
    Node = case P of {_, There} -> There; _ -> node(P) end,
    ok = sys:suspend(P),
    spawn(Node, fun() ->
        register($keeper, self()),
        receive {resume, From} -> catch sys:resume(P), From ! resumed after $milliseconds -> catch sys:resume(P) end
    end),
    element(4, amqqueue:get_name(Q)).
""")
_RESUME = Template(
    "[catch ({$keeper, Node} ! {resume, self()}) || Node <- [node() | nodes()]], "
    "receive resumed -> ok after 5000 -> ok end."
)


async def suspend(queue: str, seconds: float, *, url: str = "") -> None:
    """Suspends the queue's process (of a quorum queue: the leader's); it goes on by itself after so many seconds.

    `url` is the broker's address, by default that of the tests' broker. `NoBrokerError` where that is a broker that
    nobody can be let into.
    """
    await _suspend([queue], seconds, url or amqp_url())


async def suspend_one_of(queues: Sequence[str], seconds: float, *, url: str = "") -> str:
    """As `suspend`, with the first of these queues that exists; its name."""
    name, _ = await _suspend(queues, seconds, url or amqp_url())
    return name


@asynccontextmanager
async def suspended(queue: str, *, url: str = "", at_most: float = 60.0) -> AsyncIterator[None]:
    """For the length of the block; it takes about a second to begin and to end."""
    url = url or amqp_url()
    _, keeper = await _suspend([queue], at_most, url)
    try:
        yield
    finally:
        await erlang(url, _RESUME.substitute(keeper=keeper))


async def _suspend(queues: Sequence[str], seconds: float, url: str) -> tuple[str, str]:
    """The queue's name, and that of the process at the broker that will resume it."""
    keeper = f"keeper_{token_hex(8)}"
    expression = _SUSPEND.substitute(
        vhost=_quoted(unquote(urlsplit(url).path.removeprefix("/")) or "/"),
        queues=", ".join(f'<<"{_quoted(queue)}"/utf8>>' for queue in queues),
        keeper=keeper,
        milliseconds=round(seconds * 1000),
    )
    return (await erlang(url, expression)).strip('<>"'), keeper


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
