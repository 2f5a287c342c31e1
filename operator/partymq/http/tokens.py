"""Tokens of namespaces: each opens the groups of its own, and no others.

Invariant: a token that was read stays in use until another one, or that there is none, is known: an API server that is
away locks nobody out. What a Secret says is known within `REREAD` seconds, and nobody can have it read more often.
"""

import asyncio
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from partymq.errors import InvalidSecretError, PartyMQError
from partymq.foreign import shown
from partymq.router.client_service import NotRoutingError

log = logging.getLogger(__name__)

REREAD: Final = 30.0
REREAD_WRONG: Final = 5.0
"""The same after a token that was refused: a new one is taken up soon."""
ENTRY: Final = "token"
SHORTEST: Final = 16
_TOKEN: Final = re.compile(rf"[\x21-\x7e]{{{SHORTEST},1024}}")

ReadSecret = Callable[[str], Awaitable[Mapping[str, str] | None]]
"""The entries of a namespace's Secret; None if there is none. Raises InvalidSecretError, or a PartyMQError if it cannot
be asked now."""


@dataclass(slots=True)
class _Known:
    token: str = ""
    """Empty where there is none."""
    read_at: float = float("-inf")
    told: str = ""
    """What was logged of it."""


class NamespaceTokens:
    """The tokens that have been asked for; on one loop."""

    def __init__(self, read: ReadSecret) -> None:
        self._read = read
        self._known: dict[str, _Known] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def accepting(self, given: bytes, namespaces: Collection[str]) -> frozenset[str]:
        """Those of these whose token this is, as `Bearer <token>`; raises NotRoutingError where that is not known."""
        found = set()
        unknown = ""
        for namespace in namespaces:
            for age in (REREAD, REREAD_WRONG):
                await self._renew(namespace, age)
                known = self._known.get(namespace)
                if known is None:
                    unknown = namespace
                elif known.token and hmac.compare_digest(given, f"Bearer {known.token}".encode()):
                    found.add(namespace)
                    break
        if unknown and not found:
            raise NotRoutingError(f"The token of namespace {unknown} cannot be read now: ask again in a moment.")
        return frozenset(found)

    async def _renew(self, namespace: str, age: float) -> None:
        known = self._known.get(namespace)
        if known is not None and asyncio.get_running_loop().time() - known.read_at < age:
            return
        if namespace not in self._reading:
            reading = self._reading[namespace] = asyncio.create_task(self._take(namespace), name=f"token {namespace}")
            reading.add_done_callback(lambda _: self._reading.pop(namespace))
        await asyncio.shield(self._reading[namespace])

    async def _take(self, namespace: str) -> None:
        token, wrong = "", ""
        try:
            entries = await self._read(namespace)
            token = (entries or {}).get(ENTRY, "").strip()  # of a file, with a line break behind it
            if entries is not None and not _TOKEN.fullmatch(token):
                token, wrong = "", f"its `{ENTRY}` must have {SHORTEST} characters of ASCII at least, and no blanks"
        except InvalidSecretError as error:
            wrong = str(error)
        except PartyMQError as error:
            self._tell(namespace, str(error))
            if namespace in self._known:
                self._known[namespace].read_at = asyncio.get_running_loop().time()
            return
        known = self._known.setdefault(namespace, _Known())
        known.token, known.read_at = token, asyncio.get_running_loop().time()
        self._tell(namespace, wrong)

    def _tell(self, namespace: str, wrong: str) -> None:
        known = self._known.get(namespace)
        if wrong and (known is None or known.told != wrong):
            log.warning("The clients' token of namespace %s cannot be used: %s", namespace, shown(wrong, 500))
        if known is not None:
            known.told = wrong

    async def close(self) -> None:
        """End what is being read."""
        for reading in tuple(self._reading.values()):
            reading.cancel()
        await asyncio.gather(*self._reading.values(), return_exceptions=True)
