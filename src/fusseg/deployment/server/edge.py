"""The edge: a proxy in front of Flower's server that forwards the Fleet API and nothing else.

On the same port Flower offers an API that lets anyone register keys and run code, without a login.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fusseg.core.errors import ConfigError

FLEET_NAMES = (
    "activate-node",
    "confirm-message-received",
    "deactivate-node",
    "get-fab",
    "get-run",
    "pull-messages",
    "pull-object",
    "push-messages",
    "push-object",
    "send-node-heartbeat",
)
"""The Fleet API of Flower 1.42, without register-node and unregister-node. These are for servers
without node authentication; with it Flower refuses them."""

_HEALTH = b"/health"
_PUSH = b"/v1/fleet/push-messages"
_METHODS = {_HEALTH: "GET"} | {f"/v1/fleet/{name}".encode(): "POST" for name in FLEET_NAMES}
_FORWARDED_HEADERS = (
    b"content-type",
    b"accept",
    b"flwr-public-key",
    b"flwr-timestamp",
    b"flwr-signature",
    b"flwr-package-name",
    b"flwr-package-version",
    b"flwr-component-name",
)
_BAD, _FORBIDDEN, _WRONG_METHOD = 400, 403, 405
_TOO_SLOW, _TOO_LARGE, _HEADER_TOO_LARGE = 408, 413, 431
# Flower's nodes try again after 502, 503 and 504, and after no other error.
_UNAVAILABLE, _UPSTREAM_TOO_SLOW = 503, 504
_SHOWN_PATH = 80
# Below the 5 s after which Flower's server closes an idle connection.
_UPSTREAM_IDLE_SECONDS = 3.0
_CONNECT_SECONDS = 5.0
HEADER_BYTES = 16 * 2**10
"""Largest header of a request."""
_SUPERLINK_NODE_ID = 1
MOST_OBJECTS = 256
"""Most parts of an answer: Flower fetches each one separately. An honest answer has about four,
plus one per tensor and one per 5 MiB."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EdgeLimits:
    """Limits for requests of sites and strangers; Flower sends arrays in pieces of 5 MiB."""

    body_bytes: int = 64 * 2**20
    """Largest body of a request."""
    total_bytes: int = 512 * 2**20
    """All bodies in memory at a time; beyond it requests are turned away, to be tried again."""
    body_seconds: float = 120.0
    """Time within which a body has to arrive."""
    upstream_seconds: float = 60.0
    """Time without any sign of Flower's server after which the edge gives up."""
    connections: int = 256
    """Connections at a time; each site has about five."""


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _Held:
    """Bytes of all bodies that are in memory now."""

    def __init__(self) -> None:
        self.bytes = 0


def edge_app(upstream_url: str, ca_file: Path, limits: EdgeLimits | None = None) -> ASGIApp:
    """Build the application that forwards Fleet requests to one server, and refuses all others.

    Args:
        upstream_url: Flower's server, `https://HOST:PORT`.
        ca_file: Certificate of the authority that signed the server's.
        limits: Limits of sizes and times; default: `EdgeLimits()`.

    Raises:
        ConfigError: If the URL has another form, or the certificate cannot be used.
    """
    limits = limits or EdgeLimits()
    upstream = _check_url(upstream_url)
    # A bare transport: no proxy from the environment, no redirects, and no cookie jar that would
    # pass something from one site to another.
    transport = httpx.AsyncHTTPTransport(
        verify=_trust(ca_file),
        trust_env=False,
        limits=httpx.Limits(keepalive_expiry=_UPSTREAM_IDLE_SECONDS),
    )
    held = _Held()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(transport, receive, send)
            return
        try:
            response = await _answer(Request(scope, receive), upstream, transport, limits, held)
        except ClientDisconnect:
            return
        except _Refused as refused:
            _log_refusal(scope, refused)
            # Close: a body that is not read must not keep the connection open.
            response = PlainTextResponse(
                refused.reason, refused.status, headers={"connection": "close"}
            )
        await response(scope, receive, send)

    return app


def find_forgery(body: bytes) -> str:
    """Say why a push is not a proper answer of the node that sends it; empty if it is one.

    Flower 1.42 checks that `node` has the key that signed the request, but not that the message
    comes from `node`. A site could answer for another one. With a message that is no answer it
    could even give orders to other sites in the server's name.

    Args:
        body: Body of a push-messages request.
    """
    push = PushMessagesRequest()
    try:
        push.ParseFromString(body)
    except DecodeError:
        return "no message of Flower"
    for message in push.messages_list:
        metadata = message.metadata
        if metadata.src_node_id != push.node.node_id:
            return "an answer for another node"
        if metadata.dst_node_id != _SUPERLINK_NODE_ID or not metadata.reply_to_message_id:
            return "a message that is no answer"
    for tree in push.message_object_trees:
        parts = _count_objects(tree)
        if parts > MOST_OBJECTS:
            return f"an answer of {parts} parts, at most {MOST_OBJECTS} are allowed"
    return ""


def _count_objects(tree: ObjectTree) -> int:
    # The recursion is safe: the parser refuses trees deeper than Python's stack.
    return 1 + sum(map(_count_objects, tree.children))


