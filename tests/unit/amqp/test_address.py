"""What people write as a broker's address is understood, or refused in a sentence that helps and has no password."""

import pytest

from partymq.amqp.address import from_service_binding, parse_uri
from partymq.core.spec import BrokerAddress, Tls
from partymq.errors import InvalidSecretError

CLUSTER_OPERATOR = {
    "connection_string": "amqp://default_user_x:secret@orders.shop.svc:5672/",
    "default_user.conf": "default_user = default_user_x\ndefault_pass = secret\n",
    "host": "orders.shop.svc",
    "password": "secret",
    "port": "5672",
    "provider": "rabbitmq",
    "type": "rabbitmq",
    "username": "default_user_x",
}
"""The Secret `<cluster>-default-user` of the RabbitMQ cluster operator."""


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("amqp://host", BrokerAddress(host="host")),
        ("amqp://host/", BrokerAddress(host="host")),
        ("amqp://host:5673/%2F", BrokerAddress(host="host", port=5673)),
        ("amqp://host/shop", BrokerAddress(host="host", vhost="shop")),
        ("amqp://host/a%2Fb", BrokerAddress(host="host", vhost="a/b")),
        ("amqp://u:p@host", BrokerAddress(host="host", username="u", password="p")),
        ("amqp://u:p%40%3A%2F%23@host", BrokerAddress(host="host", username="u", password="p@:/#")),
        ("amqp://gr%C3%B6%C3%9Fe:@host", BrokerAddress(host="host", username="größe", password="")),
        ("amqp://[::1]:5673", BrokerAddress(host="::1", port=5673)),
        ("  amqp://host\n", BrokerAddress(host="host")),
        ("amqp://u:p,q@n1,n2/", BrokerAddress(host="n1", others=(("n2", 5672),), username="u", password="p,q")),
        (
            "amqp://n1:5673, N2.shop.svc:5674/v",
            BrokerAddress(host="n1", port=5673, others=(("n2.shop.svc", 5674),), vhost="v"),
        ),
        ("amqps://n1,n2,n1", BrokerAddress(host="n1", port=5671, others=(("n2", 5671),), tls=Tls())),
        ("amqp://[::1],[::2]:5673", BrokerAddress(host="::1", others=(("::2", 5673),))),
        ("AMQPS://host", BrokerAddress(host="host", port=5671, tls=Tls())),
        ("amqps://host:1234/shop", BrokerAddress(host="host", port=1234, vhost="shop", tls=Tls())),
    ],
)
def test_a_uri(uri: str, address: BrokerAddress) -> None:
    assert parse_uri(uri) == address


def test_certificates_go_with_a_uri_for_tls() -> None:
    address = parse_uri("amqps://host", ca="CA", certificate="CERT", key="KEY")
    assert address.tls == Tls(ca="CA", certificate="CERT", key="KEY")


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("", "must start with amqp:// or amqps://"),
        ("host:5672", "must start with"),
        ("http://host", "must start with"),
        ("amqp://", "names no host"),
        ("amqp://user:hush@/", "names no host"),
        ("amqp://user:hush@host:port/", "its port"),
        ("amqp://user:hush@host:70000/", "its port"),
        ("amqp://user:hush@[::1/", "brackets"),
        ("amqp://user:hush@n1,/", "without a name"),
        ("amqp://user:hush@,n1/", "without a name"),
        ("amqp://user:hush@n1,n2:0/", "its port"),
        ("amqp://user:hush@n1;n2/", "no name and no address"),
        ("amqp://user:hush@n1 n2/", "no name and no address"),
        ("amqp://user:hush@n1,n2:x/", "its port"),
        ("amqp://user:hush@[n1]/", "brackets"),
        ("amqp://user:hu/sh@host/", "percent-encoded"),
        ("amqp://user:hu#sh@host/", "%23|percent-encoded"),
        ("amqp://user:hush@host/?heartbeat=5", "does not know"),
        ("amqp://user:hush@host/a/b", "%2F"),
        ("amqp://user:/hush@host", "password as %2F"),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused(uri: str, why: str) -> None:
    with pytest.raises(InvalidSecretError, match=why) as caught:
        parse_uri(uri)
    assert "hu" not in str(caught.value).replace("brackets", "")


