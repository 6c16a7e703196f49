"""Read private keys and certificates from files, and refuse those that cannot be used."""

import os
import shlex
import stat
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from fusseg.core.errors import ConfigError


def check_private(path: Path) -> None:
    """Refuse a key file that others can read, or that holds no elliptic-curve key.

    Raises:
        ConfigError: If it is missing, open to group or others, or not an EC private key.
    """
    load_private(path)


def check_server_files(key: Path, certificate: Path, authority: Path) -> None:
    """Refuse server files that do not belong together, because no site could connect.

    Args:
        key: The server's private key.
        certificate: The server's certificate, followed by intermediate ones, if any.
        authority: Certificates that the sites trust.

    Raises:
        ConfigError: If the certificate belongs to another key, or the authority did not sign it.
    """
    if load_certificate(certificate).public_key() != load_private(key).public_key():
        raise ConfigError(
            f"{key.name} does not belong to {certificate.name} in {key.parent}; create both again "
            "with fusseg keys server"
        )
    trusted = _load_certificates(authority)
    chain = _load_certificates(certificate)
    # The server's own certificate comes first, followed by those that signed it.
    for one in reversed(chain):
        if any(_is_issued_by(one, issuer) for issuer in trusted):
            trusted.append(one)
    if chain[0] not in trusted:
        raise ConfigError(
            f"{certificate.name} is not signed by {authority.name} in {authority.parent}; create "
            "it again with fusseg keys server, or put the ca.crt there that goes with it"
        )


def read_owner(path: Path) -> str | None:
    """Read the owner of NAME.key from NAME.pub, as `fusseg keys site` writes both.

    Returns:
        None if there is no such file, it belongs to another key, or it names no owner.

    Raises:
        ConfigError: If the private key cannot be used.
    """
    public = path.with_suffix(".pub")
    if path.suffix != ".key" or not public.is_file():
        return None
    with suppress(OSError, ValueError, UnsupportedAlgorithm):
        line = public.read_bytes()
        _, _, owner = line.decode().strip().split(" ", 2)
        if load_ssh_public_key(line) == load_private(path).public_key():
            return owner
    return None


def read_certificate_expiry(path: Path) -> datetime:
    """Read the time at which a certificate expires, in UTC.

    Raises:
        ConfigError: If the file cannot be read or holds no certificate.
    """
    return load_certificate(path).not_valid_after_utc


def load_private(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a private key that only its owner can read.

    Raises:
        ConfigError: If it is missing, open to group or others, or not an EC private key.
    """
    try:
        with path.open("rb") as file:
            # fstat of the open file: what is checked is what is read.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as error:
        raise ConfigError(f"cannot read the private key {path}: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigError(
            f"a private key must be closed to group and others, got mode {mode:04o}; "
            f"chmod 600 {shlex.quote(str(path))}"
        )
    key: object = None
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in content else load_pem_private_key
    # TypeError: it is encrypted.
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load(content, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            "a private key must be an elliptic-curve key without a passphrase, as `fusseg keys` "
            f"makes them, got another: {path}"
        )
    return key


def public_line(key: ec.EllipticCurvePrivateKey) -> str:
    """Write the public key of a private one in OpenSSH form, as lists of sites hold it."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def load_certificate(path: Path) -> x509.Certificate:
    """Read a certificate in PEM form, the first one if there are several.

    Raises:
        ConfigError: If the file cannot be read or holds no certificate.
    """
    return _load_certificates(path)[0]


def _load_certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the certificate {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificate in PEM form") from error


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
