"""Why a call over the network failed, for people.

Invariant: the words are ours, the operating system's or OpenSSL's, and never the other side's: an exception's own text
may repeat what came over the network, or the password that was to be sent there.
"""

import os
import socket
import ssl

from partymq.foreign import shown


def cause(error: BaseException) -> str:
    """The reason, as a part of a sentence."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {shown(error.verify_message)}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {shown((getattr(error, 'reason', None) or 'failed').replace('_', ' ').lower())}"
    if isinstance(error, socket.gaierror):
        return shown(error.strerror or "the name is not known")
    if isinstance(error, OSError):
        if error.errno is None or error.errno <= 0:
            return shown(error.strerror or str(error) or type(error).__name__)
        return os.strerror(error.errno)  # asyncio's own text says only that the call failed
    return type(error).__name__
