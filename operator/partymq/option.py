"""An option of a command: how its value is found, and what people are told of it.

Invariant: a flag wins over its variable, a variable over the file, the file over the default; what is empty was not
given. A value that comes out is usable; what is not is refused with one sentence that names flag and variable.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from partymq.errors import InvalidSpecError
from partymq.foreign import NAME, shown

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was said, wherever."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    """By an option's key; None, or nothing, was not given."""
    environ: Mapping[str, str]
    file: Mapping[str, Any] = field(default_factory=dict)

    def in_file(self, path: str) -> object:
        """What stands at a dotted path of the file; None where nothing does."""
        value: object = self.file
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Option(Generic[T]):
    """One flag with its variable."""

    name: str
    """Of the flag, without hyphens before it; empty where there is a variable only."""
    variable: str
    """Of the environment; also how it is named in a sentence."""
    parse: Callable[[str], T | None]
    """None for a text that is no value of it."""
    refusal: str = ""
    """What follows such a text and the names in the sentence."""
    metavar: str = ""
    help: str
    """For `--help`, without variable and default."""
    more: str = ""
    """What a page says besides, as Markdown."""
    default: str = ""
    """As a text that is parsed."""
    otherwise: str = ""
    """What holds where it is not given and has no default, in words."""
    short: str = ""
    repeated: bool = False
    """True where the flag may be given several times."""
    in_file: str = ""
    """Where it stands in the file of `partymq serve`."""
    in_spec: str = ""
    """The field of the spec of the file's first group that it stands for."""
    chart: str = ""
    """The chart's value for it."""

    @property
    def key(self) -> str:
        """What argparse and programs call it."""
        return self.name.replace("-", "_")

    @property
    def flags(self) -> tuple[str, ...]:
        """As they are written."""
        return (f"--{self.name}", *((f"-{self.short}",) if self.short else ()))

    @property
    def help_text(self) -> str:
        """For `--help`, with variable and default."""
        ends = [self.variable, *filter(None, [self.default or self.otherwise])]
        return f"{self.help} ({'; '.join(ends)})"

    @property
    def standard(self) -> T:
        """The value of the default."""
        return self.value(self.default)

    def told(self, given: Given) -> str:
        """The text that holds; empty where none does."""
        return self.said(given) or self.default

    def said(self, given: Given) -> str:
        """The text that somebody gave; empty where nobody did."""
        flag = given.flags.get(self.key)
        found = flag or given.environ.get(self.variable) or (self.in_file and given.in_file(self.in_file))
        return str(found) if found else ""

    def read(self, given: Given) -> T:
        """The value; raises InvalidSpecError."""
        return self.value(self.told(given))

    def value(self, text: str) -> T:
        """The value of a text; raises InvalidSpecError."""
        found = self.parse(text)
        if found is None:
            raise InvalidSpecError(f"--{self.name} {shown(text, NAME)!r} ({self.variable}) {self.refusal}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Names(Option[str]):
    """An option with several values: with commas, or the flag given several times. Each is there once."""

    def read_all(self, given: Given) -> tuple[str, ...]:
        """The values; raises InvalidSpecError."""
        flag: str | Sequence[str] = given.flags.get(self.key) or given.environ.get(self.variable, "")
        texts = flag.split(",") if isinstance(flag, str) else flag
        return tuple(dict.fromkeys(self.value(text.strip()) for text in texts if text.strip()))
