"""A broker that refuses messages which it took before, as one does whose limits were lowered.

Two ways: `lowered` is RabbitMQ's own limit for the size of a message, which channels learn of when they are opened;
`refusing` lets the broker refuse whatever carries the header `poison`, from now on and on every channel: a message is
refused in words (406, the channel is closed), or over a crash (541, the connection is), if the header says `crash`.

Invariant: the broker is as it was after the block.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from support.broker import amqp_url
from support.broker_script import erlang

POISON: Final = "poison"
_AS_IT_COMES: Final = 16_777_216
_MODULE: Final = """
-module(partymq_refusing).
-behaviour(rabbit_channel_interceptor).
-export([description/0, init/1, intercept/3, applies_to/0]).
description() -> [].
init(_) -> none.
applies_to() -> ['basic.publish'].
intercept(Method, none, _) -> {Method, none};
intercept(Method, Content0, _) ->
    Content = rabbit_binary_parser:ensure_content_decoded(Content0),
    Headers = case element(4, element(3, Content)) of undefined -> []; Table -> Table end,
    case lists:keyfind(<<"poison">>, 1, Headers) of
        {_, _, <<"crash">>} -> exit(poison);
        {_, _, _} -> rabbit_misc:protocol_error(precondition_failed, "a poisonous header", []);
        false -> {Method, Content}
    end.
"""
_LOAD: Final = """
    {ok, Tokens, _} = erl_scan:string("SOURCE"),
    Split = fun Split([], _, Forms) -> lists:reverse(Forms);
                Split([{dot, _} = Dot | Rest], Form, Forms) ->
                    {ok, Parsed} = erl_parse:parse_form(lists:reverse([Dot | Form])),
                    Split(Rest, [], [Parsed | Forms]);
                Split([Token | Rest], Form, Forms) -> Split(Rest, [Token | Form], Forms)
            end,
    {ok, Module, Binary} = compile:forms(Split(Tokens, [], [])),
    {module, Module} = code:load_binary(Module, "partymq_refusing.erl", Binary),
    rabbit_registry:register(channel_interceptor, <<"partymq_refusing">>, Module).
"""
_UNLOAD: Final = 'rabbit_registry:unregister(channel_interceptor, <<"partymq_refusing">>).'


@asynccontextmanager
async def lowered(size: int) -> AsyncIterator[None]:
    """For the block no channel that is opened takes a body of more bytes. `NoBrokerError` where that cannot be."""
    await _largest(size)
    try:
        yield
    finally:
        await _largest(_AS_IT_COMES)


async def _largest(size: int) -> None:
    assert await erlang(amqp_url(), f"persistent_term:put(max_message_size, {size}).") == "ok"


@asynccontextmanager
async def refusing() -> AsyncIterator[None]:
    """For the block the broker refuses what carries the header. `NoBrokerError` where that cannot be."""
    source = _MODULE.replace("\n", " ").replace('"', '\\"')
    assert await erlang(amqp_url(), _LOAD.replace("SOURCE", source)) == "ok"
    try:
        yield
    finally:
        await erlang(amqp_url(), _UNLOAD)


_UNREADABLE: Final = """
    Encode = fun(Section) -> amqp10_framing:encode_bin(Section) end,
    {ok, Queue} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"QUEUE">>)),
    Body = iolist_to_binary([
        Encode({'v1_0.header', true, undefined, undefined, undefined, undefined}),
        Encode({'v1_0.message_annotations', [{{symbol, <<"x-odd">>}, {uuid, <<1:128>>}}]}),
        Encode({'v1_0.data', <<"poison">>})
    ]),
    Message = mc:init(mc_amqp, Body, #{x => <<>>, rk => [<<"QUEUE">>]}),
    {ok, stateless, _} = rabbit_queue_type:deliver([Queue], Message, #{}, stateless),
    ok.
"""


async def put_unreadable(queue: str) -> None:
    """Puts a message into a queue that AMQP 1.0 allows, and over which RabbitMQ 4.0 fails to deliver it to AMQP 0-9-1.

    It closes the connection of whoever is given it (541).
    """
    assert await erlang(amqp_url(), _UNREADABLE.replace("QUEUE", queue)) == "ok"
