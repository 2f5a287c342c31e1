"""People are told when hardly a message has a key, once, and when that is over."""

from partymq.core.report import Counters, Notice
from partymq.core.spec import KeyFrom, KeySpec, OnMissing
from partymq.router.reporting.key_check import KeyCheck

KEY = KeySpec(source=KeyFrom.HEADER, name="costumer")


class _Group:
    def __init__(self, key: KeySpec = KEY) -> None:
        self.notices: list[Notice] = []
        self.causes: dict[str, int] = {}
        self._check, self._key = KeyCheck(self.notices.append), key
        self._routed = self._keyless = 0

    def routes(self, messages: int, *, keyless: int) -> str:
        self._routed += messages
        self._keyless += keyless
        return self._check.look(Counters(routed=self._routed, keyless=self._keyless), self._key, self.causes)

    @property
    def reasons(self) -> list[str]:
        return [notice.reason for notice in self.notices]


def test_a_misspelt_name_is_told_once() -> None:
    group = _Group()
    assert group.routes(10, keyless=10) == "", "too few to tell"
    said = group.routes(10, keyless=10)
    assert (
        said
        == "most of them have no usable key (spec.key: from header, name 'costumer') and go to any member, in no order"
    )
    assert group.routes(1000, keyless=1000) == said
    (notice,) = group.notices
    assert notice.warning
    assert notice.message.startswith(
        "20 of the last 20 messages have no usable key (spec.key: from header, name 'costumer')"
    )


def test_it_is_told_when_it_is_over() -> None:
    group = _Group()
    group.routes(20, keyless=20)
    assert group.routes(5, keyless=0), "too few to tell"
    assert group.routes(40, keyless=5) == ""
    assert group.reasons == ["KeysMissing", "KeysFound"]


def test_some_messages_without_a_key_are_nobody_s_fault() -> None:
    group = _Group()
    assert group.routes(100, keyless=80) == ""
    assert not group.notices


def test_what_is_not_confirmed_yet_counts_when_it_is() -> None:
    group = _Group()
    group.routes(20, keyless=300)
    assert group.notices[0].message.startswith("20 of the last 20")


def test_where_they_go() -> None:
    group = _Group(KeySpec(on_missing=OnMissing.DEAD_LETTER))
    assert group.routes(20, keyless=19).endswith("and go to the dead queue")


def test_the_most_frequent_cause_of_late_is_named() -> None:
    group = _Group()
    group.causes = {"there are no headers": 2, "the body is empty": 1}
    assert ", mostly because there are no headers, and go" in group.routes(20, keyless=20)
    assert ", mostly because there are no headers, and go" in group.notices[0].message
    group.causes["the body is empty"] = 2
    assert ", mostly because the body is empty, and go" in group.routes(20, keyless=20)
    assert ", mostly because the body is empty, and go" in group.routes(20, keyless=20), "no new one was looked at"
    group.causes = {}  # the next session's
    assert ", mostly because the body is empty, and go" in group.routes(20, keyless=20)
    group.causes = {"there are no headers": 1}
    assert ", mostly because there are no headers, and go" in group.routes(20, keyless=20)
