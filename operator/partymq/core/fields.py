"""The kinds of fields that a spec may have: which values one takes, and what it says to others.

Invariant: a field takes what the schema that is made of it takes (`hack/generate`), and refuses the rest with one
sentence that names the field. What is left out has the field's default.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from partymq.errors import InvalidSpecError
from partymq.foreign import NAME, shown

Body = Mapping[str, Any]

Explain = Callable[[str, str], str]
"""Where people read on: the sentence that says, of a path, `which` it is or `what it holds`."""

_INT32: Final = 2**31 - 1

_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What bounds cannot say, as the API server checks it and as we do."""

    cel: str
    """In the language of the API server's validations, where `self` is the value."""
    message: str
    """What the API server says where it does not hold."""
    holds: Callable[[Any], bool]
    """The same for a value that has the right type."""
    refusal: str = ""
    """What follows the field's name in our own sentence; `{value}` is the value."""

    def check(self, path: str, value: Any, named: object) -> None:  # noqa: ANN401 - a text, or a section
        """Raise InvalidSpecError about `named`, the part of the value at fault, where the rule does not hold."""
        if not self.holds(value):
            raise _refused(path, self.refusal, named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A mapping of fields."""

    path: str
    description: str
    rules: tuple[Rule, ...] = ()

    def read(self, spec: Body, explain: Explain) -> Body:
        """The mapping; raises InvalidSpecError where it is missing."""
        section = _at(spec, self.path)
        if not isinstance(section, Mapping):
            raise InvalidSpecError(f"spec.{self.path} is missing. {explain(self.path, 'what it holds')}")
        return section


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What all kinds have."""

    path: str
    """Below `spec`, with dots."""
    description: str
    """What it means: in the kind, in `kubectl explain`, on the page."""
    change: str
    """What happens to a group at work when it is changed, besides the new session."""
    unit: str = ""
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Field):
    """A whole number."""

    default: int
    least: int
    most: int
    wide: bool = False
    """Of 64 bits, for clients that make types of the schema."""

    def __post_init__(self) -> None:
        assert self.least <= self.default <= self.most
        assert self.wide or self.most <= _INT32

    def read(self, spec: Body) -> int:
        """The number in a spec."""
        value = _at(spec, self.path)
        if value is None:
            return self.default
        if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
            raise _wrong(self.path, value, f"a whole number from {self.least} to {self.most}")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag(Field):
    """True or false."""

    default: bool

    def read(self, spec: Body) -> bool:
        """The flag in a spec."""
        value = _at(spec, self.path)
        if value is None:
            return self.default
        if not isinstance(value, bool):
            raise _wrong(self.path, value, "true or false")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Field, Generic[_Choice]):
    """One of a few words."""

    default: _Choice

    @property
    def words(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(choice.value for choice in type(self.default))

    def read(self, spec: Body) -> _Choice:
        """The word in a spec."""
        value = _at(spec, self.path)
        if value is None:
            return self.default
        if value not in self.words:
            raise _wrong(self.path, value, " or ".join(self.words))
        return type(self.default)(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Field):
    """A text, which is not empty."""

    longest: int
    """Most characters."""
    pattern: str = ""
    """All of it, as a regular expression that RE2 and Python read alike."""
    required: bool = True
    with_section: str = ""
    """What it is where its whole section is left out; in a section that is there it has no default."""
    refusal: str = ""
    """What follows the field's name in the sentence about a text that is too long or no match."""

    def read(self, spec: Body, explain: Explain) -> str:
        """The text in a spec; raises InvalidSpecError where it is missing."""
        value = _at(spec, self.path)
        if not isinstance(value, str) or not value:
            what = "missing" if value is None else shown(repr(value), NAME)
            raise InvalidSpecError(f"spec.{self.path} is {what}; it must be a text. {explain(self.path, 'which')}")
        if len(value) > self.longest or (self.pattern and not re.fullmatch(self.pattern, value)):
            raise _refused(self.path, self.refusal, value)
        for rule in self.rules:
            rule.check(self.path, value, value)
        return value


def _at(spec: Body, path: str) -> object:
    """The value at a dotted path, None where a part of it is missing."""
    value: object = spec
    walked: list[str] = []
    for name in path.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise _wrong(".".join(walked), value, f"a mapping with {name}")
        value = value.get(name)
        walked.append(name)
    return value


def _wrong(path: str, value: object, wanted: str) -> InvalidSpecError:
    return InvalidSpecError(f"spec.{path} is {shown(repr(value), NAME)}; it must be {wanted}.")


def _refused(path: str, refusal: str, value: object) -> InvalidSpecError:
    return InvalidSpecError(f"spec.{path} {refusal.format(value=repr(shown(str(value), NAME)))}")
