"""What a session knows of RabbitMQ: its connections, what it may read of them, takeovers and their proofs.

Invariant: an answer of the broker counts for no more than it proves; a surprise on a connection ends the whole session.
Nothing here knows of members, partitions or ledgers.
"""
