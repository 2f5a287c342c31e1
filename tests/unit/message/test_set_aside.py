"""What the broker refuses is kept as whole as the broker takes it, and says why it is where it is."""

from partymq.amqp.frames import HEADER_HEAD, body_frames
from partymq.core.names import Names
from partymq.core.spec import GroupId
from partymq.message.dead_letter import describe, origin_of, revived
from partymq.message.rewrite import OURS
from partymq.message.set_aside import message_id, set_aside, why_refused
from partymq.message.stamp import Stamper, read_stamp
from partymq.message.tables import HEADERS, MESSAGE_ID, entries, find_property
from support.field_tables import Field, content_header, counted, short, table

ORIGIN = short(b"shop") + short(b"orders.eu")
ROWS = [Field(b"partitionKey", "S", counted(b"customer-1")), Field(b"odd", "S", counted(b"x"))]
HEADER = Stamper(3, 7).stamp(
    content_header({"content_type": short(b"text/plain"), "headers": table(ROWS), "message_id": short(b"m-1")}),
    11,
    ORIGIN,
)
WHY = "406 PRECONDITION_FAILED - too odd"


def _names(header: bytes) -> list[bytes]:
    found = find_property(header, HEADERS)
    assert found is not None
    names = [header[e.start + 1 : e.kind_at] for e in entries(header, found.start, found.stop)]
    return [name for name in names if not name.startswith(OURS)]


def test_it_loses_as_little_as_can_be() -> None:
    forms = list(set_aside(HEADER, WHY, origin_of(HEADER)))
    assert [_names(header) for header, _ in forms] == [[b"partitionKey", b"odd"], [b"odd"], [b"partitionKey"], [], []]
    assert [left_out for _, left_out in forms] == [
        "",
        "its header 'partitionKey'",
        "its header 'odd'",
        "its headers",
        "its headers and properties",
    ]
    assert [bool(find_property(header, MESSAGE_ID)) for header, _ in forms] == [True, True, True, True, False]


def test_every_form_has_its_stamp_its_origin_and_the_reason() -> None:
    for header, left_out in set_aside(HEADER, WHY, origin_of(HEADER)):
        assert read_stamp(header) == (7, 11, 3)
        assert origin_of(header) == ORIGIN
        assert why_refused(header) == WHY + (f"; left out: {left_out}" if left_out else "")
        assert HEADER_HEAD.unpack_from(header) == HEADER_HEAD.unpack_from(HEADER)


def test_one_without_headers_or_a_stamp_has_fewer_forms() -> None:
    forms = list(set_aside(content_header({}), WHY, origin_of(content_header({}))))
    assert [left_out for _, left_out in forms] == ["", "its headers and properties"]
    assert all(why_refused(header) == WHY or "left out" in why_refused(header) for header, _ in forms)


def test_a_long_reason_is_cut() -> None:
    header, _ = next(set_aside(HEADER, "x" * 1000, ORIGIN))
    assert len(why_refused(header)) < 400


def test_the_dead_queue_shows_why_and_a_replay_takes_that_off() -> None:
    header, _ = next(set_aside(HEADER, WHY, origin_of(HEADER)))
    names = Names(GroupId(namespace="shop", name="orders"))
    dead = describe(names, header, body_frames(b""), lambda *_: b"customer-1")
    assert (dead.reason, dead.why, dead.partition, dead.routing_key) == ("refused", WHY, 3, "orders.eu")
    assert message_id(header) == "m-1"
    assert b"x-partymq-refused" not in revived(header, "guest")
