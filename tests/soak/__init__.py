"""`make soak`: everything that may go wrong, at random, for as long as you like, and the auditor's verdict.

Invariant: only what a running system may meet is done (no promise is suspended), every fault that excuses a repeat is
reported before it happens, and the same seed draws the same faults.
"""
