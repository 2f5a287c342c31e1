"""Publishing with confirms: channels, the queues that are reached through them, and queues that refuse.

Invariant: what was published and is not confirmed is known, in order; and once a session's outlets are gone, nothing
that it published can still arrive.
"""
