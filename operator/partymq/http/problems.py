"""Errors as people and programs read them: RFC 9457 problem details.

Invariant: every answer of 400 or more is a problem whose `detail` says what to do. No trace is logged of what others
send: only a defect leaves one.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_to_bytes

from aiohttp import ClientPayloadError, web
from aiohttp.http import HttpProcessingError

from partymq.core.pinning import ConflictError, TooManyClientsError
from partymq.core.rate import TooOftenError
from partymq.errors import BrokerError, InvalidSpecError, PartyMQError
from partymq.foreign import NAME, shown
from partymq.http.answers import ProblemAnswer, sent
from partymq.router.client_service import NotRoutingError

log = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = "1"
"""Seconds; a session begins again in less."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HINTS: Final = {
    404: "There is nothing here: GET /openapi.json lists the paths.",
    405: "This path does not take that method: GET /openapi.json lists what it takes.",
    413: "The body is too large: it holds at most a small JSON object.",
}


class ProblemError(PartyMQError):
    """A request that cannot be answered as it stands."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def problem(status: int, detail: str, reason: str = "", *, after: float = 0.0) -> web.Response:
    """An error's answer; `reason` is the word that conditions carry, where there is one, `after` when to ask again."""
    body = ProblemAnswer(
        type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail, reason=reason or None
    )
    answer = sent(body, status=status, content_type=CONTENT_TYPE)
    if after:
        answer.headers["Retry-After"] = str(math.ceil(after))
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        answer.headers["Retry-After"] = RETRY_AFTER
        answer.force_close()  # behind a Service a new connection may reach the process that can answer
    return answer


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever a handler raises into a problem."""
    try:
        if not _is_utf8(request.rel_url.raw_path):
            raise ProblemError(400, "The path is no UTF-8 once its %XX are decoded: encode it as UTF-8, then quote it.")
        return await handler(request)
    except ProblemError as error:
        return problem(error.status, str(error))
    except TooManyClientsError as error:
        return problem(429, str(error))
    except TooOftenError as error:
        return problem(429, str(error), after=error.after)
    except ConflictError as error:
        return problem(409, str(error))
    except InvalidSpecError as error:
        return problem(422, str(error))
    except (NotRoutingError, BrokerError) as error:  # a session that ends over its broker is followed by another
        return problem(503, str(error), error.reason)
    except web.HTTPException as error:
        return problem(error.status, _HINTS.get(error.status, error.reason))
    except (web.RequestPayloadError, ClientPayloadError, HttpProcessingError, ConnectionError):
        log.debug("The body of a request of %s did not come to its end.", request.remote)
        return problem(400, "The body is not what its headers say, or ended early: send it again.")
    except Exception:
        log.exception("%s %s failed", shown(request.method, NAME), shown(request.path))
        return problem(500, "PartyMQ has a defect: please report what its log says.")


def _is_utf8(path: str) -> bool:
    try:
        unquote_to_bytes(path).decode()
    except UnicodeError:
        return False
    return True
