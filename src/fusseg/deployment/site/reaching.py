"""Why a server cannot be reached: one attempt of TCP and TLS, and a message for each cause."""

import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509

from fusseg.core.visible_text import shown
from fusseg.deployment.site.distrust import why_untrusted
from fusseg.deployment.wire.server_address import ServerAddress

SECONDS = 10.0
"""For each step of an attempt."""
_PROXIES = ("https_proxy", "all_proxy", "grpc_proxy", "http_proxy")


def name_unused_proxies(variables: Mapping[str, str]) -> str:
    """Name the variables that set a proxy, for none is used; empty where none is set."""
    names = [name for name in variables if name.lower() in _PROXIES and variables[name]]
    return ", ".join(sorted(names))


def why_unreachable(server: ServerAddress, authority: Path, seconds: float = SECONDS) -> str:
    """Try to reach a server, and say why that fails; empty where it does not.

    Args:
        server: Its address.
        authority: Certificate of the authority that has to have signed the server's.
        seconds: For the connection, and again for TLS.
    """
    try:
        plain = socket.create_connection((server.host, server.port), seconds)
    except (OSError, UnicodeError) as error:
        reason = _no_connection(server, error, seconds)
    else:
        with plain:
            reason = _try_tls(plain, server, authority, seconds)
    proxies = name_unused_proxies(os.environ)
    if reason and proxies:
        reason += f"; the proxy in {proxies} is not used"
    return reason


def _no_connection(server: ServerAddress, error: OSError | UnicodeError, seconds: float) -> str:
    # A UnicodeError: a part of the name is longer than DNS allows.
    if isinstance(error, socket.gaierror | UnicodeError):
        said = error.strerror if isinstance(error, socket.gaierror) else error
        return (
            f"the name {shown(server.host)} does not resolve ({said}); check its spelling and this "
            "machine's DNS"
        )
    if isinstance(error, TimeoutError):
        return (
            f"no answer from {server} within {seconds:g} s; a firewall may drop the packets, or "
            "the machine is off"
        )
    if isinstance(error, ConnectionRefusedError):
        return (
            f"nothing listens on port {server.port} of {server.host}; is fusseg serve running, and "
            "is this its --port?"
        )
    return f"{server} cannot be reached: {error.strerror or error}"


def _try_tls(plain: socket.socket, server: ServerAddress, authority: Path, seconds: float) -> str:
    # As Flower's own client does it.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(authority)
    except OSError as error:  # also ssl.SSLError
        return f"the authority's certificate {authority} cannot be read: {error}"
    plain.settimeout(seconds)
    try:
        with context.wrap_socket(plain, server_hostname=server.host):
            return ""
    except ssl.SSLCertVerificationError as error:
        found = _fetch_certificate(server, seconds)
        if found is None:
            return f"the certificate of {server} cannot be verified: {error.verify_message}"
        return why_untrusted(server, authority, found, error)
    except TimeoutError:
        return (
            f"{server} takes connections but says nothing within {seconds:g} s; the server may "
            "still be starting, or something else listens there"
        )
    except ssl.SSLError as error:
        return _no_tls(server, error)
    except OSError as error:
        return f"{server} closed the connection before TLS began ({error.strerror or error})"


def _no_tls(server: ServerAddress, error: ssl.SSLError) -> str:
    said = (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, ssl.SSLEOFError):
        return f"{server} closed the connection before TLS began"
    if "alert" in said:
        return f"{server} and this site cannot agree on TLS ({said}); both need TLS 1.2 or 1.3"
    return (
        f"{server} speaks no TLS ({said}); another service listens on this port, such as a web "
        "server without TLS"
    )


def _fetch_certificate(server: ServerAddress, seconds: float) -> x509.Certificate | None:
    """Take a certificate that is not trusted, to say what is wrong with it and for nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((server.host, server.port), seconds) as plain,
            context.wrap_socket(plain, server_hostname=server.host) as tls,
        ):
            return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError):
        return None
