"""Create the certificates of a server and the keys of sites, in new files."""

import ipaddress
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fusseg.core.errors import ConfigError
from fusseg.deployment.keys.credentials import load_certificate, load_private
from fusseg.deployment.keys.sites_file import check_site_name

AUTHORITY_KEY, AUTHORITY_CERTIFICATE = "ca.key", "ca.crt"
SERVER_KEY, SERVER_CERTIFICATE = "server.key", "server.crt"
MAX_DAYS = 36500
_PRIVATE, _PUBLIC = 0o600, 0o644
"""Modes of files: for their owner only, or for all to read."""

# Flower's own server listens on loopback, behind the edge, with the same certificate.
_LOCAL_HOSTS = ("localhost", "127.0.0.1")
_CLOCKS_APART = timedelta(hours=1)
_DNS_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


@dataclass(frozen=True)
class SiteKey:
    """A new key for a site."""

    private_key: Path
    """File with the private key, which never leaves the site."""
    public_key: Path
    """File with the public key as an OpenSSH line."""
    entry: str
    """Lines for the server's sites.toml, ending with a line break."""


def create_authority(folder: Path, days: int) -> tuple[Path, Path]:
    """Create the federation's own certificate authority.

    Args:
        folder: Folder for `ca.key` and `ca.crt`; created if it is absent.
        days: Days for which the certificate is valid, in [1, 36500].

    Returns:
        The files of the key and of the certificate.

    Raises:
        ConfigError: If `days` is out of range, or a file exists or cannot be written.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _name("fusseg authority")
    begin = datetime.now(UTC) - _CLOCKS_APART
    certificate = (
        _begin_certificate(subject, subject, key.public_key(), key.public_key())
        .not_valid_before(begin)
        .not_valid_after(begin + _CLOCKS_APART + _span(days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(key, hashes.SHA384())
    )
    files = folder / AUTHORITY_KEY, folder / AUTHORITY_CERTIFICATE
    _write_new({files[0]: (_key_bytes(key), _PRIVATE), files[1]: (_pem(certificate), _PUBLIC)})
    return files


def create_server_certificate(
    authority: Path, hosts: Sequence[str], out: Path, days: int
) -> tuple[Path, Path]:
    """Create the server's key, and its certificate signed by the authority.

    Args:
        authority: Folder with `ca.key` and `ca.crt`.
        hosts: DNS names and IP addresses at which sites reach the server; localhost and 127.0.0.1
            are always added.
        out: Folder for `server.key`, `server.crt` and, if there is none yet, a copy of `ca.crt`;
            created if it is absent.
        days: Days for which the certificate is valid, in [1, 36500]; it never outlives the
            authority's.

    Returns:
        The files of the key and of the certificate.

    Raises:
        ConfigError: If a host is neither a name nor an address, `days` is out of range, the
            authority cannot be used or has expired, or a file exists or cannot be written.
    """
    names = [_general_name(host) for host in dict.fromkeys((*hosts, *_LOCAL_HOSTS))]
    issuer_key, issuer = _load_authority(authority)
    key = ec.generate_private_key(ec.SECP384R1())
    now = datetime.now(UTC)
    certificate = (
        _begin_certificate(
            _name("fusseg server"), issuer.subject, key.public_key(), issuer_key.public_key()
        )
        .not_valid_before(max(now - _CLOCKS_APART, issuer.not_valid_before_utc))
        .not_valid_after(min(now + _span(days), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(dict.fromkeys(names)), critical=False)
        .sign(issuer_key, hashes.SHA384())
    )
    files = out / SERVER_KEY, out / SERVER_CERTIFICATE
    new = {files[0]: (_key_bytes(key), _PRIVATE), files[1]: (_pem(certificate), _PUBLIC)}
    beside = out / AUTHORITY_CERTIFICATE
    if not beside.exists():
        # The server needs the authority's certificate, but not its key.
        new[beside] = (_pem(issuer), _PUBLIC)
    _write_new(new)
    return files


def create_site_key(name: str, out: Path, days: int) -> SiteKey:
    """Create the key with which a site proves its identity.

    Args:
        name: The site's client id.
        out: Folder for `NAME.key` and `NAME.pub`; created if it is absent.
        days: Days after today (UTC) for which the server accepts the key, in [1, 36500].

    Raises:
        ConfigError: If the name or `days` is out of range, or a file exists or cannot be written.
    """
    check_site_name(name)
    expires = (datetime.now(UTC) + _span(days)).date()
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    files = out / f"{name}.key", out / f"{name}.pub"
    _write_new(
        {files[0]: (private, _PRIVATE), files[1]: (f"{line} {name}\n".encode(), _PUBLIC)},
    )
    entry = tomli_w.dumps({"sites": {name: {"public_key": line, "expires": expires}}})
    return SiteKey(files[0], files[1], entry)


def _load_authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = load_private(folder / AUTHORITY_KEY)
    path = folder / AUTHORITY_CERTIFICATE
    certificate = load_certificate(path)
    if certificate.public_key() != key.public_key():
        raise ConfigError(
            f"{AUTHORITY_KEY} and {AUTHORITY_CERTIFICATE} must belong together, got those of two "
            f"authorities: {folder}"
        )
    if certificate.not_valid_after_utc <= datetime.now(UTC):
        raise ConfigError(
            f"the authority's certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}; "
            f"make a new one with `fusseg keys ca`: {path}"
        )
    return key, certificate


def _begin_certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(authority, critical=False)
    )


def _usage(*allowed: str) -> x509.KeyUsage:
    flags = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{flag: flag in allowed for flag in flags})


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "fusseg"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    name = host.lower()
    labels = name.split(".")
    # If the last label is a number, this is a mistyped address.
    if len(name) > 253 or not all(map(_DNS_LABEL.fullmatch, labels)) or labels[-1].isdecimal():
        raise ConfigError(
            f"a host must be a DNS name or an IP address, without a scheme or a port, got {host!r}"
        )
    return x509.DNSName(name)


def _span(days: int) -> timedelta:
    if not 1 <= days <= MAX_DAYS:
        raise ConfigError(f"days must be in [1, {MAX_DAYS}], got {days}")
    return timedelta(days=days)


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _write_new(files: Mapping[Path, tuple[bytes, int]]) -> None:
    """Write files with their modes: all or none of them, and none over an existing file."""
    for path in files:
        if os.path.lexists(path):
            raise _exists(path)
    written: list[Path] = []
    for path, (content, mode) in files.items():
        try:
            _make_folder(path.parent)
            _write_one(path, content, mode)
        except BaseException as error:
            for done in written:
                done.unlink(missing_ok=True)
            if isinstance(error, FileExistsError):
                raise _exists(path) from error
            if isinstance(error, OSError):
                raise ConfigError(f"cannot write {path}: {error.strerror}") from error
            raise
        written.append(path)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder} must be a folder, got a file; choose another") from error


def _write_one(path: Path, content: bytes, mode: int) -> None:
    # Unlike `fusseg.core.files`: the mode is set from the start, and the file is linked, which
    # unlike a rename never replaces a file that someone else has just written.
    temporary = path.parent / f".{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _exists(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} exists, and a key is never overwritten; move it away or choose another folder"
    )
