"""Every cause for which a site cannot reach its server, with real sockets and certificates."""

import socket
import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fusseg.deployment.keys.keys import create_authority, create_server_certificate
from fusseg.deployment.site.reaching import name_unused_proxies, why_unreachable
from fusseg.deployment.wire.server_address import ServerAddress

PATIENT = 10.0
SHORT = 0.3


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in ("https_proxy", "http_proxy", "all_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """An authority, and a certificate for localhost, 127.0.0.1, ::1 and fed.example.org."""
    folder = tmp_path_factory.mktemp("keys")
    create_authority(folder, 10)
    create_server_certificate(folder, ["fed.example.org", "::1"], folder, 5)
    return folder


@contextmanager
def listening(handle, host="127.0.0.1"):
    """A server that gives every connection to a function; its port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:

        def accept():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(PATIENT)
                    handle(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENT)


def with_tls(certificate, key, **settings):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    for name, value in settings.items():
        setattr(context, name, value)

    def handle(connection):
        try:
            with context.wrap_socket(connection, server_side=True) as tls:
                tls.recv(1)
        except OSError:
            pass

    return handle


def reason(port, authority, host="127.0.0.1", seconds=PATIENT):
    return why_unreachable(ServerAddress(host, port), authority, seconds)


def test_a_server_that_is_there_gives_no_reason(keys):
    with listening(with_tls(keys / "server.crt", keys / "server.key")) as port:
        assert reason(port, keys / "ca.crt") == ""
        assert reason(port, keys / "ca.crt", "localhost") == ""


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_a_server_is_reached_by_ipv6(keys):
    with listening(with_tls(keys / "server.crt", keys / "server.key"), "::1") as port:
        assert reason(port, keys / "ca.crt", "::1") == ""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_closed_port(keys):
    port = free_port()
    said = reason(port, keys / "ca.crt")
    assert said.startswith(f"nothing listens on port {port} of 127.0.0.1; is fusseg serve running")


@pytest.mark.parametrize("host", ["fed.invalid", "x" * 64 + ".example.org"])
def test_a_name_that_does_not_resolve(host, keys):
    said = reason(8443, keys / "ca.crt", host)
    assert said.startswith(f"the name {host[:49]!r}"[:50])
    assert "does not resolve (" in said
    assert "check its spelling and this machine's DNS" in said


def test_packets_that_are_dropped(keys):
    """Nobody accepts, and the queue of connections is full: what comes is dropped."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.socket() for _ in range(8)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        said = reason(server.getsockname()[1], keys / "ca.crt", seconds=SHORT)
        for one in waiting:
            one.close()
    assert "no answer from 127.0.0.1:" in said
    assert f"within {SHORT} s; a firewall may drop the packets" in said


def test_a_server_that_says_nothing(keys):
    with listening(lambda connection: connection.recv(10_000) and connection.recv(1)) as port:
        said = reason(port, keys / "ca.crt", seconds=SHORT)
    assert f"127.0.0.1:{port} takes connections but says nothing within {SHORT} s" in said
    assert "may still be starting" in said


def plain_http(connection):
    connection.recv(10_000)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def ssh(connection):
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
    connection.recv(10_000)


@pytest.mark.parametrize("handle", [plain_http, ssh])
def test_a_server_that_speaks_no_tls(handle, keys):
    with listening(handle) as port:
        said = reason(port, keys / "ca.crt")
    assert f"127.0.0.1:{port} speaks no TLS (" in said
    assert "another service listens on this port" in said


def test_a_server_that_closes_at_once(keys):
    with listening(lambda connection: connection.recv(10_000)) as port:
        assert "closed the connection before TLS began" in reason(port, keys / "ca.crt")


def test_a_server_of_an_old_tls(keys):
    handle = with_tls(
        keys / "server.crt", keys / "server.key", maximum_version=ssl.TLSVersion.TLSv1_2
    )
    with listening(handle) as port:
        assert reason(port, keys / "ca.crt") == ""


def test_a_name_that_is_not_in_the_certificate(tmp_path, keys):
    create_server_certificate(keys, ["fed.example.org", "10.1.2.3"], tmp_path, 5)
    with (
        listening(with_tls(tmp_path / "server.crt", tmp_path / "server.key")) as port,
        pytest.MonkeyPatch.context() as patch,
    ):
        resolve = socket.getaddrinfo

        def here(host, *rest, **more):
            return resolve("127.0.0.1" if host == "other.example.org" else host, *rest, **more)

        patch.setattr(socket, "getaddrinfo", here)
        said = reason(port, keys / "ca.crt", "other.example.org")
    assert said == (
        f"the certificate of other.example.org:{port} is for fed.example.org, localhost, 10.1.2.3, "
        "127.0.0.1, not for other.example.org; use one of these names, or create a new "
        "certificate with fusseg keys server other.example.org"
    )


def test_an_address_that_is_not_in_the_certificate(keys):
    with listening(with_tls(keys / "server.crt", keys / "server.key"), "127.0.0.2") as port:
        said = reason(port, keys / "ca.crt", "127.0.0.2")
    assert "is for fed.example.org, localhost, ::1, 127.0.0.1, not for 127.0.0.2;" in said


def test_another_authority(keys, tmp_path):
    create_authority(tmp_path, 10)
    with listening(with_tls(keys / "server.crt", keys / "server.key")) as port:
        said = reason(port, tmp_path / "ca.crt")
    assert f"the certificate of 127.0.0.1:{port} is signed by CN=fusseg authority,O=fusseg" in said
    assert f"but {tmp_path / 'ca.crt'} is of CN=fusseg authority,O=fusseg (key " in said
    # all are called the same, their keys differ
    keys_named = [part[:16] for part in said.split("(key ")[1:]]
    assert len(set(keys_named)) == 2
    assert "use the ca.crt of this federation" in said


def make_certificate(folder, begin, end, name="localhost", subject="fusseg server"):
    """A self-signed certificate, trusted by itself, valid between two times."""
    key = ec.generate_private_key(ec.SECP256R1())
    called = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(called)
        .issuer_name(called)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if name:
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "own.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "own.key").write_bytes(pem)
    return with_tls(folder / "own.crt", folder / "own.key")


NOW = datetime.now(UTC)


def test_an_expired_certificate(tmp_path):
    end = NOW - timedelta(days=3)
    handle = make_certificate(tmp_path, end - timedelta(days=3), end)
    with listening(handle) as port:
        said = reason(port, tmp_path / "own.crt", "localhost")
    assert f"the certificate of localhost:{port} expired on {end:%Y-%m-%d}; " in said
    assert "this machine's clock says 20" in said


def test_a_certificate_that_is_not_yet_valid(tmp_path):
    begin = NOW + timedelta(days=3)
    handle = make_certificate(tmp_path, begin, begin + timedelta(days=3))
    with listening(handle) as port:
        said = reason(port, tmp_path / "own.crt", "localhost")
    assert f"localhost:{port} is valid only from {begin:%Y-%m-%d %H:%M} UTC on; this mach" in said


def test_a_certificate_of_strangers_is_named_in_few_words(keys, tmp_path):
    nasty = "\x1b[2J\n\u202e" * 7
    end = NOW + timedelta(days=3)
    handle = make_certificate(tmp_path, NOW - timedelta(days=3), end, name="", subject=nasty)
    with listening(handle) as port:
        other = reason(port, keys / "ca.crt", "localhost")
        nameless = reason(port, tmp_path / "own.crt", "localhost")
    assert other.isprintable()
    assert len(other) < 600
    assert "is for no name at all, not for localhost" in nameless


def test_a_proxy_is_not_used_and_its_password_is_not_shown(keys, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "")
    port = free_port()
    said = reason(port, keys / "ca.crt")
    assert said.startswith("nothing listens on port")
    assert said.endswith("; the proxy in HTTPS_PROXY is not used")
    assert "secret" not in said
    with listening(with_tls(keys / "server.crt", keys / "server.key")) as port:
        assert reason(port, keys / "ca.crt") == ""


def test_proxies_are_named_by_their_variables():
    variables = {"https_proxy": "x", "GRPC_PROXY": "x", "no_proxy": "x", "all_proxy": ""}
    assert name_unused_proxies(variables) == "GRPC_PROXY, https_proxy"
    assert name_unused_proxies({}) == ""
