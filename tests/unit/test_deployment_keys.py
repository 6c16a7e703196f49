import os
import ssl
import stat
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from fusseg.core.errors import ConfigError

pytest.importorskip("flwr", reason="cryptography comes with it")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)
from typer.testing import CliRunner

from fusseg.cli.commands import keys_commands
from fusseg.deployment.keys.credentials import (
    check_private,
    check_server_files,
    read_certificate_expiry,
    read_owner,
)
from fusseg.deployment.keys.keys import create_authority, create_server_certificate, create_site_key
from fusseg.deployment.keys.sites_file import read_sites


@pytest.fixture
def authority(tmp_path):
    folder = tmp_path / "ca"
    create_authority(folder, 10)
    return folder


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def extension(path, kind):
    return certificate(path).extensions.get_extension_for_class(kind)


def private_key(path, key, encryption=None):
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_private_files_are_closed_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        authority_key, authority_certificate = create_authority(tmp_path / "ca", 10)
        key, _ = create_server_certificate(tmp_path / "ca", ["a"], tmp_path, 1)
        site = create_site_key("a", tmp_path, 1)
    finally:
        os.umask(before)
    assert {mode(path) for path in (authority_key, key, site.private_key)} == {0o600}
    assert {mode(path) for path in (authority_certificate, site.public_key)} == {0o644}


def test_nothing_else_is_left_beside_the_files(authority, tmp_path):
    create_site_key("a", tmp_path / "new" / "folder", 1)
    assert sorted(path.name for path in authority.iterdir()) == ["ca.crt", "ca.key"]
    assert sorted(path.name for path in (tmp_path / "new/folder").iterdir()) == ["a.key", "a.pub"]


def test_the_authority_may_sign_servers_and_no_other_authority(authority):
    constraints = extension(authority / "ca.crt", x509.BasicConstraints)
    usage = extension(authority / "ca.crt", x509.KeyUsage)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    assert isinstance(certificate(authority / "ca.crt").public_key().curve, ec.SECP384R1)


def test_the_server_has_the_given_hosts_and_loopback(authority, tmp_path):
    hosts = ["Fed.Example.org", "10.0.0.3", "::1", "localhost", "127.0.0.1"]
    _, path = create_server_certificate(authority, hosts, tmp_path, 1)
    names = extension(path, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fed.example.org", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == [
        "10.0.0.3",
        "::1",
        "127.0.0.1",
    ]
    assert [usage.dotted_string for usage in extension(path, x509.ExtendedKeyUsage).value] == [
        "1.3.6.1.5.5.7.3.1"
    ]
    certificate(path).verify_directly_issued_by(certificate(authority / "ca.crt"))


def shake_hands(context, authority, host):
    client_context = ssl.create_default_context(cafile=authority / "ca.crt")
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return client.version()


