"""Texts that people write on the command line, in variables and in files, as values.

Invariant: a text that is no such value gives None and raises nothing; whoever asked knows what to say.
"""

import re
from typing import Final

_SIZE: Final = re.compile(r"([0-9]{1,12})(Ki|Mi|Gi)?")
_SIZE_UNITS: Final = {"": 1, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}
_DURATION: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+")
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def size(text: str) -> int | None:
    """Bytes: a number, or one with Ki, Mi or Gi."""
    found = _SIZE.fullmatch(text)
    return int(found[1]) * _SIZE_UNITS[found[2] or ""] if found else None


def number(text: str) -> int | None:
    """A whole number, not below 0."""
    found = _SIZE.fullmatch(text)
    return int(found[1]) if found and not found[2] else None


def port(text: str) -> int | None:
    """A TCP port; 0 is one that is free."""
    found = number(text)
    return found if found is not None and found <= 65_535 else None


def duration(text: str) -> float | None:
    """Seconds: parts such as 1m30s, above 0 in all."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(amount) * _DURATION_UNITS[unit] for amount, unit in _PART.findall(text)) or None
