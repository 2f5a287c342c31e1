"""What could make the benchmarks' report say something that was not measured."""

import pytest

from benchmarks import page, rebalance
from benchmarks.results import Results


def test_a_ratio_is_that_of_single_rounds() -> None:
    results = Results()
    results.section = "throughput"
    results.add("ours", "msg/s", 10.0, 300.0, 20.0)  # the machine was fast in the second round, for both
    results.add("theirs", "msg/s", 5.0, 150.0, 5.0)
    results.compare("ours", {"them": "theirs"})
    ours = results.section_results("throughput")[0]
    assert (ours["value"], ours["min"], ours["max"]) == (20, 10, 300)
    assert ours["ratios"] == {"them": 2}
    assert ours["compared_with"] == {"them": 5}


def test_a_block_of_the_page_is_replaced_and_nothing_else() -> None:
    before = (
        "text\n<!-- one: written -->\nold\nold\n<!-- end of one -->\n<!-- two: written -->\nkept\n<!-- end of two -->\n"
    )
    after = before.replace("old\nold", "new \\1")
    assert page.fill(before, "one", "new \\1") == after
    with pytest.raises(SystemExit, match="0 blocks 'three'"):
        page.fill(before, "three", "new")


def test_every_block_that_is_written_is_on_the_page() -> None:
    text = page.PAGE.read_text()
    for block in ("machine", *page.BLOCKS, "everything"):
        page.fill(text, block, "")


def test_the_exchange_moves_nearly_all_when_the_oldest_queue_goes_and_few_when_the_youngest_does() -> None:
    members = [f"m{n}" for n in range(10)]
    before = rebalance.exchange((), members)

    def moved(after: rebalance.Owners, gone: str) -> float:
        stayed = [(a, b) for a, b in zip(before, after, strict=True) if a != gone]
        return sum(a != b for a, b in stayed) / len(stayed)

    assert moved(rebalance.exchange((), members[1:]), "m0") > 0.9  # 98.7 % on a real broker
    assert moved(rebalance.exchange((), members[:-1]), "m9") == 0
