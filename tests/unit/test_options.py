"""Where an option's value comes from, and that each declared one is whole."""

from dataclasses import replace

import pytest

from partymq import options, values
from partymq.errors import InvalidSpecError
from partymq.option import Given, Names, Option
from partymq.serve.settings import load_serving
from partymq.settings import Settings, load

ALL = {option.variable: option for option in (*options.OPERATOR, *options.SERVE)}
PORT = Option(
    name="some-port", variable="SOME_PORT", parse=values.port, refusal="is no port.", help="a port", default="1",
    in_file="some.port",
)  # fmt: skip
NAMES = Names(name="some-names", variable="SOME_NAMES", parse=lambda text: text or None, help="names")


def test_a_flag_wins_over_its_variable_that_over_the_file_that_over_the_default() -> None:
    given = Given(flags={"some_port": "4"}, environ={"SOME_PORT": "3"}, file={"some": {"port": 2}})
    assert PORT.read(given) == 4
    assert PORT.read(replace(given, flags={"some_port": None})) == 3
    assert PORT.read(replace(given, flags={}, environ={"SOME_PORT": ""})) == 2
    assert PORT.read(Given(environ={}, file={"some": None})) == 1
    assert (PORT.said(Given(environ={})), PORT.standard) == ("", 1)


@pytest.mark.parametrize("text", ["x", "-1", "65536", "1Ki", "\x1b" * 200])
def test_what_is_no_value_is_refused_with_flag_and_variable(text: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"^--some-port '.*' \(SOME_PORT\) is no port\.$") as caught:
        PORT.read(Given(environ={"SOME_PORT": text}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_several_values_come_with_commas_or_as_several_flags() -> None:
    assert NAMES.read_all(Given(environ={"SOME_NAMES": "a, b,,a"})) == ("a", "b")
    assert NAMES.read_all(Given(flags={"some_names": ["c", "a"]}, environ={"SOME_NAMES": "b"})) == ("c", "a")
    assert NAMES.read_all(Given(environ={})) == ()


@pytest.mark.parametrize("variable", ALL)
def test_each_option_has_a_default_that_can_be_used(variable: str) -> None:
    option = ALL[variable]
    assert option.help
    assert not (option.default and option.otherwise)
    if option.default:
        assert option.standard is not None
    if option.name:
        assert option.metavar
        assert all(word in option.help_text for word in (option.variable, option.default, option.otherwise))


def test_no_two_options_of_a_command_share_a_flag_or_a_variable() -> None:
    for declared in (options.OPERATOR, options.SERVE):
        for names in ([one.name for one in declared], [one.variable for one in declared]):
            assert len(set(names)) == len(names)


def test_the_defaults_of_settings_are_the_options() -> None:
    assert load(environ={"PARTYMQ_IDENTITY": "a"}) == Settings(identity="a")


def test_serve_is_not_kept_from_starting_by_what_only_the_operator_reads() -> None:
    assert load_serving(None, {"PARTYMQ_CLIENTS_PORT": "x", "PARTYMQ_NAMESPACES": "A"}).groups


@pytest.mark.parametrize(
    ("text", "size", "number", "duration"),
    [
        ("10", 10, 10, None),
        ("2Ki", 2048, None, None),
        ("1m30s", None, None, 90.0),
        ("1.5s", None, None, 1.5),
        ("250ms", None, None, 0.25),
        ("0s", None, None, None),
        ("", None, None, None),
        ("1" * 13, None, None, None),
        ("1KB", None, None, None),
    ],
)
def test_texts_as_values(text: str, size: int | None, number: int | None, duration: float | None) -> None:
    assert (values.size(text), values.number(text), values.duration(text)) == (size, number, duration)
