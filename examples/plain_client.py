"""A plain client: a queue of its own, bound to PartyMQ's exchange, and nothing but POSTs and a heartbeat."""

import json
import os
import socket
import threading
import time
import urllib.request

import pika  # type: ignore[import-untyped]

NAME = os.environ.get("PARTYMQ_CLIENT", socket.gethostname())
ME = f"{os.environ.get('PARTYMQ_URL', 'http://localhost:8085')}/clients/{NAME}"
HEADERS = {"Authorization": f"Bearer {os.environ.get('PARTYMQ_API_TOKEN', '')}"}  # where a token is asked for


def post(what: str) -> bytes:
    request = urllib.request.Request(f"{ME}/{what}", method="POST", headers=HEADERS)  # noqa: S310
    while True:
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                return bytes(answer.read())
        except OSError as error:  # it has not started yet, connects to the broker (503), or another server routes
            if getattr(error, "code", 503) not in (429, 503):  # 429: too often
                raise
        time.sleep(1)


def beat() -> None:
    while not post("heartbeat"):  # it has a body when we are not bound any more
        time.sleep(30)
    os._exit(1)


binding = json.loads(post("bind"))
url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
queue = channel.queue_declare(f"orders.{NAME}", durable=True).method.queue
channel.queue_bind(queue, binding["exchange"], binding["routingKey"])
post("ready")
threading.Thread(target=beat, daemon=True).start()
channel.basic_qos(prefetch_count=20)  # with more than 32, wait a moment after the last ack before leaving
try:
    for method, properties, body in channel.consume(queue):
        print(properties.headers.get("partitionKey"), body.decode(), flush=True)
        channel.basic_ack(method.delivery_tag)
    raise SystemExit("the queue is gone")
except KeyboardInterrupt:
    post("unbind")
