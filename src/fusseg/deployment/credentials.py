"""Reading private keys and certificates from their files, and refusing what cannot be used."""

import os
import shlex
import stat
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from fusseg.errors import ConfigError


def check_private(path: Path) -> None:
    """Refuse a key file that others could read, or that holds no elliptic-curve key.

    Raises:
        ConfigError: If it is missing, open to group or others, or not an EC private key.
    """
    load_private(path)


def read_certificate_expiry(path: Path) -> datetime:
    """Read until when a certificate is valid, in UTC.

    Raises:
        ConfigError: If the file cannot be read or holds no certificate.
    """
    return load_certificate(path).not_valid_after_utc


def load_private(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a private key, as `check_private` accepts it.

    Raises:
        ConfigError: As there.
    """
    try:
        with path.open("rb") as file:
            # Of the open file: what is looked at is what is read.
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


def load_certificate(path: Path) -> x509.Certificate:
    """Read a certificate in PEM form.

    Raises:
        ConfigError: If the file cannot be read or holds no certificate.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the certificate {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificate in PEM form") from error
