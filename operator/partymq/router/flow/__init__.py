"""The way of messages: from the source to the owners of partitions, directly or through backlogs and transfers.

Invariant: messages of a partition are published to its owner in the order of the source, and what waits in a segment
goes before what comes later.
"""
