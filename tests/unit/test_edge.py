import logging
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from fusseg.core.errors import ConfigError

pytest.importorskip("flwr", reason="httpx, starlette and uvicorn come with it")

import httpx
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from starlette.requests import Request
from starlette.responses import Response

from fusseg.deployment.keys.keys import create_authority, create_server_certificate
from fusseg.deployment.processes import listen
from fusseg.deployment.server.edge import FLEET_NAMES, EdgeLimits, edge_app, find_forgery
from fusseg.deployment.server.edge_process import edge_server, main

LIMITS = EdgeLimits(body_bytes=100_000, total_bytes=150_000, body_seconds=1.0, upstream_seconds=1.0)
ALLOWED = b"POST /v1/fleet/get-run HTTP/1.1\r\nhost: a\r\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    create_authority(folder, 2)
    create_server_certificate(folder, [], folder, 1)
    return folder


@contextmanager
def running(server):
    """Run a server in a thread on a port of its own, and give the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def running_edge(keys, upstream_port, limits=LIMITS):
    app = edge_app(f"https://127.0.0.1:{upstream_port}", keys / "ca.crt", limits)
    certificate, key = keys / "server.crt", keys / "server.key"
    with running(edge_server(app, certificate=certificate, key=key)) as port:
        yield port


class Upstream:
    """Stands for Flower's server: answers by the path, and keeps what came."""

    def __init__(self):
        self.seen = []

    async def __call__(self, scope, receive, send):
        request = Request(scope, receive)
        self.seen.append((request.method, scope["raw_path"], request.headers, await request.body()))
        if scope["raw_path"] == b"/v1/fleet/get-fab":
            headers = {"set-cookie": "a=b", "x-secret": "1", "content-type": "application/json"}
            await Response(b'{"code": 7}', 401, headers)(scope, receive, send)
        else:
            kind = "application/x-protobuf"
            await Response(b"\0\xffanswer", media_type=kind)(scope, receive, send)


@pytest.fixture(scope="module")
def server(keys):
    upstream = Upstream()
    config = uvicorn.Config(
        upstream,
        lifespan="off",
        ws="none",  # uvicorn's own import of websockets warns
        log_config=None,
        ssl_certfile=keys / "server.crt",
        ssl_keyfile=keys / "server.key",
    )
    with running(uvicorn.Server(config)) as port:
        upstream.port = port
        yield upstream


@pytest.fixture(scope="module")
def edge_port(keys, server):
    with running_edge(keys, server.port) as port:
        yield port


@pytest.fixture
def upstream(server):
    server.seen.clear()
    return server


@pytest.fixture
def client(keys, edge_port):
    context = ssl.create_default_context(cafile=keys / "ca.crt")
    with httpx.Client(base_url=f"https://localhost:{edge_port}", verify=context) as client:
        yield client


@contextmanager
def connected(keys, port):
    context = ssl.create_default_context(cafile=keys / "ca.crt")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        yield secure


def read_all(connection):
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def read_answer(connection):
    """Read until the upstream's answer is whole; the connection goes on."""
    answer = b""
    while not answer.endswith(b"answer"):
        part = connection.recv(65536)
        assert part
        answer += part
    return answer


def status(answer):
    return int(answer.split(b" ", 2)[1])


@pytest.fixture
def ask(keys, edge_port):
    """Send bytes as they are, and give the whole answer up to the end of the connection."""

    def send(content):
        with connected(keys, edge_port) as connection:
            connection.sendall(content)
            return read_all(connection)

    return send


@pytest.mark.parametrize("name", [name for name in FLEET_NAMES if name != "push-messages"])
def test_the_fleet_api_is_forwarded(client, upstream, name):
    answer = client.post(f"/v1/fleet/{name}", content=b"\0body\xff")
    ((method, path, _, body),) = upstream.seen
    assert (method, path, body) == ("POST", f"/v1/fleet/{name}".encode(), b"\0body\xff")
    if name != "get-fab":
        assert (answer.status_code, answer.content) == (200, b"\0\xffanswer")


def test_health_is_the_servers(client, upstream):
    assert client.get("/health").status_code == 200
    assert [seen[:2] for seen in upstream.seen] == [("GET", b"/health")]


