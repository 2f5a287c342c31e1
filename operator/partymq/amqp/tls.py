"""TLS as the connection Secret asks for it.

Invariant: a broker's certificate is always verified, host name included.
"""

import ssl
from pathlib import Path
from tempfile import TemporaryDirectory

from partymq.core.spec import Tls
from partymq.errors import InvalidSecretError


def tls_context(tls: Tls) -> ssl.SSLContext:
    """A client's context out of PEM texts."""
    authorities = tls.ca.encode("ascii", "replace").decode()  # bundles have comments with names, which OpenSSL skips
    try:
        context = ssl.create_default_context(cadata=authorities or None)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidSecretError(f"The connection Secret's ca.crt holds no PEM certificate: {error}.") from None
    if tls.certificate or tls.key:
        try:
            _load_certificate(context, tls)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidSecretError(
                "The connection Secret's tls.crt and tls.key are not a PEM certificate and its key without passphrase: "
                f"{error}."
            ) from None
    return context


def _load_certificate(context: ssl.SSLContext, tls: Tls) -> None:
    with TemporaryDirectory(prefix="partymq-") as folder:  # the ssl module reads certificates from files only
        certificate, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
        key.touch(mode=0o600)
        certificate.write_text(tls.certificate)
        key.write_text(tls.key)
        context.load_cert_chain(certificate, key, password=_no_passphrase)


def _no_passphrase() -> str:
    return ""  # else OpenSSL would ask on the terminal
