"""What people read about a member's partitions is what it owns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partymq.core import ranges


@pytest.mark.parametrize(
    ("partitions", "text"),
    [((), ""), ((5,), "5"), ((0, 1), "0-1"), ((0, 1, 2, 3, 7), "0-3,7"), ((1, 3, 5), "1,3,5"), ((9, 10, 11), "9-11")],
)
def test_the_text_of_partitions(partitions: tuple[int, ...], text: str) -> None:
    assert ranges.text(partitions) == text
    assert ranges.parse(text) == partitions


@given(st.lists(st.integers(0, 300)))
def test_texts_are_read_back(partitions: list[int]) -> None:
    assert ranges.parse(ranges.text(partitions)) == tuple(sorted(set(partitions)))


@pytest.mark.parametrize(
    "text", ["x", "1-", "-1", "3-1", "1,1", "2,1", "0-1,2", "1-1", " 1", "01", "1,", ",", "1--2", "+1"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|is not a list of partitions"):
        ranges.parse(text)


def test_a_handover_names_what_moves_and_to_whom() -> None:
    targets = {0: "b", 1: "b", 3: "b", 4: None, 5: "a"}
    assert ranges.handed_over("a", targets) == "a hands over 0-1,3 to b, 4 to nobody"
    assert ranges.handed_over("a", {5: "a"}) == "a hands over nothing"