def test_only_the_headers_that_flower_needs_are_forwarded(client, upstream):
    flower = {
        "content-type": "application/x-protobuf",
        "accept": "application/x-protobuf",
        "flwr-public-key": "a",
        "flwr-timestamp": "b",
        "flwr-signature": "c",
        "flwr-package-name": "flwr",
        "flwr-package-version": "1.42.0",
        "flwr-component-name": "SuperNode",
    }
    others = {
        "cookie": "a=b",
        "x-forwarded-for": "1.2.3.4",
        "authorization": "Bearer a",
        "flwr-task-token": "a",
        "accept-encoding": "gzip",
        "te": "trailers",
    }
    client.post("/v1/fleet/get-run", content=b"1234", headers=flower | others)
    ((_, _, headers, _),) = upstream.seen
    assert dict(headers) == flower | {
        "accept-encoding": "identity",
        "content-length": "4",
        "host": f"127.0.0.1:{upstream.port}",
        "user-agent": "fusseg-edge",
    }


def test_of_an_answer_status_kind_and_body_come_back_and_no_cookie_is_kept(client, upstream):
    for _ in range(2):
        answer = client.post("/v1/fleet/get-fab")
        assert (answer.status_code, answer.content) == (401, b'{"code": 7}')
        assert set(answer.headers) == {"content-type", "content-length", "date"}
        assert answer.headers["content-type"] == "application/json"
    assert all("cookie" not in headers for _, _, headers, _ in upstream.seen)


def test_a_chunked_body_is_forwarded_with_a_length(ask, upstream):
    chunks = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    answer = ask(ALLOWED + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunks)
    ((_, _, headers, body),) = upstream.seen
    assert (status(answer), body, headers["content-length"]) == (200, b"abcde", "5")
    assert "transfer-encoding" not in headers


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", target)
        for target in (
            "/",
            "*",
            "/v1/fleet",
            "/v1/fleet/",
            "/v1/fleet/register-node",
            "/v1/fleet/unregister-node",
            "/v1/fleet/other",
            "/v1/control/start-run",
            "/v1/control/register-node",
            "/v1/runtime/acquire-task",
            "/docs",
            "/openapi.json",
            "/v1/fleet/get-run/",
            "/v1/fleet//get-run",
            "//v1/fleet/get-run",
            "/v1/fleet/./get-run",
            "/v1/fleet/../control/start-run",
            "/v1/fleet/..%2fcontrol/start-run",
            "/v1/fleet/%2e%2e/control/start-run",
            "/v1/fleet/get%2drun",
            "/v1/fleet/get-run%00",
            "/v1/fleet/get-run%2f..%2f..%2fcontrol%2fstart-run",
            "/v1%2ffleet/get-run",
            "/v1/fleet/get-run?a=1",
            "/v1/fleet/get-run#a",
            "/v1/fleet/get-run;a",
            "/v1\\fleet\\get-run",
            "/V1/FLEET/GET-RUN",
            "https://localhost/v1/fleet/get-run",
            "http://example.org/v1/control/start-run",
            "localhost:443",
        )
    ]
    + [
        ("GET", "/"),
        ("GET", "/health/"),
        ("GET", "/health?a"),
        ("GET", "https://example.org/health"),
        ("CONNECT", "example.org:443"),
        ("OPTIONS", "*"),
    ],
)
def test_no_other_path_is_forwarded(ask, upstream, method, target):
    answer = ask(f"{method} {target} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n".encode())
    assert status(answer) == 403
    assert answer.endswith(b"\r\n\r\nno path of the Fleet API")
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("method", "target", "right"),
    [
        ("GET", "/v1/fleet/get-run", b"POST"),
        ("HEAD", "/v1/fleet/get-run", b""),
        ("OPTIONS", "/v1/fleet/get-run", b"POST"),
        ("PUT", "/v1/fleet/get-run", b"POST"),
        ("post", "/v1/fleet/get-run", b"POST"),
        ("CONNECT", "/v1/fleet/get-run", b"POST"),
        ("POST", "/health", b"GET"),
        ("TRACE", "/health", b"GET"),
    ],
)
def test_no_other_method_is_forwarded(ask, upstream, method, target, right):
    answer = ask(f"{method} {target} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n".encode())
    assert status(answer) == 405
    assert answer.endswith(b"send " + right if right else b"\r\n\r\n")
    assert upstream.seen == []


@pytest.mark.parametrize(
    "content",
    [
        b"POST /v1/fleet/get-run\0 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST /v1/fleet/get-r\xc3\xbcn HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST /v1/fleet/get-run HTTP/1.1 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST /v1/fleet/get-run HTTP/1.1\r\n\r\n",
        ALLOWED + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        ALLOWED + b"content-length: -1\r\n\r\n",
        ALLOWED + b"content-length: 0x1\r\n\r\na",
        ALLOWED + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ALLOWED + b"content-length : 1\r\n\r\na",
        b"\x16\x03\x01 no http",
    ],
)
def test_what_is_no_proper_http_is_refused(ask, upstream, content):
    assert status(ask(content)) in (400, 501)
    assert upstream.seen == []