def test_a_strict_client_accepts_the_certificate_for_its_hosts_alone(authority, tmp_path):
    key, path = create_server_certificate(authority, ["fed.example.org"], tmp_path, 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    for host in ("fed.example.org", "localhost", "127.0.0.1"):
        assert shake_hands(context, authority, host) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(context, authority, "other.example.org")


def test_a_server_certificate_ends_no_later_than_its_authority(authority, tmp_path):
    _, path = create_server_certificate(authority, ["a"], tmp_path, 365)
    assert read_certificate_expiry(path) == read_certificate_expiry(authority / "ca.crt")
    _, path = create_server_certificate(authority, ["a"], tmp_path / "short", 2)
    left = read_certificate_expiry(path) - datetime.now(UTC)
    assert timedelta(days=1.99) < left <= timedelta(days=2)


def test_a_site_key_is_flowers_and_its_entry_goes_into_sites_toml(tmp_path):
    earliest = datetime.now(UTC).date() + timedelta(days=30)
    site = create_site_key("site a", tmp_path, 30)
    key = load_ssh_private_key(site.private_key.read_bytes(), None)
    assert isinstance(key.curve, ec.SECP384R1)
    (tmp_path / "sites.toml").write_text(site.entry)
    (approved,) = read_sites(tmp_path / "sites.toml")
    assert site.public_key.read_text() == f"{approved.public_key} site a\n"
    assert approved.name == "site a"
    assert earliest <= approved.expires <= earliest + timedelta(days=1)
    assert f"\nexpires = {approved.expires}\n" in site.entry
    assert site.entry.startswith('[sites."site a"]\npublic_key = "ecdsa-sha2-nistp384 AAAA')


@pytest.mark.parametrize("name", ["ca.key", "ca.crt"])
def test_nothing_is_overwritten_and_nothing_added_beside_it(tmp_path, name):
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(ConfigError) as caught:
        create_authority(tmp_path, 10)
    assert str(caught.value) == (
        f"{tmp_path / name} exists, and a key is never overwritten; move it away or choose "
        "another folder"
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_of_many_at_a_time_one_writes_and_its_files_belong_together(tmp_path):
    faults = []

    def create():
        try:
            create_authority(tmp_path, 10)
        except ConfigError as error:
            faults.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(faults) == 7
    create_server_certificate(tmp_path, ["a"], tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {
        "ca.key",
        "ca.crt",
        "server.key",
        "server.crt",
    }


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        create_authority(tmp_path / "file", 10)
    assert str(caught.value) == f"{tmp_path / 'file'} must be a folder, got a file; choose another"


def test_a_file_that_cannot_be_written_is_named_and_none_is_left(tmp_path):
    # A name of 100 characters, but of more bytes than a file may have in its name.
    name = "\N{OLD TURKIC LETTER ORKHON A}" * 100
    with pytest.raises(ConfigError) as caught:
        create_site_key(name, tmp_path, 10)
    assert str(caught.value) == f"cannot write {tmp_path / name}.key: File name too long"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("days", [0, 36501])
def test_days_have_a_range(tmp_path, days):
    with pytest.raises(ConfigError) as caught:
        create_authority(tmp_path, days)
    assert str(caught.value) == f"days must be in [1, 36500], got {days}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "host",
    [
        "",
        "https://a.org",
        "a.org:443",
        "a..b",
        "-a",
        "a_b",
        "10.0.0.300",
        "1.2.3.4/8",
        "ä.org",
        "*.org",
        "a" * 64,
        ".".join(["a" * 60] * 5),
    ],
)
def test_a_host_is_a_name_or_an_address(authority, tmp_path, host):
    with pytest.raises(ConfigError) as caught:
        create_server_certificate(authority, [host], tmp_path, 1)
    assert str(caught.value) == (
        f"a host must be a DNS name or an IP address, without a scheme or a port, got {host!r}"
    )


def test_the_name_of_a_site_is_checked(tmp_path):
    with pytest.raises(ConfigError, match="no slash"):
        create_site_key("a/../../b", tmp_path, 1)


def test_key_and_certificate_of_an_authority_belong_together(authority, tmp_path):
    create_authority(tmp_path / "other", 10)
    (tmp_path / "other/ca.key").replace(authority / "ca.key")
    with pytest.raises(ConfigError) as caught:
        create_server_certificate(authority, ["a"], tmp_path, 1)
    assert str(caught.value) == (
        f"ca.key and ca.crt must belong together, got those of two authorities: {authority}"
    )


def test_an_expired_authority_signs_nothing(tmp_path):
    key = ec.generate_private_key(ec.SECP384R1())
    private_key(tmp_path / "ca.key", key)
    name = x509.Name([])
    expired = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2021, 2, 3, tzinfo=UTC))
    )
    content = expired.sign(key, SHA384()).public_bytes(Encoding.PEM)
    (tmp_path / "ca.crt").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        create_server_certificate(tmp_path, ["a"], tmp_path, 1)
    assert str(caught.value) == (
        "the authority's certificate expired on 2021-02-03; make a new one with `fusseg keys ca`: "
        f"{tmp_path / 'ca.crt'}"
    )


def test_a_certificate_that_is_none_is_named(tmp_path):
    path = tmp_path / "a.crt"
    with pytest.raises(ConfigError) as caught:
        read_certificate_expiry(path)
    assert str(caught.value) == f"cannot read the certificate {path}: No such file or directory"
    path.write_text("hello")
    with pytest.raises(ConfigError) as caught:
        read_certificate_expiry(path)
    assert str(caught.value) == f"{path} holds no certificate in PEM form"


def server_files(folder):
    return folder / "server.key", folder / "server.crt", folder / "ca.crt"


def test_key_and_certificate_of_a_server_belong_together_and_to_the_authority(authority, tmp_path):
    create_server_certificate(authority, ["a"], tmp_path, 1)
    create_server_certificate(authority, ["a"], tmp_path / "second", 1)
    create_authority(tmp_path / "other", 10)
    check_server_files(*server_files(tmp_path))
    key, path, trusted = server_files(tmp_path)
    with pytest.raises(ConfigError) as caught:
        check_server_files(key, tmp_path / "second/server.crt", trusted)
    assert "server.key does not belong to server.crt in " in str(caught.value)
    # of the same name, but another key
    with pytest.raises(ConfigError) as caught:
        check_server_files(key, path, tmp_path / "other/ca.crt")
    assert str(caught.value).startswith(
        f"server.crt is not signed by ca.crt in {tmp_path / 'other'}; create it again with fusseg"
    )


