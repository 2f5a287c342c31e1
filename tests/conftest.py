"""What holds for all tests."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("fuzz", max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def leaks_are_its_own(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test with services leaves open is found at its end: later, the garbage collector blames another test."""
    yield
    if "tests/unit/" not in request.node.nodeid:  # where there is nothing to leave open, and thousands of tests
        gc.collect()
