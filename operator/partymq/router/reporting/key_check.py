"""Whether `spec.key` finds keys: a misspelt name is an error to nobody, and takes the order away.

Invariant: what is told comes from the messages that this process has routed; an Event is for what was not so before.
"""

from collections.abc import Callable, Mapping

from partymq.core.report import Counters, Notice
from partymq.core.spec import KeySpec, OnMissing

ENOUGH = 20
"""Messages after which one can tell."""
MOST = 0.9
"""Share of messages without a key that is hardly meant."""


class KeyCheck:
    """Judges one group's counters."""

    def __init__(self, on_notice: Callable[[Notice], None]) -> None:
        self._on_notice = on_notice
        self._routed = self._keyless = 0
        self._missing = False
        self._cause = ""
        self._seen: Mapping[str, int] = {}

    def look(self, counters: Counters, key: KeySpec, causes: Mapping[str, int]) -> str:
        """What is wrong as of the last messages, in a sentence's end; empty while nothing is.

        `causes` says how often each reason was seen in this session.
        """
        routed, keyless = counters.routed - self._routed, counters.keyless - self._keyless
        if routed >= ENOUGH:
            self._routed, self._keyless = counters.routed, counters.keyless
            self._explain(causes)
            self._judge(min(keyless, routed), routed, key)
        if not self._missing:
            return ""
        return f"most of them have no usable key ({_place(key)}){self._cause} and {_fate(key)}"

    def _explain(self, causes: Mapping[str, int]) -> None:
        new = {cause: times - self._seen.get(cause, 0) for cause, times in causes.items()}
        if max(new.values(), default=0) > 0:
            self._cause = f", mostly because {max(new, key=new.__getitem__)},"
        self._seen = dict(causes)

    def _judge(self, keyless: int, routed: int, key: KeySpec) -> None:
        missing = keyless >= MOST * routed
        if missing and not self._missing:
            text = (
                f"{keyless} of the last {routed} messages have no usable key ({_place(key)}){self._cause} and "
                f"{_fate(key)}; fix spec.key or the producers, unless this is meant"
            )
            self._on_notice(Notice(warning=True, reason="KeysMissing", message=text))
        if self._missing and not missing:
            self._on_notice(Notice(warning=False, reason="KeysFound", message="messages have usable keys again"))
        self._missing = missing


def _place(key: KeySpec) -> str:
    return f"spec.key: from {key.source.value}, name {key.name!r}"


def _fate(key: KeySpec) -> str:
    return "go to any member, in no order" if key.on_missing is OnMissing.SPREAD else "go to the dead queue"
