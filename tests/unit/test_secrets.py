"""However something is misconfigured, no secret gets into an error, a condition, a log or a picture of a value."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pamqp import commands

from partymq import cli
from partymq.amqp.address import from_service_binding, parse_uri
from partymq.amqp.connection import Connection
from partymq.amqp.management import Management, api_url
from partymq.amqp.tls import tls_context
from partymq.core.spec import BrokerAddress, GroupSpec, Tls
from partymq.errors import PartyMQError
from partymq.kube.connection_secret import ConnectionSecret as SecretReader
from partymq.kube.resource import group_spec, secret_name
from partymq.logs import JsonFormatter, TextFormatter
from partymq.serve.settings import load_serving
from partymq.settings import load
from support.fake_broker import FakeBroker
from support.fake_kubernetes import ORDERS
from support.hostile_management import Answer, HostileManagement, banner, whole

CORE = st.text("abcdefghijkmnpqrstuvwxyz23456789", min_size=12, max_size=20)
ODD = st.text("/:?#[]%$&=+ '\"\\\x1b\x00äö\udcff\u202e{}", max_size=4)
SECRETS = st.tuples(ODD, CORE, ODD)
"""What is never to be seen is the middle: it is random, and nothing else holds it. What is behind an @ is a host."""
RUNS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Heard:
    """All that got out."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.texts: list[str] = []
        self._caplog = caplog

    def hear(self, value: object) -> None:
        self.texts += [repr(value), str(value)]

    def is_clean_of(self, core: str) -> None:
        for record in self._caplog.records:
            self.texts += [TextFormatter().format(record), JsonFormatter().format(record)]
        assert not [text for text in self.texts if core in text]

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """What is raised in the block is heard, with all that it was raised from."""
        try:
            yield
        except PartyMQError as error:
            shown: BaseException | None = error
            while shown is not None:
                self.hear(shown)
                shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Heard:
    caplog.set_level(logging.DEBUG)
    return Heard(caplog)


def fresh(heard: Heard, secret: tuple[str, str, str]) -> tuple[str, str]:
    heard.texts.clear()
    heard._caplog.clear()
    return "".join(secret), secret[1]


URIS: list[Callable[[str], str]] = [
    lambda s: f"amqp://user:{s}@host:5672/vhost",
    lambda s: f"amqp://user:{quote(s, safe='', errors='replace')}@host:notaport/",
    lambda s: f"amqp://user:{s}@host:99999/",
    lambda s: f"amqp://user:{s}@[::1/",
    lambda s: f"amqp:/user:{s}@host",
    lambda s: f"user:{s}@host",
    lambda s: f"http://user:{s}@host",
    lambda s: f"amqp://user:%FF{s}@host",
    lambda s: f"amqp://user:{s}%00@host",
    lambda s: f"amqp://user:{s}@host?x={s}",
    lambda s: f"amqp://user:{s}@host/a/b#{s}",
    lambda s: f"amqp://user:{s}@,host",
    lambda s: s,
]
URI = st.sampled_from(URIS)


@RUNS
@given(SECRETS, URI)
def test_no_uri_is_repeated(heard: Heard, secret: tuple[str, str, str], uri: Callable[[str], str]) -> None:
    text, core = fresh(heard, secret)
    with heard.hearing():
        heard.hear(parse_uri(uri(text)))
    with heard.hearing():
        heard.hear(from_service_binding({"uri": uri(text), "management-uri": uri(text)}))
    with heard.hearing():
        heard.hear(from_service_binding({"uri": "amqp://host", "management-uri": f"http://u:{text}@host/?{text}"}))
    heard.is_clean_of(core)


@RUNS
@given(SECRETS, st.sampled_from(["host", "port", "username", "vhost", "password"]), st.booleans())
def test_no_binding_is_repeated(heard: Heard, secret: tuple[str, str, str], missing: str, broken: bool) -> None:
    text, core = fresh(heard, secret)
    entries = {"host": "h", "port": "5672", "username": "u", "vhost": "v", "password": text}
    entries[missing] = "" if broken else "\udcff" if missing != "password" else text
    with heard.hearing():
        heard.hear(from_service_binding(entries))
    heard.is_clean_of(core)


@RUNS
@given(SECRETS)
def test_no_key_is_repeated(heard: Heard, secret: tuple[str, str, str]) -> None:
    text, core = fresh(heard, secret)
    body = f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"
    for tls in (Tls(key=body, certificate="x"), Tls(key=text, certificate=text), Tls(ca=text)):
        heard.hear(Tls(key=body, certificate="x"))
        with heard.hearing():
            tls_context(tls)
    heard.is_clean_of(core)


