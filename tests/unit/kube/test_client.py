"""Logging in, and answers that are not what was hoped for."""

import base64
from pathlib import Path

import pytest
from aiohttp import web
from kubernetes.aio import client

from partymq.errors import InvalidSecretError
from partymq.kube.client import ApiError, Client, LoginError, configuration, connection_info

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443"}}]
users: [{name: u, user: {token: secret}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


async def test_kopf_gets_the_same_login(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG)
    info = await connection_info(await configuration(str(path)))
    assert (info.server, info.token, info.scheme) == ("https://127.0.0.1:6443", "secret", "Bearer")


@pytest.mark.parametrize("content", [None, "", "no: kubeconfig", "nonsense", "[1", "clusters: 5"])
async def test_an_unusable_kubeconfig_is_refused_in_a_sentence(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(LoginError, match="Set KUBECONFIG to a file that `kubectl` can use"):
        await configuration(str(path))


async def answer(handler: object, call: str, *arguments: object, secret_label: str = "") -> object:
    """What a call gives when the API server answers so."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        settings = client.Configuration(host=f"http://127.0.0.1:{port}")
        async with Client.connect(settings, secret_label=secret_label) as api:
            return await getattr(api, call)(*arguments)
    finally:
        await runner.cleanup()


async def test_long_lists_come_in_pages() -> None:
    async def pages(request: web.Request) -> web.Response:
        assert request.query["fieldSelector"] == "status.phase!=Succeeded,status.phase!=Failed"
        last = request.query.get("continue") == "more"
        return web.json_response({"metadata": {} if last else {"continue": "more"}, "items": [{"last": last}]})

    assert await answer(pages, "list_pods", "shop") == [{"last": False}, {"last": True}]


async def test_a_refusal_carries_the_api_servers_words() -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"message": "pods is forbidden: no"}, status=403)

    with pytest.raises(
        ApiError, match=r"^list pods of namespace shop: the API server answered 403: pods is forbidden: no"
    ) as e:
        await answer(refuse, "list_pods", "shop")
    assert e.value.status == 403


async def test_a_missing_kind_is_said_with_what_installs_it() -> None:
    async def unknown(_: web.Request) -> web.Response:
        return web.Response(text="404 page not found", status=404)

    for namespace in (None, "shop"):
        with pytest.raises(ApiError, match=r"PartitionGroup is not installed\. Install it: `kubectl apply -f crds/`"):
            await answer(unknown, "list_groups", namespace)


async def test_something_else_that_answers_is_an_error_too() -> None:
    async def proxy(_: web.Request) -> web.Response:
        return web.Response(text="<html>Bad gateway</html>", status=502)

    with pytest.raises(ApiError, match="502: <html>Bad gateway"):
        await answer(proxy, "list_groups", None)


async def test_nobody_there_is_an_error_with_status_0() -> None:
    async with Client.connect(client.Configuration(host="http://127.0.0.1:1")) as api:
        with pytest.raises(ApiError, match="cannot be reached") as error:
            await api.list_groups("shop")
    assert error.value.status == 0


@pytest.mark.parametrize("value", ["/w==", "not base64!"])
async def test_a_secret_that_is_no_text_is_named(value: str) -> None:
    async def secret(_: web.Request) -> web.Response:
        return web.json_response({"data": {"uri": value}})

    with pytest.raises(InvalidSecretError, match=r"Secret shop/rabbitmq: the value of 'uri' is not text in UTF-8"):
        await answer(secret, "read_secret", "shop", "rabbitmq")


async def test_a_secret_is_decoded_and_may_be_empty_or_missing() -> None:
    async def secret(request: web.Request) -> web.Response:
        match request.path.rsplit("/")[-1]:
            case "full":
                return web.json_response({"data": {"host": base64.b64encode("bröker".encode()).decode()}})
            case "empty":
                return web.json_response({})
            case _:
                return web.json_response({"message": "not found"}, status=404)

    assert await answer(secret, "read_secret", "shop", "full") == {"host": "bröker"}
    assert await answer(secret, "read_secret", "shop", "empty") == {}
    assert await answer(secret, "read_secret", "shop", "none") is None


@pytest.mark.parametrize(
    ("labels", "wanted", "read"),
    [
        ({"partymq.io/connection": "true"}, "partymq.io/connection=true", True),
        ({"partymq.io/connection": "yes"}, "partymq.io/connection", True),
        ({"partymq.io/connection": "false"}, "partymq.io/connection=true", False),
        ({}, "partymq.io/connection", False),
        (None, "partymq.io/connection=true", False),
        (None, "", True),
    ],
)
async def test_only_secrets_that_carry_the_label_are_used(labels: object, wanted: str, read: bool) -> None:
    async def secret(_: web.Request) -> web.Response:
        return web.json_response({"metadata": {"labels": labels}, "data": {"uri": base64.b64encode(b"hush").decode()}})

    if read:
        assert await answer(secret, "read_secret", "shop", "s", secret_label=wanted) == {"uri": "hush"}
        return
    with pytest.raises(InvalidSecretError, match=r"does not carry the label partymq\.io/connection") as caught:
        await answer(secret, "read_secret", "shop", "s", secret_label=wanted)
    assert "hush" not in str(caught.value)


async def test_what_the_api_server_says_is_cut_and_escaped() -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"message": "\x1b[31m" + "x" * 60_000}, status=403)

    async def odd(_: web.Request) -> web.Response:
        return web.json_response(["no", "object"], status=500)

    for handler in (refuse, odd):
        with pytest.raises(ApiError) as caught:
            await answer(handler, "read_secret", "shop", "s")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1200


async def test_a_kubeconfig_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG.replace("token: secret", "token: hush: hush"))
    with pytest.raises(LoginError) as caught:
        await configuration(str(path))
    assert "hush" not in str(caught.value)
