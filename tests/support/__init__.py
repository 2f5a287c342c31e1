"""Shared by the tests: plain clients that report what they see, and the auditor that judges it.

Invariant: nothing here knows how PartyMQ works; it looks at the broker as any application does.

    async def test_something_under_load(tmp_path: Path) -> None:
        spool = Spool(tmp_path)                                             # support.spool
        async with Clients(spool, amqp_url()) as clients:                   # support.processes, support.broker
            a = await (await clients.consumer(inbox_a, name="a", prefetch=20, work=0.005)).started()
            b = await (await clients.consumer(inbox_b, name="b", library=Library.PIKA, leave=Leave.CANCEL)).started()
            producer = await (await clients.producer(source, rate=500, keys=100)).started()
            await eventually(lambda: spool.counts()[1] > 500, "no progress")    # support.conditions; (confirmed, acked)
            await a.kill()                                                  # SIGKILL, reported to the auditor
            await b.stop()                                                  # SIGTERM: leaves as `leave` says; waits
            await producer.stop()                                           # waits for its confirms
            await spool.settled()                                           # every confirmed message is acknowledged
        verdict = spool.audit()
        assert verdict.ok, verdict.report()

- `clients.consumer` returns before it consumes: `started()` waits for that (a queue not declared yet is waited for).
- A name is one connection: a client that comes back gets a new one (`a2`).
- `excused_by_consumer` and `excused_by_router` count repeats that are nobody's fault: assert 0 where nobody died.
- A router that is killed, not stopped: `spool.note("router", Kind.ROUTER_DOWN)` before the kill, `Kind.ROUTER_UP` once
  another one routes.
- A connection that the test or the operator closes: `spool.note("a", Kind.GONE, LOST)` before it does, for the broker
  gives messages away before the client knows.
- Consumers in pods report to a queue: `report_queue=...`, and `async with collecting(url, queue, spool)`
  (support.collector).
- Events of a test's own making: `audit(streams)` takes iterables of `Event`, one per actor (support.auditor).
"""
