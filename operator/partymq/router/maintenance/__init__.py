"""A group's queues while nobody routes it, or in the hands of a person: what is deleted, and the dead queue.

Invariant: no message is lost that nobody said shall be lost.
"""
