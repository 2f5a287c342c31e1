"""Several groups of one server: each has its own path, source and exchange, and clients of one name in two are two."""

import json
from dataclasses import replace
from pathlib import Path

from support.broker import unique
from support.serve import disorder, serving


async def test_every_group_has_its_own_path(tmp_path: Path) -> None:
    names = [unique("first"), unique("second")]
    groups = [{"name": name, "spec": {"source": {"queue": f"{name}.source"}, "partitions": 8}} for name in names]
    file = tmp_path / "serve.yaml"
    file.write_text(json.dumps({"groups": groups}))
    async with serving(group=names[0], PARTYMQ_CONFIG=str(file), PARTYMQ_GROUP="") as first:
        second = replace(first, group=names[1], source=f"{names[1]}.source", prefix=f"/groups/{names[1]}", process=None)
        second.others, second.queues, second.managed = [], {}, set()
        first.others.append(second)
        await first.channel.declare_queue(second.source, durable=True)
        named = replace(first, prefix=f"/groups/{names[0]}")
        long = replace(second, prefix=f"/namespaces/default/groups/{names[1]}")

        await named.join("one")
        await long.join("one")
        await first.publish(f"k{n}" for n in range(500))
        await second.publish(f"k{n}" for n in range(700))
        await first.drained()
        await second.drained()
        for group, count in ((first, 500), (second, 700)):
            received = await group.received()
            assert sorted(number for number, _ in received["one"]) == list(range(1, count + 1))
            assert disorder(received) == 0

        binding = await second.post("/clients/two/bind")
        assert binding["exchange"] == f"partymq.default.{names[1]}.write"
        await second.post("/clients/one/unbind")
        assert [c["hostname"] for c in (await first.call("GET", "/clients"))[1]["clients"]] == ["one"]
        assert [c["hostname"] for c in (await second.call("GET", "/clients"))[1]["clients"]] == ["two"]
        assert len((await second.call("GET", "/partitions"))[1]["partitions"]) == 8
        assert (await second.call("GET", "/keys/k1"))[1]["owner"] is None
        missing = replace(first, prefix=f"/namespaces/other/groups/{names[1]}")
        assert (await missing.call("GET", "/clients"))[0] == 404
        assert set((await first.call("GET", "/health"))[1]["groups"]) == set(names)