async def _live(transport: httpx.AsyncHTTPTransport, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await transport.aclose()
    await send({"type": "lifespan.shutdown.complete"})


async def _answer(
    request: Request,
    upstream: str,
    transport: httpx.AsyncHTTPTransport,
    limits: EdgeLimits,
    held: _Held,
) -> Response:
    path = _check_request(request, limits)
    if path == _HEALTH:
        return await _forward(httpx.Request("GET", f"{upstream}/health"), transport, limits)
    async with _body(request, limits, held) as body:
        if path == _PUSH and (forgery := find_forgery(body)):
            raise _Refused(_FORBIDDEN, forgery)
        forwarded = httpx.Request(
            "POST",
            upstream + path.decode(),
            headers=[
                (name, value) for name, value in request.headers.raw if name in _FORWARDED_HEADERS
            ]
            + [(b"accept-encoding", b"identity"), (b"user-agent", b"fusseg-edge")],
            content=body,
        )
        return await _forward(forwarded, transport, limits)


def _check_request(request: Request, limits: EdgeLimits) -> bytes:
    """Refuse what can be refused without the body, and return the exact path."""
    # The raw path, not decoded: only the exact bytes of a known path are let in, so that the server
    # cannot read dots, slashes or percent signs differently.
    path: bytes = request.scope["raw_path"]
    if path not in _METHODS or request.scope["query_string"]:
        raise _Refused(_FORBIDDEN, "no path of the Fleet API")
    if request.method != _METHODS[path]:
        raise _Refused(_WRONG_METHOD, f"send {_METHODS[path]}")
    headers = request.headers.raw
    # h11 limits only incomplete headers; one that arrives in one piece may be larger.
    if sum(len(name) + len(value) for name, value in headers) > HEADER_BYTES:
        raise _Refused(_HEADER_TOO_LARGE, f"a header of more than {HEADER_BYTES} bytes")
    names = [name for name, _ in headers]
    if any(names.count(name) > 1 for name in _FORWARDED_HEADERS):
        raise _Refused(_BAD, "a header came twice")
    if b"content-length" in names and b"transfer-encoding" in names:
        raise _Refused(_BAD, "a body of two lengths")
    if int(request.headers.get("content-length", "0")) > limits.body_bytes:
        raise _Refused(_TOO_LARGE, f"a body of more than {limits.body_bytes} bytes")
    return path


@asynccontextmanager
async def _body(request: Request, limits: EdgeLimits, held: _Held) -> AsyncIterator[bytes]:
    body = bytearray()
    try:
        await _read(request, body, limits, held)
        yield bytes(body)
    finally:
        held.bytes -= len(body)


async def _read(request: Request, body: bytearray, limits: EdgeLimits, held: _Held) -> None:
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                held.bytes += len(chunk)
                if len(body) > limits.body_bytes:
                    raise _Refused(_TOO_LARGE, f"a body of more than {limits.body_bytes} bytes")
                if held.bytes > limits.total_bytes:
                    raise _Refused(_UNAVAILABLE, "too many bodies at a time")
    except TimeoutError:
        raise _Refused(_TOO_SLOW, f"a body that took more than {limits.body_seconds} s") from None


async def _forward(
    request: httpx.Request, transport: httpx.AsyncHTTPTransport, limits: EdgeLimits
) -> Response:
    connect_seconds = min(_CONNECT_SECONDS, limits.upstream_seconds)
    patience = httpx.Timeout(limits.upstream_seconds, connect=connect_seconds)
    request.extensions["timeout"] = patience.as_dict()
    try:
        answer = await transport.handle_async_request(request)
        try:
            content = await answer.aread()
        finally:
            await answer.aclose()
    except httpx.TimeoutException as error:
        logger.warning("the server did not answer in time: %s", type(error).__name__)
        return PlainTextResponse("the server did not answer in time", _UPSTREAM_TOO_SLOW)
    except httpx.TransportError as error:
        logger.warning("the server cannot be reached: %s", error or type(error).__name__)
        return PlainTextResponse("the server cannot be reached", _UNAVAILABLE)
    kind = answer.headers.get("content-type")
    return Response(content, answer.status_code, headers={"content-type": kind} if kind else None)


def _log_refusal(scope: Scope, refused: _Refused) -> None:
    # Method and path may come from a stranger: shortened, with unprintable characters escaped.
    client = scope.get("client")
    logger.warning(
        "refused %.16s %r from %s: %d, %s",
        scope["method"],
        scope["raw_path"][:_SHOWN_PATH],
        client[0] if client else "an unknown address",
        refused.status,
        refused.reason,
    )


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    try:
        plain = f"https://{parts.netloc}" == url.rstrip("/") and parts.port is not None
    except ValueError:
        plain = False
    if not plain or not parts.hostname or "@" in parts.netloc:
        raise ConfigError(f"the upstream must be https://HOST:PORT, got {url!r}")
    return f"https://{parts.netloc}"


def _trust(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # also ssl.SSLError
        raise ConfigError(
            f"cannot read the authority's certificate {ca_file}: {error.strerror}"
        ) from error