def test_a_header_may_come_once(ask, upstream):
    answer = ask(ALLOWED + b"flwr-signature: a\r\nFlwr-Signature: b\r\n\r\n")
    assert status(answer) == 400
    assert answer.endswith(b"a header came twice")
    assert upstream.seen == []


def test_a_header_has_a_bound_whether_it_comes_in_one_go_or_not(keys, ask, edge_port, upstream):
    answer = ask(ALLOWED + b"x: " + b"a" * 20_000 + b"\r\n\r\n")
    assert status(answer) == 431
    assert answer.endswith(b"a header of more than 16384 bytes")
    with connected(keys, edge_port) as connection:
        connection.sendall(ALLOWED + b"x: " + b"a" * 20_000)
        assert status(read_all(connection)) == 400
    assert upstream.seen == []


def test_a_body_has_one_length(ask, upstream):
    answer = ask(ALLOWED + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
    assert status(answer) == 400
    assert answer.endswith(b"a body of two lengths")
    assert upstream.seen == []


def test_of_two_requests_in_one_go_each_is_looked_at(ask, upstream):
    first = ALLOWED + b"content-length: 3\r\n\r\nabc"
    second = b"POST /v1/control/start-run HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
    answer = ask(first + second)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"403"]
    assert [seen[1] for seen in upstream.seen] == [b"/v1/fleet/get-run"]


def test_a_body_of_the_bound_is_forwarded(client, upstream):
    body = bytes(LIMITS.body_bytes)
    assert client.post("/v1/fleet/push-object", content=body).status_code == 200
    assert len(upstream.seen[0][3]) == LIMITS.body_bytes


def test_a_body_said_to_be_larger_is_refused_before_it_comes(ask, upstream):
    for length in (LIMITS.body_bytes + 1, 10**18):
        answer = ask(ALLOWED + f"content-length: {length}\r\n\r\n".encode())
        assert status(answer) == 413
        assert answer.endswith(b"a body of more than 100000 bytes")
    assert upstream.seen == []


def test_a_chunked_body_is_refused_once_it_is_larger(ask, upstream):
    chunk = b"ffff\r\n" + bytes(0xFFFF) + b"\r\n"
    answer = ask(ALLOWED + b"transfer-encoding: chunked\r\n\r\n" + 2 * chunk)
    assert status(answer) == 413
    assert upstream.seen == []


def test_bodies_have_a_bound_together(keys, edge_port, upstream):
    header = ALLOWED + b"content-length: 90000\r\n\r\n"
    with connected(keys, edge_port) as first, connected(keys, edge_port) as second:
        first.sendall(header + bytes(80_000))
        time.sleep(0.2)
        second.sendall(header + bytes(90_000))
        answer = read_all(second)
        assert status(answer) == 503
        assert answer.endswith(b"too many bodies at a time")
        first.sendall(bytes(10_000))
        assert status(read_answer(first)) == 200
    with connected(keys, edge_port) as third:
        third.sendall(header + bytes(90_000))
        assert status(read_answer(third)) == 200


def test_a_body_must_come_in_time(keys, edge_port, upstream):
    begin = time.monotonic()
    with connected(keys, edge_port) as connection:
        connection.sendall(ALLOWED + b"content-length: 100\r\n\r\n")
        for _ in range(4):
            time.sleep(0.2)
            connection.sendall(b"a")
        answer = read_all(connection)
    assert status(answer) == 408
    assert answer.endswith(b"a body that took more than 1.0 s")
    assert time.monotonic() - begin < 30
    assert upstream.seen == []


def test_a_header_must_come_in_time_however_it_trickles(keys, server):
    app = edge_app(f"https://127.0.0.1:{server.port}", keys / "ca.crt", LIMITS)
    edge = edge_server(app, certificate=keys / "server.crt", key=keys / "server.key")
    edge.config.timeout_keep_alive = 1
    with running(edge) as port, connected(keys, port) as idle, connected(keys, port) as slow:
        begin = time.monotonic()
        for byte in ALLOWED[:4]:
            slow.sendall(bytes([byte]))
            time.sleep(0.2)
        assert slow.recv(100) == b""
        assert idle.recv(100) == b""
        assert 0.9 < time.monotonic() - begin < 30
        with connected(keys, port) as kept:
            for _ in range(4):
                kept.sendall(ALLOWED + b"content-length: 0\r\n\r\n")
                assert status(read_answer(kept)) == 200
                time.sleep(0.5)


