"""Clients of the HTTP API within a session: who is bound, to which slots, and what waits while they have no room.

Invariant: a plain client is given nothing before a journaled ledger says that it has it, and its queue has the order of
the source.
"""