def test_a_server_may_show_who_stands_between_it_and_the_authority(tmp_path):
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(3)]
    names = [
        x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
        for name in ("root", "between", "server")
    ]
    now = datetime.now(UTC)
    root, between, server = (
        x509.CertificateBuilder(names[above], names[one], keys[one].public_key(), one + 1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(keys[above], SHA384())
        .public_bytes(Encoding.PEM)
        for above, one in ((0, 0), (0, 1), (1, 2))
    )
    key = private_key(tmp_path / "server.key", keys[2])
    path, trusted = tmp_path / "server.crt", tmp_path / "ca.crt"
    path.write_bytes(server + between)
    trusted.write_bytes(root)
    check_server_files(key, path, trusted)
    for chain in (server, between + server):
        path.write_bytes(chain)
        with pytest.raises(ConfigError):
            check_server_files(key, path, trusted)


def test_a_key_is_its_owners_who_stands_in_the_file_beside_it(tmp_path):
    site = create_site_key("site a", tmp_path, 1)
    assert read_owner(site.private_key) == "site a"
    line = site.public_key.read_text()
    site.public_key.write_text(line.removesuffix(" site a\n"))
    assert read_owner(site.private_key) is None
    other = create_site_key("b", tmp_path, 1)
    # a stray file of another key names nobody
    other.public_key.write_text(line)
    assert read_owner(other.private_key) is None
    other.public_key.unlink()
    assert read_owner(other.private_key) is None
    # what OpenSSH writes beside a key of its own is no name of a site
    private = tmp_path / "id_ecdsa"
    site.private_key.rename(private)
    (tmp_path / "id_ecdsa.pub").write_text(line)
    assert read_owner(private) is None


def test_keys_that_only_their_owner_can_read_are_accepted(authority, tmp_path):
    check_private(authority / "ca.key")
    check_private(create_site_key("a", tmp_path, 1).private_key)


@pytest.mark.parametrize("bits", [0o040, 0o004, 0o020, 0o001])
def test_a_key_open_to_others_is_refused(tmp_path, bits):
    path = create_site_key("a b", tmp_path, 1).private_key
    path.chmod(0o600 | bits)
    with pytest.raises(ConfigError) as caught:
        check_private(path)
    assert str(caught.value) == (
        f"a private key must be closed to group and others, got mode {0o600 | bits:04o}; "
        f"chmod 600 '{path}'"
    )


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        check_private(tmp_path / "a.key")
    assert str(caught.value) == (
        f"cannot read the private key {tmp_path / 'a.key'}: No such file or directory"
    )


@pytest.mark.parametrize("kind", ["other", "encrypted", "public", "empty"])
def test_a_key_of_another_kind_is_refused(tmp_path, kind):
    path = tmp_path / "key"
    if kind == "other":
        private_key(path, ed25519.Ed25519PrivateKey.generate())
    elif kind == "encrypted":
        encryption = BestAvailableEncryption(b"word")
        private_key(path, ec.generate_private_key(ec.SECP384R1()), encryption)
    else:
        path.write_bytes(create_site_key("a", tmp_path, 1).public_key.read_bytes())
        if kind == "empty":
            path.write_bytes(b"")
        path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        check_private(path)
    assert str(caught.value) == (
        "a private key must be an elliptic-curve key without a passphrase, as `fusseg keys` makes "
        f"them, got another: {path}"
    )


def test_the_commands_make_a_federations_keys_and_say_what_to_do(tmp_path):
    folder, server = str(tmp_path / "ca"), str(tmp_path / "server")
    runner = CliRunner()
    told = [
        runner.invoke(keys_commands, arguments, catch_exceptions=False).output
        for arguments in (
            ["ca", "--out", folder],
            ["server", "fed.example.org", "10.0.0.3", "--ca", folder, "--out", server],
            ["site", "site-1", "--out", str(tmp_path), "--days", "30"],
        )
    ]
    assert f"wrote {folder}/ca.key\nwrote {folder}/ca.crt\nKeep ca.key offline: " in told[0]
    assert "Give ca.crt to every site." in told[0]
    assert f"wrote {server}/server.key\nwrote {server}/server.crt\n" in told[1]
    assert "site-1.key never leaves the site." in told[2]
    assert '\n\n[sites.site-1]\npublic_key = "ecdsa-sha2-nistp384 ' in told[2]
    days = read_certificate_expiry(tmp_path / "server/server.crt") - datetime.now(UTC)
    assert timedelta(days=364) < days < timedelta(days=366)


def test_without_the_package_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    command = ["ca", "--out", str(tmp_path)]
    fix = r"fusseg keys needs the package cryptography.*: pip install 'fusseg\[flower\]'"
    with pytest.raises(ConfigError, match=fix):
        CliRunner().invoke(keys_commands, command, catch_exceptions=False)
