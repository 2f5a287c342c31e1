"""A broker that confirms, or refuses, what nobody has sent ends the session at once, and is not counted up to."""

import time

import pytest

from partymq.errors import NotAmqpError
from partymq.router.publish.outlet import UNLIMITED, Outlet, Sink
from unit.router.doubles import FakeChannel


@pytest.mark.parametrize("multiple", [True, False])
@pytest.mark.parametrize("tag", [3, 2**63 - 1])
async def test_what_nobody_has_sent_is_not_confirmed(tag: int, multiple: bool) -> None:
    out = Outlet(FakeChannel())
    sink = Sink(out, b"", UNLIMITED)
    for _ in range(2):
        sink.publish(b"header", b"")
    began = time.process_time()
    for settle in (out._on_confirm, out._on_nack):
        with pytest.raises(NotAmqpError, match="nobody has sent"):
            settle(tag, multiple)
    assert time.process_time() - began < 1
    assert out.unconfirmed == 2
    out._on_confirm(2, True)
    assert out.unconfirmed == 0
