"""`make bench`: what PartyMQ does, measured beside what a user might take in its place.

Invariant: what is compared is measured in turns within one run, and a ratio is that of one round; figures are medians
of rounds. Nothing here passes or fails by an absolute time.

    __main__                                        the command
    results, tables, plots, page                    from rounds to the report
    harness, load                                   what sections share, and messages
    processes, router_process, client_process       what is measured, and its clients
    throughput, latency, handoff, rebalance, scale, steady      the sections
    shovel, baseline_aio_pika                       what PartyMQ is compared with
"""
