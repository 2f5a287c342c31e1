"""Messages over which the broker ends sessions: they are found one at a time, and set aside.

Invariant: failing again holds nothing, and one message that the broker refuses holds no other one.
"""
