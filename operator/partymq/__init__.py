"""Ordered, scalable processing out of RabbitMQ: a router that gives partitions to pods, and its operator."""
