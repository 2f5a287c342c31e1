"""PartyMQ at work, for people: `make try` with processes on this machine, `make demo` with pods on a cluster.

Invariant: what is shown and judged comes from the outside, from what clients report, the broker, and PartyMQ's own
status; and whatever happens, what was started and made is gone afterwards.

    cluster, __main__       `make demo`
    trial, plan             `make try`, and what happens in it
    command                 runs either of them, until it ends or is interrupted
    watch, picture, view    asks, knows, shows
"""
