"""The real router on a simulated broker: no history of crashes, joins, leaves and slow clients may break a promise."""

import os

from hypothesis import HealthCheck, given, note, settings

from unit.sim.script import Act, Outcome, play, scripts, settings_of_histories
from unit.sim.world import Setting

EXAMPLES = int(os.environ.get("PARTYMQ_SIM_EXAMPLES", "60"))
"""More of them find more: 60 take some seconds."""


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(settings_of_histories, scripts)
def test_no_history_breaks_a_promise(setting: Setting, script: list[Act]) -> None:
    check(play(setting, script))


def check(outcome: Outcome) -> None:
    for line in outcome.log[-400:]:
        note(line)
    assert not outcome.violations, "\n".join(outcome.violations)
