"""`make rollouts`: what a rollout costs on a cluster, row by row of a table, and what it may cost.

Invariant: what moved is read from the operator's log, how long keys waited from the clients' reports; the status is
only asked whether it was true.
"""
