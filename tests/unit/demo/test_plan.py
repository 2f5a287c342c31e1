"""`make try` shows all that may become of a consumer, and never without one."""

import pytest

from demo.plan import FIRST, PLAN, Act, Step, consumers


def test_the_plan_has_somebody_who_consumes_at_each_moment_and_every_kind_of_change() -> None:
    for number in range(len(PLAN) + 1):
        assert consumers(FIRST, PLAN[:number])
    assert {step.act for step in PLAN} == set(Act)
    assert consumers(FIRST, PLAN) == {"charlie", "delta"}


@pytest.mark.parametrize(
    "steps",
    [
        [Step(act=Act.KILL, name="nobody")],
        [Step(act=Act.JOIN, name="alpha")],
        [Step(act=Act.LEAVE, name="bravo"), Step(act=Act.JOIN, name="bravo")],
        [Step(act=Act.KILL, name=name) for name in FIRST],
    ],
)
def test_steps_that_cannot_be_are_refused(steps: list[Step]) -> None:
    with pytest.raises(ValueError, match=r"was there before|is not there, or the last one"):
        consumers(FIRST, steps)


def test_a_step_says_who_and_what_happens_to_keys() -> None:
    assert "delta" in Step(act=Act.JOIN, name="delta").announced(3)
    killed = Step(act=Act.KILL, name="bravo").announced(3)
    assert killed == "kill -9 bravo: its keys wait for it for 3 s, then the others have them"
