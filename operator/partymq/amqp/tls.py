"""TLS settings of both connections."""

import ssl
import tempfile
from pathlib import Path

from partymq.core.spec import Tls
from partymq.errors import InvalidSecretError


def context(tls: Tls) -> ssl.SSLContext:
    """A context that verifies the broker, with a client certificate if there is one; raises `InvalidSecretError`."""
    try:
        made = ssl.create_default_context(cadata=tls.ca or None)
        if tls.certificate:
            with tempfile.TemporaryDirectory() as directory:  # the ssl module reads certificates from files only
                certificate, key = Path(directory, "tls.crt"), Path(directory, "tls.key")
                certificate.write_text(tls.certificate)
                key.touch(mode=0o600)
                key.write_text(tls.key)
                made.load_cert_chain(certificate, key)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidSecretError(
            f"the Secret's ca.crt, tls.crt or tls.key is no PEM certificate or key: {error}"
        ) from error
    return made
