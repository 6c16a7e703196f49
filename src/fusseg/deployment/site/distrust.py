"""What is wrong with a server's certificate, in words that say what to do."""

import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from fusseg.core.visible_text import brief
from fusseg.deployment.keys.credentials import load_certificate
from fusseg.deployment.wire.server_address import ServerAddress

_OTHER_NAME, _OTHER_ADDRESS = 62, 64
_OTHER_AUTHORITIES = (2, 18, 19, 20, 21)
"""Codes of OpenSSL (X509_V_ERR of x509_vfy.h)."""
_MOST_NAMES = 9


def why_untrusted(
    server: ServerAddress,
    authority: Path,
    found: x509.Certificate,
    error: ssl.SSLCertVerificationError,
) -> str:
    """Say what is wrong with a server's certificate.

    Args:
        server: Whose it is.
        authority: Certificate of the authority that has to have signed it.
        found: The server's certificate.
        error: What OpenSSL says of it.

    Raises:
        ConfigError: If the authority's certificate cannot be read.
    """
    trusted = load_certificate(authority)
    code = error.verify_code
    if code in (_OTHER_NAME, _OTHER_ADDRESS):
        return (
            f"the certificate of {server} is for {_names(found)}, not for {server.host}; use one "
            "of these names, or make the certificate anew with fusseg keys server "
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
    """Name an authority, and the beginning of its key's digest: most are called the same."""
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
