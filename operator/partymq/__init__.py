"""Ordered, scalable processing out of RabbitMQ: a router that gives partitions of a queue to pods, and the operator around it."""
