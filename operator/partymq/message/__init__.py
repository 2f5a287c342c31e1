"""What is in a message, as bytes: headers, keys, our stamp, and what a dead message says of itself.

Invariant: what comes out is a message that a broker takes, and all of the producer's that can be kept is in it.
"""
