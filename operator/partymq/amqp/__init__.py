"""The broker as bytes and sockets: knows AMQP and RabbitMQ, and nothing of members, partitions' owners or handoffs."""