@RUNS
@given(secret=SECRETS, uri=URI)
def test_no_variable_and_no_flag_is_repeated(
    heard: Heard, secret: tuple[str, str, str], uri: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    text, core = fresh(heard, secret)
    for variable in ("PARTYMQ_RABBIT_CS", "PARTYMQ_MANAGEMENT_URI", "PARTYMQ_API_TOKEN"):
        given_ = text if variable == "PARTYMQ_API_TOKEN" else uri(text)
        with heard.hearing():
            heard.hear(load_serving(None, {variable: given_}))
        with heard.hearing():
            heard.hear(load(environ={variable: given_, "PARTYMQ_CLIENTS_PORT": "1"}))
    for arguments in (
        ["serve", "--broker-uri", f"amqp://u:{core}@h"],
        ["serve", "--rabbit-cs", uri(text), "--http-port", "x"],
    ):
        with pytest.raises(SystemExit) if arguments[1] == "--broker-uri" else heard.hearing():
            assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    heard.texts += [captured.out, captured.err]
    heard.is_clean_of(core)


@RUNS
@given(
    secret=SECRETS,
    before=st.sampled_from(["{broker: {uri: '", "broker:\n  uri: ", "broker: {uri: [", "broker:\n\turi: ", "!!"]),
)
def test_no_line_of_a_file_is_repeated(heard: Heard, secret: tuple[str, str, str], before: str, tmp_path: Path) -> None:
    text, core = fresh(heard, secret)
    path = tmp_path / "serve.yaml"
    path.write_bytes(f"{before}amqp://user:{text}@host: x\n".encode(errors="surrogateescape"))
    with heard.hearing():
        heard.hear(load_serving({"config": str(path)}, {}))
    heard.is_clean_of(core)


@RUNS
@given(SECRETS, URI)
async def test_no_secret_of_a_namespace_is_repeated(
    heard: Heard, secret: tuple[str, str, str], uri: Callable[[str], str]
) -> None:
    text, core = fresh(heard, secret)

    class Api:
        async def read_secret(self, namespace: str, name: str) -> dict[str, str]:
            return {"uri": uri(text)}

    with heard.hearing():
        heard.hear(await SecretReader(Api(), "shop").address("rabbitmq", trouble=False))
    with heard.hearing():
        heard.hear(group_spec(ORDERS, {"source": {"queue": "orders"}, "broker": {"connectionSecret": {"name": "x"}}}))
    heard.is_clean_of(core)
    assert secret_name({"broker": {"connectionSecret": {"name": "x"}}}) == "x"
    heard.hear(GroupSpec(source_queue="x"))


REFUSALS: list[commands.Connection.Close] = [
    commands.Connection.Close(reply_code=403, reply_text="ACCESS_REFUSED", class_id=0, method_id=0),
    commands.Connection.Close(reply_code=530, reply_text="NOT_ALLOWED - no such vhost", class_id=0, method_id=0),
    commands.Connection.Close(reply_code=541, reply_text="INTERNAL_ERROR", class_id=0, method_id=0),
]


@RUNS
@given(SECRETS, st.sampled_from(REFUSALS))
async def test_no_password_is_repeated_when_a_broker_refuses(
    heard: Heard, secret: tuple[str, str, str], refusal: commands.Connection.Close
) -> None:
    text, core = fresh(heard, secret)
    broker = FakeBroker()
    broker.answers[commands.Connection.StartOk] = refusal
    with heard.hearing():
        address = from_service_binding({"host": "broker", "username": "u", "password": text})
        heard.hear(address)
        with broker.listening():
            await Connection.open(address, name="test")
    heard.is_clean_of(core)


ECHOES: list[Answer] = [
    whole(b"{}", "401 Unauthorized"),
    whole(b"{}", "500 Broken"),
    whole(b"no json"),
    whole(b"{}", "302 Found", Location="http://elsewhere/"),
    banner(b"SSH-2.0-x\r\n"),
    banner(b""),
]


@settings(RUNS, max_examples=20)
@given(SECRETS, st.sampled_from(ECHOES))
async def test_no_password_is_repeated_when_a_management_api_fails(
    heard: Heard, secret: tuple[str, str, str], answer: Answer
) -> None:
    text, core = fresh(heard, secret)
    async with HostileManagement(answer).serving() as server:
        uri = f"http://user:{quote(text, safe='', errors='replace')}@127.0.0.1:{server.port}"
        address = BrokerAddress(host="h", password=text.encode(errors="replace").decode(), management_uri=uri)
        heard.hear(address)
        heard.hear(api_url(address))
        with heard.hearing():
            async with Management(address) as api:
                await api.all_consumers()
        await asyncio.sleep(0)
    heard.is_clean_of(core)


def test_what_is_heard_would_be_noticed(heard: Heard) -> None:
    heard.hear(orjson.dumps({"password": "secret-core"}))
    with pytest.raises(AssertionError):
        heard.is_clean_of("secret-core")