def test_a_client_that_leaves_is_no_error(keys, edge_port, upstream, caplog):
    with connected(keys, edge_port) as connection:
        connection.sendall(ALLOWED + b"content-length: 10\r\n\r\nabc")
    time.sleep(0.3)
    assert upstream.seen == []
    assert caplog.records == []


def test_beyond_so_many_connections_nodes_are_told_to_try_again(keys, server):
    limits = EdgeLimits(connections=2)
    app = edge_app(f"https://127.0.0.1:{server.port}", keys / "ca.crt", limits)
    certificate, key = keys / "server.crt", keys / "server.key"
    edge = edge_server(app, certificate=certificate, key=key, limits=limits)
    with running(edge) as port, connected(keys, port), connected(keys, port) as second:
        second.sendall(ALLOWED + b"content-length: 0\r\n\r\n")
        assert status(read_all(second)) == 503


def test_a_server_that_is_down_or_another_means_try_again(keys, tmp_path, server):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context = ssl.create_default_context(cafile=keys / "ca.crt")
    with running_edge(keys, port) as edge, httpx.Client(verify=context) as client:
        answer = client.post(f"https://localhost:{edge}/v1/fleet/get-run")
        assert (answer.status_code, answer.text) == (503, "the server cannot be reached")

    create_authority(tmp_path, 1)
    app = edge_app(f"https://127.0.0.1:{server.port}", tmp_path / "ca.crt")
    distrusting = edge_server(app, certificate=keys / "server.crt", key=keys / "server.key")
    server.seen.clear()
    with running(distrusting) as edge, httpx.Client(verify=context) as client:
        assert client.post(f"https://localhost:{edge}/v1/fleet/get-run").status_code == 503
    assert server.seen == []


def test_a_server_that_does_not_answer_means_try_again(keys):
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        running_edge(keys, silent.getsockname()[1]) as edge,
        httpx.Client(verify=ssl.create_default_context(cafile=keys / "ca.crt")) as client,
    ):
        answer = client.post(f"https://localhost:{edge}/v1/fleet/get-run")
        assert (answer.status_code, answer.text) == (504, "the server did not answer in time")


def test_the_environment_sends_nothing_elsewhere(keys, server, monkeypatch):
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    context = ssl.create_default_context(cafile=keys / "ca.crt")
    with (
        running_edge(keys, server.port) as edge,
        httpx.Client(verify=context, trust_env=False) as client,
    ):
        assert client.get(f"https://localhost:{edge}/health").status_code == 200


def test_a_refusal_is_one_line_with_everything_odd_escaped(ask, caplog):
    with caplog.at_level(logging.WARNING):
        ask(b"POST /\x1b[31m" + b"a" * 200 + b" HTTP/1.1\r\nhost: a\r\n\r\n")
        ask(b"A" * 50 + b" /'\"" + b"a" * 200 + b" HTTP/1.1\r\nhost: a\r\n\r\nsecret")
    ours = [record for record in caplog.records if record.name == "fusseg.deployment.server.edge"]
    assert [record.getMessage() for record in ours] == [
        f"refused {'A' * 16} b'/\\'\"{'a' * 77}' from 127.0.0.1: 403, no path of the Fleet API"
    ]
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_new_versions_of_tls_are_spoken(keys, edge_port, version):
    context = ssl.create_default_context(cafile=keys / "ca.crt")
    context.minimum_version = context.maximum_version = version
    with httpx.Client(verify=context) as client:
        assert client.get(f"https://localhost:{edge_port}/health").status_code == 200


def test_old_versions_of_tls_are_not(keys, edge_port):
    context = ssl.create_default_context(cafile=keys / "ca.crt")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", edge_port)) as plain,
        pytest.raises(ssl.SSLError),
        context.wrap_socket(plain, server_hostname="localhost"),
    ):
        pass


def push(node=5, source=5, target=1, answers="m", parts=2):
    metadata = Metadata(src_node_id=source, dst_node_id=target, reply_to_message_id=answers)
    tree = ObjectTree(children=[ObjectTree() for _ in range(parts - 1)])
    return PushMessagesRequest(
        node=Node(node_id=node),
        messages_list=[Message(metadata=metadata)],
        message_object_trees=[tree],
    ).SerializeToString()


