"""What people are shown of a group: its report, conditions and Events, and what looks at consumers and keys for that.

Invariant: nothing is decided here, and nothing waits for it, but that a lost journal is rebuilt with the owners that
were seen last.
"""
