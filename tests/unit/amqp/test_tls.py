"""PEM texts that cannot be used are refused with the names of the Secret's keys."""

import pytest

from partymq.amqp.tls import tls_context
from partymq.core.spec import Tls
from partymq.errors import InvalidSecretError


@pytest.mark.parametrize(
    "ca", ["no certificate", "größe", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_a_ca_that_is_no_certificate_is_refused(ca: str) -> None:
    with pytest.raises(InvalidSecretError, match=r"ca\.crt"):
        tls_context(Tls(ca=ca))


def test_a_client_certificate_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidSecretError, match=r"tls\.crt and tls\.key"):
        tls_context(Tls(certificate="no certificate", key="no key"))


def test_the_broker_is_always_verified() -> None:
    context = tls_context(Tls())
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"
