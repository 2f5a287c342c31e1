"""A client as a process of its own: `python -m support.client produce|consume OPTIONS`.

Invariant: its SIGTERM and SIGKILL are real; it says `consuming` or `producing` on its standard output once it does, and
ends with 0 only if it left as it was asked to.
"""

import asyncio
import sys

from support.options import ConsumerOptions, Library, consumer_options, producer_options


def main(role: str, argument: str) -> str:
    """Run the client; the empty string, or a sentence about what went wrong."""
    if role == "produce":
        from support import producer

        return producer.produce(producer_options(argument))
    return consume(consumer_options(argument))


def consume(options: ConsumerOptions) -> str:
    """Run a consumer with the library that it asks for; only that one is imported."""
    if options.library is Library.PIKA:
        from support import pika_consumer

        return pika_consumer.consume(options)
    from support import aio_pika_consumer

    return asyncio.run(aio_pika_consumer.consume(options))


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("produce", "consume"):
        sys.exit("usage: python -m support.client produce|consume OPTIONS")
    if failure := main(sys.argv[1], sys.argv[2]):
        sys.exit(failure)
