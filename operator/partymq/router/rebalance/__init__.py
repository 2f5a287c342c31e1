"""From pods to plans, and from plans to handoffs.

Invariant: a plan is made from the whole membership and the last journaled ledger; a partition has a new owner only when
the old one provably holds nothing of it.
"""
