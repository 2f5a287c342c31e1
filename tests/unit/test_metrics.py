"""A scrape shows every group's last report and nothing of groups that are gone; docs and alerts know what is in it."""

import re
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from partymq.core.report import NOT_SEEN, QUEUES_NOT_SEEN, Condition, Counters, HandoffReport, MemberReport, MemberState
from partymq.core.spec import GroupId
from partymq.metrics import Metrics
from support.fake_kubernetes import ORDERS, report

ROOT = Path(__file__).parents[2]
OTHER = GroupId(namespace="shop", name="other")
LABELS = {"namespace": "shop", "group": "orders"}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted((LABELS | labels).items()))


def test_a_report_in_numbers() -> None:
    metrics = Metrics()
    active = MemberReport(name="a", state=MemberState.ACTIVE, partitions=(0, 1), ready=5, since=0.0)
    stuck = MemberReport(name="c", state=MemberState.STUCK, partitions=(2,), ready=9, since=70.0, backlog=4)
    idle = MemberReport(name="b", state=MemberState.IDLE, partitions=(), ready=0, since=0.0)
    handoff = HandoffReport(handoff_id="1.1", donor="a", phase="drain", partitions=(1,), since=50.0, waiting_for="x")
    lost = Condition(ok=False, reason="X", message="x")
    metrics.report(
        ORDERS,
        report(
            counters=Counters(routed=7, sessions=2),
            members=(active, idle, stuck),
            handoffs=(handoff,),
            partitions_held=2,
            backlog=11,
            source_ready=3,
            broker_connected=lost,
        ),
    )
    found = samples(metrics)
    assert found[key("partymq_messages_routed_total")] == 7
    assert found[key("partymq_sessions_total")] == 2
    assert found[key("partymq_partitions")] == 64
    assert found[key("partymq_partitions_held")] == 2
    assert found[key("partymq_backlog_messages")] == 11
    assert found[key("partymq_source_ready_messages")] == 3
    assert found[key("partymq_broker_connected")] == 0
    assert found[key("partymq_routing")] == 1
    assert found[key("partymq_handoffs_in_progress")] == 1
    assert found[key("partymq_handoff_oldest_start_timestamp_seconds")] == 50
    assert found[key("partymq_members", state="active")] == 1
    assert found[key("partymq_members", state="leaving")] == 0
    assert found[key("partymq_inbox_ready_messages", member="a")] == 5
    assert found[key("partymq_member_partitions", member="a")] == 2
    assert found[key("partymq_member_backlog_messages", member="c")] == 4
    assert found[key("partymq_member_since_timestamp_seconds", member="c", state="stuck")] == 70
    assert key("partymq_member_since_timestamp_seconds", member="c", state="active") not in found


def test_what_is_unknown_is_absent_rather_than_zero() -> None:
    metrics = Metrics()
    metrics.report(ORDERS, report(source_ready=None, consumers_safe=NOT_SEEN, queues_safe=QUEUES_NOT_SEEN))
    assert key("partymq_source_ready_messages") not in samples(metrics)
    assert key("partymq_consumers_safe") not in samples(metrics)
    assert key("partymq_queues_safe") not in samples(metrics)


def test_a_group_that_is_gone_leaves_no_series() -> None:
    metrics = Metrics()
    metrics.report(ORDERS, report())
    metrics.report(OTHER, report())
    metrics.forget(ORDERS)
    metrics.forget(ORDERS)
    groups = {dict(labels).get("group") for _, labels in samples(metrics)}
    assert groups == {None, "other"}


def test_every_metric_says_what_it_is() -> None:
    families = text_string_to_metric_families(Metrics().text().decode())
    assert all(family.documentation for family in families if family.name.startswith("partymq"))


def names() -> set[str]:
    """As they stand in a scrape and in PromQL."""
    families = text_string_to_metric_families(Metrics().text().decode())
    suffix = {"counter": "_total", "info": "_info"}
    return {family.name + suffix.get(family.type, "") for family in families if family.name.startswith("partymq")}


def test_the_page_explains_every_metric_and_none_that_there_is_not() -> None:
    (section,) = re.findall(r"^## Metrics\n(.*?)(?=^## )", _page(), re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\|((?: `\w+`,?)+) \|", section, re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"\w+", row)) == sorted(names())


def test_alerts_are_explained_and_ask_for_metrics_that_there_are() -> None:
    rules = yaml.safe_load((ROOT / "helm/partymq/files/alerts.yaml").read_text(encoding="utf-8"))
    alerts = {alert["alert"]: alert["expr"] for group in rules["groups"] for alert in group["rules"]}
    for expression in alerts.values():
        asked = set(re.findall(r"partymq_\w+", expression))
        assert asked
        assert asked <= names()
    assert re.findall(r"^\| `(PartyMQ\w+)`", _page(), re.MULTILINE) == list(alerts)


def _page() -> str:
    return (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
