"""What a request is answered that cannot be served, and what a stranger is told."""

from typing import Any

import aiohttp
import pytest
from aiohttp import web

from partymq.errors import ConnectionLostError, InvalidSpecError
from partymq.http.clients import health, middlewares
from partymq.http.server import serve
from partymq.router.client_service import NotRoutingError
from support.fake_kubernetes import report

TOKEN = "of-the-clients"


async def asked(route: web.RouteDef, *, token: str = "", sent: str = "") -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {sent}"} if sent else {}
    async with (
        serve("127.0.0.1", 0, [route], middlewares=middlewares(token, host="127.0.0.1")) as port,
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"http://127.0.0.1:{port}{route.path}") as answer,
    ):
        return answer.status, await answer.json()


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (NotRoutingError("Another one routes."), 503, "NotRouting"),
        (ConnectionLostError("The broker went away."), 503, "BrokerUnreachable"),
        (InvalidSpecError("That is no name."), 422, None),
        (ZeroDivisionError("a secret"), 500, None),
    ],
)
async def test_an_error_is_a_problem_that_says_whose_it_is(error: Exception, status: int, reason: str | None) -> None:
    async def fail(_: web.Request) -> web.Response:
        raise error

    got, problem = await asked(web.get("/it", fail))
    assert (got, problem["status"], problem.get("reason")) == (status, status, reason)
    assert (str(error) in problem["detail"]) is (status != 500)


@pytest.mark.parametrize(("token", "sent", "shown"), [("", "", True), (TOKEN, TOKEN, True), (TOKEN, "", False)])
async def test_a_stranger_learns_nothing_of_the_groups(token: str, sent: str, shown: bool) -> None:
    status, answer = await asked(health(lambda: {"orders": report()}), token=token, sent=sent)
    assert (status, answer["status"]) == (200, "ok")
    assert ("groups" in answer) is shown
