"""The edge as a process: a TLS server that closes a connection if the request header is late."""

import argparse
import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from fusseg.core.errors import ConfigError, FussegError
from fusseg.core.visible_text import say
from fusseg.deployment.keys.credentials import check_private, read_certificate_expiry
from fusseg.deployment.server.edge import HEADER_BYTES, EdgeLimits, edge_app

# Nodes poll every 3 s. Also the time within which a header has to arrive.
_IDLE_SECONDS = 15


def edge_server(
    app: ASGIApp,
    *,
    certificate: Path,
    key: Path,
    limits: EdgeLimits | None = None,
) -> uvicorn.Server:
    """Prepare a server for the edge; its `run(sockets)` returns when it is told to stop.

    Args:
        app: The application made by `edge_app`.
        certificate: Server certificate in PEM form.
        key: Its private key.
        limits: Its number of connections applies.

    Raises:
        ConfigError: If others can read the key, or if certificate or key cannot be used, or the
            certificate has expired.
    """
    check_private(key)
    expiry = read_certificate_expiry(certificate)
    if expiry <= datetime.now(UTC):
        raise ConfigError(
            f"the server's certificate expired on {expiry:%Y-%m-%d}; make a new one with "
            f"`fusseg keys server`: {certificate}"
        )
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=_PunctualProtocol,
        ws="none",
        interface="asgi3",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=(limits or EdgeLimits()).connections,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=HEADER_BYTES,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ssl_ciphers="ECDHE+AESGCM:ECDHE+CHACHA20",
    )
    try:
        config.load()
    except OSError as error:  # also ssl.SSLError
        raise ConfigError(f"{certificate} and {key} must belong together, got {error}") from error
    assert config.ssl is not None
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    config.ssl.options |= ssl.OP_NO_RENEGOTIATION
    return uvicorn.Server(config)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the edge until it is told to stop; wrong input ends it with exit status 2.

    Args:
        arguments: Command-line arguments; default: those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="fusseg.deployment.server.edge_process", description=__doc__
    )
    parser.add_argument(
        "--socket",
        required=True,
        type=int,
        action="append",
        help="number of a listening socket that this process inherits",
    )
    parser.add_argument("--certificate", required=True, type=Path)
    parser.add_argument("--key", required=True, type=Path)
    parser.add_argument("--upstream", required=True, help="Flower's server, https://HOST:PORT")
    parser.add_argument("--ca", required=True, type=Path, help="certificate of the authority")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        server = edge_server(
            edge_app(options.upstream, options.ca),
            certificate=options.certificate,
            key=options.key,
        )
    except FussegError as error:
        say(f"error: {error}", error=True)
        raise SystemExit(2) from None
    server.run([socket.socket(fileno=number) for number in options.socket])


class _PunctualProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection with a late header; uvicorn would wait without limit."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def _expect_header(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._forget_deadline()
        elif self._deadline is None:
            # Further bytes do not extend the deadline, however slowly they trickle in.
            self._deadline = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


if __name__ == "__main__":
    main()
