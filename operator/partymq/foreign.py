"""Text that others wrote (brokers, producers, clients, other libraries), as it may be shown to people.

Invariant: what comes out of here is one line of bounded length and of characters that a terminal shows and does not
obey: no escape sequence, no line break, nothing that turns the direction of writing. What was cut ends with dots, and
what was escaped says which character it was. It is for eyes only: names that are used again are kept as they came.
"""

import re
from typing import Final

SENTENCE: Final = 300
"""Characters of what somebody says."""
NAME: Final = 80
"""Characters of what something is called."""

_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys, or an editor; tabs and line breaks have a meaning in a text of several lines."""


def shown(text: str | bytes | bytearray, most: int = SENTENCE) -> str:
    """At most `most` characters of it, each of them printable."""
    if not isinstance(text, str):
        text = bytes(text[: 4 * most + 4]).decode(errors="backslashreplace")
    head = text[: most + 1]
    if not head.isprintable():
        head = "".join(one if one.isprintable() else _escaped(one) for one in head)
    return head if len(head) <= most else f"{head[: max(0, most - 3)]}..."


def multiline(text: str, most: int) -> str:
    """A text of several lines, such as a traceback: its line breaks stay, all else that is obeyed is escaped."""
    cut = text if len(text) <= most else f"{text[: most - 3]}..."
    return _CONTROLS.sub(lambda found: _escaped(found[0]), cut)


def _escaped(one: str) -> str:
    code = ord(one)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