def test_a_nodes_own_answer_is_forwarded(client, upstream):
    assert find_forgery(push()) == ""
    assert find_forgery(push(parts=256)) == ""
    assert client.post("/v1/fleet/push-messages", content=push()).status_code == 200
    assert upstream.seen[0][3] == push()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (push(source=6), "an answer for another node"),
        (push(source=1), "an answer for another node"),
        (push(target=6), "a message that is no answer"),
        (push(answers=""), "a message that is no answer"),
        (b"\xff", "no message of Flower"),
        # each part would be fetched by itself, and each request takes milliseconds
        (push(parts=257), "an answer of 257 parts, at most 256 are allowed"),
        (push(parts=40_000), "an answer of 40000 parts, at most 256 are allowed"),
    ],
)
def test_a_message_in_anothers_name_is_not(client, upstream, body, reason):
    answer = client.post("/v1/fleet/push-messages", content=body)
    assert (answer.status_code, answer.text) == (403, reason)
    assert upstream.seen == []


def test_the_names_are_those_of_this_flower():
    from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

    fleet = {path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/fleet/")}
    withheld = {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
    assert fleet == {f"/v1/fleet/{name}" for name in FLEET_NAMES} | withheld


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "https://127.0.0.1",
        "https://127.0.0.1:1/v1",
        "https://a@127.0.0.1:1",
        "https://127.0.0.1:1?a",
        "https://127.0.0.1:a",
        "127.0.0.1:1",
    ],
)
def test_the_upstream_is_host_and_port(keys, url):
    with pytest.raises(ConfigError) as caught:
        edge_app(url, keys / "ca.crt")
    assert str(caught.value) == f"the upstream must be https://HOST:PORT, got {url!r}"


def test_an_authority_that_cannot_be_read_is_named(keys):
    path = keys / "none.crt"
    with pytest.raises(ConfigError) as caught:
        edge_app("https://127.0.0.1:1", path)
    assert str(caught.value) == (
        f"cannot read the authority's certificate {path}: No such file or directory"
    )


def serve(folder, key="server.key"):
    edge_server(
        edge_app("https://127.0.0.1:1", folder / "ca.crt"),
        certificate=folder / "server.crt",
        key=folder / key,
    )


def test_certificate_and_key_belong_together(keys):
    with pytest.raises(ConfigError) as caught:
        serve(keys, key="ca.key")
    assert str(caught.value).startswith(
        f"{keys / 'server.crt'} and {keys / 'ca.key'} must belong together, got "
    )


def test_an_expired_certificate_is_refused(keys, tmp_path):
    key = ec.generate_private_key(ec.SECP384R1())
    expired = (
        x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), 1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2021, 2, 3, tzinfo=UTC))
    )
    (tmp_path / "server.crt").write_bytes(expired.sign(key, SHA384()).public_bytes(Encoding.PEM))
    (tmp_path / "ca.crt").write_bytes((keys / "ca.crt").read_bytes())
    (tmp_path / "server.key").write_bytes((keys / "server.key").read_bytes())
    (tmp_path / "server.key").chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        serve(tmp_path)
    assert str(caught.value) == (
        "the server's certificate expired on 2021-02-03; make a new one with `fusseg keys server`: "
        f"{tmp_path / 'server.crt'}"
    )


def test_a_wrong_setting_ends_the_command_with_2(keys, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*arguments(keys, 0, "http://127.0.0.1:1")])
    assert caught.value.code == 2
    expected = "error: the upstream must be https://HOST:PORT, got 'http://127.0.0.1:1'\n"
    assert capsys.readouterr().err == expected


def arguments(keys, number, upstream):
    options = {
        "socket": number,
        "certificate": keys / "server.crt",
        "key": keys / "server.key",
        "upstream": upstream,
        "ca": keys / "ca.crt",
    }
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def test_the_edge_is_a_process_that_ends_when_told_to(keys, upstream):
    """It takes a socket that its parent listens on, and what has come to it before."""
    context = ssl.create_default_context(cafile=keys / "ca.crt")
    (listening,) = listen("127.0.0.1", 0)
    port, number = listening.getsockname()[1], listening.fileno()
    command = [sys.executable, "-m", "fusseg.deployment.server.edge_process"]
    command += arguments(keys, number, f"https://127.0.0.1:{upstream.port}")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, pass_fds=[number])
    with listening, process:
        try:
            answer = httpx.get(f"https://localhost:{port}/health", verify=context, timeout=60)
            refused = httpx.post(f"https://localhost:{port}/v1/control/start-run", verify=context)
        finally:
            process.terminate()
        told = process.stderr.read()
    assert answer.status_code == 200
    assert refused.status_code == 403
    assert told.count("\n") == 1
    assert "refused POST b'/v1/control/start-run' from 127.0.0.1: 403" in told
