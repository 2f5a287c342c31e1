"""Bad input ends with one sentence; flags win over the environment."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from partymq import cli, logs, options, settings
from partymq.errors import InvalidSpecError
from partymq.option import Option
from partymq.router.broker.memory_budget import Budget
from partymq.settings import LogFormat, load


def run(*arguments: str) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("version") == 0
    assert capsys.readouterr().out == f"partymq {settings.VERSION}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "partymq: the following arguments are required: COMMAND. `partymq --help` lists what there is.\n"),
        (("operate",), "partymq: argument COMMAND: invalid choice: 'operate'"),
        (("operator", "--port", "1"), "partymq: unrecognized arguments: --port 1. "),
        (
            ("operator", "--http-port", "http"),
            "--http-port 'http' (PARTYMQ_HTTP_PORT) is no port: give a number from 0 to 65535.",
        ),
        (("operator", "--http-port", "65536"), "is no port"),
        (("operator", "--clients-port", "on"), "--clients-port 'on' (PARTYMQ_CLIENTS_PORT) is no port"),
        (("operator", "--clients-port", "1", "--heartbeat-expires-after", "2"), "give a duration above 0"),
        (("operator", "--log-format", "xml"), "--log-format 'xml' (PARTYMQ_LOG_FORMAT) is unknown: give text or json."),
        (("operator", "--log-level", "loud"), "is unknown: give debug, info, warning, error."),
        (("operator", "--in-flight-bytes", "1KB"), "--in-flight-bytes '1KB' (PARTYMQ_IN_FLIGHT_BYTES) is no size"),
        (("operator", "--in-flight-bytes", "1000Ki"), "give 1Mi or more"),
        (("dead", "list", "orders"), "'orders' is no group: write NAMESPACE/NAME"),
        (("dead", "list", "shop/Orders"), "cannot be part of queue names"),
        (("dead", "list", "shop/orders", "--limit", "-1"), "--limit -1 is no number of messages"),
        (("dead", "list", "shop/orders", "--uri", "http://host"), "must start with amqp://"),
        (("dead", "drop", "shop/orders", "--uri", "amqp://host"), "this would drop every message"),
        (("dead", "replay", "shop/orders", "--uri", "amqp://host"), "--source QUEUE"),
        (("dead", "list", "shop/orders", "--uri", "amqp://host", "--kubeconfig", "file"), "say one of them"),
        (("dead", "list", "shop/orders", "--kubeconfig", "file", "--key-name", "customer"), "go with --uri"),
        (("operator", "--namespace", "Shop"), "--namespace 'Shop' (PARTYMQ_NAMESPACES) is no namespace"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("command", "declared"), [("operator", options.OPERATOR), ("serve", options.SERVE)])
def test_help_names_every_flag_its_variable_and_its_default(
    command: str, declared: tuple[Option[Any], ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "--help") == 0
    text = "".join(capsys.readouterr().out.split())  # argparse breaks lines, also at hyphens
    for option in declared:
        assert (f"--{option.name}{option.metavar}" if option.name else option.variable) in text
        assert f"({option.variable}" in text or not option.name
        assert f";{option.default})" in text or not option.default


def test_flags_win_over_variables_and_variables_over_defaults() -> None:
    environ = {
        "PARTYMQ_NAMESPACES": "a, b,,a",
        "PARTYMQ_HTTP_PORT": "9000",
        "PARTYMQ_LOG_FORMAT": "json",
        "PARTYMQ_IDENTITY": "pod",
    }
    loaded = load({"http_port": "9001"}, environ)
    assert loaded.namespaces == ("a", "b")
    assert (loaded.http_port, loaded.log_format, loaded.identity) == (9001, LogFormat.JSON, "pod")
    assert load({"namespace": ["c"]}, environ).namespaces == ("c",)
    assert load(environ={"PARTYMQ_IN_FLIGHT_BYTES": "64Mi"}).in_flight_bytes == 64 * 2**20
    assert load({"in_flight_bytes": "2000000"}, environ).in_flight_bytes == 2_000_000
    assert load(environ={}).in_flight_bytes == Budget().total


def test_clients_are_served_only_where_a_port_is_given() -> None:
    environ = {"PARTYMQ_API_TOKEN": "hidden", "PARTYMQ_HEARTBEAT_EXPIRES_AFTER": "1m30s"}
    assert load(environ=environ).clients is None
    clients = load({"clients_port": "0"}, environ).clients
    assert clients == settings.ClientsApi(port=0, token="hidden", check_every=30.0, expires_after=90.0)
    assert "hidden" not in repr(clients)


@pytest.mark.parametrize("empty", ["", "\n"])
def test_a_token_is_what_a_header_can_carry_and_an_empty_one_opens_nothing(empty: str) -> None:
    clients = load({"clients_port": "0"}, {"PARTYMQ_API_TOKEN": "of-a-file\n"}).clients
    assert clients
    assert clients.token == "of-a-file"
    with pytest.raises(InvalidSpecError, match="PARTYMQ_API_TOKEN is empty"):
        load({"clients_port": "0"}, {"PARTYMQ_API_TOKEN": empty})
    assert load(environ={"PARTYMQ_API_TOKEN": empty}).clients is None


def test_without_anything_it_serves_all_namespaces_under_the_hosts_name() -> None:
    loaded = load(environ={})
    assert loaded.namespaces == ()
    assert loaded.identity


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert load(environ={"PARTYMQ_HTTP_PORT": "", "PARTYMQ_LOG_LEVEL": ""}).http_port == 8080


def test_no_way_to_the_api_server_ends_with_a_sentence(tmp_path: Path) -> None:
    missing = str(tmp_path / "kubeconfig")
    code, said = subprocess_of("operator", "--http-host", "127.0.0.1", "--http-port", "0", "--kubeconfig", missing)
    assert code == 1, said
    assert "Set KUBECONFIG to a file that `kubectl` can use." in said
    assert "Traceback" not in said


def subprocess_of(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "partymq", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


@pytest.fixture
def restored_logging() -> object:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield None
    root.handlers[:], _ = before
    root.setLevel(before[1])


@pytest.mark.usefixtures("restored_logging")
def test_a_log_line_is_one_line_whatever_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    for form in LogFormat:
        logs.configure(form, "info")
        try:
            raise InvalidSpecError("broken\nlines")
        except InvalidSpecError:
            logging.getLogger("partymq.test").exception("first\nsecond")
        lines = capsys.readouterr().err.splitlines()
        if form is LogFormat.JSON:
            (line,) = lines
            assert json.loads(line)["message"] == "first\nsecond"
            assert "InvalidSpecError" in json.loads(line)["exception"]
        else:
            assert all(line.startswith("    ") for line in lines[1:])
