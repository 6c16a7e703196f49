"""Find out why a server cannot be reached: try TCP and TLS once, with a message for each cause."""

import os
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from fusseg.core.visible_text import brief, shown
from fusseg.deployment.keys.credentials import load_certificate
from fusseg.deployment.wire.server_address import ServerAddress

SECONDS = 10.0
"""Timeout of each step of an attempt."""
_PROXIES = ("https_proxy", "all_proxy", "grpc_proxy", "http_proxy")
_OTHER_NAME, _OTHER_ADDRESS = 62, 64
_OTHER_AUTHORITIES = (2, 18, 19, 20, 21)
"""Codes of OpenSSL (X509_V_ERR of x509_vfy.h)."""
_MOST_NAMES = 9


def name_unused_proxies(variables: Mapping[str, str]) -> str:
    """Name the variables that set a proxy, which is not used; empty if there are none."""
    names = [name for name in variables if name.lower() in _PROXIES and variables[name]]
    return ", ".join(sorted(names))


def why_unreachable(server: ServerAddress, authority: Path, seconds: float = SECONDS) -> str:
    """Try to reach a server, and say why that fails; empty if it succeeds.

    Args:
        server: Its address.
        authority: Certificate of the authority that must have signed the server's certificate.
        seconds: Timeout of the connection, and again of TLS.
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
    # UnicodeError: a part of the name is longer than DNS allows.
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
        return _why_untrusted(server, authority, found, error)
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
    """Fetch a certificate that is not trusted, only to say what is wrong with it."""
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


def _why_untrusted(
    server: ServerAddress,
    authority: Path,
    found: x509.Certificate,
    error: ssl.SSLCertVerificationError,
) -> str:
    """Say what is wrong with a server's certificate, and what to do about it."""
    trusted = load_certificate(authority)
    code = error.verify_code
    if code in (_OTHER_NAME, _OTHER_ADDRESS):
        return (
            f"the certificate of {server} is for {_names(found)}, not for {server.host}; use one "
            "of these names, or create a new certificate with fusseg keys server "
            f"{server.host}"
        )
    if code in _OTHER_AUTHORITIES:
        issuer = _describe(found.issuer, _issuer_key(found))
        return (
            f"the certificate of {server} is signed by {issuer}, but {authority} is of "
            f"{_describe(trusted.subject, _own_key(trusted))}; use the ca.crt of this federation. "
            "If it is that, another machine answers in the server's place"
        )
    return _wrong_time(server, authority, found, trusted) or (
        f"the certificate of {server} cannot be verified: {error.verify_message}"
    )


def _wrong_time(
    server: ServerAddress, authority: Path, found: x509.Certificate, trusted: x509.Certificate
) -> str:
    now = datetime.now(UTC)
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    certificates = ((f"the certificate of {server}", found), (str(authority), trusted))
    for name, certificate in certificates:
        if certificate.not_valid_after_utc < now:
            return (
                f"{name} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; its operator has "
                f"to make a new one with fusseg keys ({clock})"
            )
        if certificate.not_valid_before_utc > now:
            return (
                f"{name} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC "
                f"on; {clock}"
            )
    return ""


def _names(certificate: x509.Certificate) -> str:
    try:
        kind = x509.SubjectAlternativeName
        found = certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return "no name at all"
    names = [*found.get_values_for_type(x509.DNSName)]
    names += map(str, found.get_values_for_type(x509.IPAddress))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return brief(", ".join(names[:_MOST_NAMES]), 300) + more


def _describe(name: x509.Name, key_of: bytes) -> str:
    """Describe an authority, with the start of its key's digest: most have the same name."""
    said = brief(name.rfc4514_string() or "an authority without a name", 100)
    return f"{said} (key {key_of.hex()[:16]})" if key_of else said


def _issuer_key(certificate: x509.Certificate) -> bytes:
    try:
        kind = x509.AuthorityKeyIdentifier
        return certificate.extensions.get_extension_for_class(kind).value.key_identifier or b""
    except (x509.ExtensionNotFound, ValueError):
        return b""


def _own_key(certificate: x509.Certificate) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