def test_certificates_with_a_uri_without_tls_are_refused() -> None:
    with pytest.raises(InvalidSecretError, match="write amqps://"):
        parse_uri("amqp://host", ca="CA")


def test_the_cluster_operators_secret_is_taken_as_it_is() -> None:
    address = BrokerAddress(host="orders.shop.svc", username="default_user_x", password="secret")
    assert from_service_binding(CLUSTER_OPERATOR) == address


def test_the_cluster_operators_secret_of_a_broker_with_tls_asks_for_tls() -> None:
    address = from_service_binding(CLUSTER_OPERATOR | {"port": "5671"})
    assert (address.port, address.tls) == (5671, Tls())


def test_a_uri_goes_before_the_other_keys() -> None:
    address = from_service_binding(CLUSTER_OPERATOR | {"uri": "amqps://u:p@elsewhere/shop\n", "ca.crt": "CA"})
    assert address == BrokerAddress(
        host="elsewhere", port=5671, username="u", password="p", vhost="shop", tls=Tls(ca="CA")
    )


def test_a_certificate_asks_for_tls_and_its_port() -> None:
    parts = {"host": "h", "username": "u", "password": "p", "vhost": "shop"}
    address = from_service_binding(parts | {"ca.crt": "CA", "tls.crt": "CERT", "tls.key": "KEY"})
    assert address.port == 5671
    assert address.tls == Tls(ca="CA", certificate="CERT", key="KEY")
    assert address.vhost == "shop"
    assert from_service_binding(parts | {"ca.crt": "CA", "port": "1234"}).port == 1234


def test_line_breaks_around_values_are_not_part_of_them() -> None:
    address = from_service_binding({"host": "h\n", "username": "u\n", "password": " p \n", "port": "5673\n"})
    assert address == BrokerAddress(host="h", username="u", password=" p ", port=5673)


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ({}, "neither `uri` nor `host`, `username` and `password`"),
        ({"host": "h", "username": "u"}, "neither `uri` nor `password`"),
        ({"uri": " ", "host": "h", "password": "p"}, "neither `uri` nor `username`"),
        ({"host": "h", "username": "u", "password": "p", "port": "amqp"}, "port is 'amqp'"),
        ({"host": "h", "username": "u", "password": "p", "port": "0"}, "1 to 65535"),
        ({"uri": "amqps://h", "tls.crt": "C"}, "has tls.crt but no tls.key"),
        ({"host": "h", "username": "u", "password": "p", "tls.key": "K"}, "has tls.key but no tls.crt"),
    ],
)
def test_a_secret_that_describes_no_broker_is_refused(secret: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidSecretError, match=why):
        from_service_binding(secret)


@pytest.mark.parametrize("base", [{"uri": "amqp://h"}, CLUSTER_OPERATOR, CLUSTER_OPERATOR | {"port": "5671"}])
def test_a_secret_may_say_where_the_management_api_is(base: dict[str, str]) -> None:
    address = from_service_binding(base | {"management-uri": "https://watcher:s3cret@elsewhere:443/rabbit/\n"})
    assert address.management_uri == "https://watcher:s3cret@elsewhere:443/rabbit"
    assert "s3cret" not in repr(address)
    assert from_service_binding(base).management_uri == ""


@pytest.mark.parametrize(
    "uri", ["amqp://u:hush@h", "h:15672", "http://", "http://h:0", "http://h:x", "http://h/?vhost=a"]
)
def test_an_unusable_address_of_the_management_api_is_refused(uri: str) -> None:
    with pytest.raises(InvalidSecretError, match="management-uri") as caught:
        from_service_binding(CLUSTER_OPERATOR | {"management-uri": uri})
    assert "hush" not in str(caught.value)
