"""One try at being a group's router: its parts put together, from attaching to the journal to the first surprise.

Invariant: a session fails as a whole, and the next one starts from the journal alone.
"""
