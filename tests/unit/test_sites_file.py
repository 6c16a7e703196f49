from datetime import date, timedelta

import pytest

from fusseg.core.errors import ConfigError

pytest.importorskip("flwr", reason="cryptography comes with it")

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fusseg.deployment.keys.sites_file import (
    ApprovedSite,
    check_site_name,
    is_expired,
    read_sites,
)


def public_line(key):
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


FIRST, SECOND = (public_line(ec.generate_private_key(ec.SECP384R1())) for _ in range(2))
OTHER_KIND = public_line(ed25519.Ed25519PrivateKey.generate())
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\\nc2VjcmV0\\n"


def write(folder, text):
    path = folder / "sites.toml"
    path.write_text(text)
    return path


def test_sites_are_sorted_and_comments_dropped(tmp_path):
    path = write(
        tmp_path,
        f'[sites.b]\npublic_key = "{FIRST} someone@b"\nexpires = 2027-11-24\n'
        f'[sites."a site"]\npublic_key = " {SECOND}"\nexpires = 2026-01-02\n',
    )
    assert read_sites(path) == (
        ApprovedSite("a site", SECOND, date(2026, 1, 2)),
        ApprovedSite("b", FIRST, date(2027, 11, 24)),
    )


def test_a_site_may_have_a_largest_number_of_images(tmp_path):
    text = f'[sites.a]\npublic_key = "{FIRST}"\nexpires = 2027-11-24\nmax_images = 500\n'
    assert read_sites(write(tmp_path, text))[0].max_images == 500
    without = text.replace("max_images = 500\n", "")
    assert read_sites(write(tmp_path, without))[0].max_images is None


@pytest.mark.parametrize("value", ["1", "10_000_001", "true", "5.0", '"500"', "-3"])
def test_a_number_of_images_that_cannot_be_is_refused(tmp_path, value):
    text = f'[sites.a]\npublic_key = "{FIRST}"\nexpires = 2027-11-24\nmax_images = {value}\n'
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match="max_images of site 'a' must be a whole number from 2 "):
        read_sites(path)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_every_curve_of_openssh_will_do(tmp_path, curve):
    line = public_line(ec.generate_private_key(curve))
    path = write(tmp_path, f'[sites.a]\npublic_key = "{line}"\nexpires = 2027-11-24')
    assert read_sites(path)[0].public_key == line


def test_a_key_holds_through_its_last_day():
    site = ApprovedSite("a", FIRST, date(2027, 11, 24))
    assert not is_expired(site, site.expires)
    assert is_expired(site, site.expires + timedelta(days=1))


NO_KEY = "public_key of site 'a' must be the line of its .pub file, 'ecdsa-sha2-nistp384 AAAA...', "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "sites must be at least one section [sites.NAME], got None"),
        ("sites = 3", "sites must be at least one section [sites.NAME], got 3"),
        ("[sites]", "sites must be at least one section [sites.NAME], got {}"),
        ("[site.a]", "unknown key 'site'; did you mean 'sites'?"),
        ("sites.a = 1", "site 'a' must be a section [sites.NAME], got 1"),
        (
            f'[sites.a]\npublickey = "{FIRST}"',
            "unknown key 'publickey' of site 'a'; did you mean 'public_key'?",
        ),
        (
            "[sites.a]\nexpires = 2027-11-24",
            "site 'a' has no public_key; add what `fusseg keys site` printed",
        ),
        (
            f'[sites.a]\npublic_key = "{FIRST}"\nexpires = "2027-11-24"',
            "expires of site 'a' must be a date such as 2027-11-24, without quotation marks, "
            "got '2027-11-24'",
        ),
        (
            f'[sites.a]\npublic_key = "{FIRST}"\nexpires = 2027-11-24T00:00:00Z',
            "expires of site 'a' must be a date such as 2027-11-24, without quotation marks, "
            "got datetime.datetime(2027, 11, 24, 0, 0, tzinfo=datetime.timezone.utc)",
        ),
        (
            "[sites.a]\npublic_key = 3\nexpires = 2027-11-24",
            NO_KEY + "got one that begins with 3",
        ),
        (
            '[sites.a]\npublic_key = ""\nexpires = 2027-11-24',
            NO_KEY + "got one that begins with ''",
        ),
        (
            f'[sites.a]\npublic_key = "{OTHER_KIND}"\nexpires = 2027-11-24',
            NO_KEY + "got one that begins with 'ssh-ed25519'",
        ),
        (
            f'[sites.a]\npublic_key = "{PRIVATE}"\nexpires = 2027-11-24',
            NO_KEY + "got one that begins with '-----BEGIN'",
        ),
        (
            f'[sites.a]\npublic_key = "{FIRST[:-8]}"\nexpires = 2027-11-24',
            NO_KEY + "got one that begins with 'ecdsa-sha2-nistp384'",
        ),
        (
            f'[sites.a]\npublic_key = "{FIRST}"\nexpires = 2027-11-24\n'
            f'[sites.b]\npublic_key = "{FIRST} b"\nexpires = 2027-11-24',
            "sites 'a' and 'b' have the same public key; make one for each with `fusseg keys site`",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_sites(path)
    assert str(caught.value) == f"{message}: {path}"


def test_no_more_of_a_private_key_than_its_first_word_is_shown(tmp_path):
    path = write(tmp_path, f'[sites.a]\npublic_key = "{PRIVATE}"\nexpires = 2027-11-24')
    with pytest.raises(ConfigError) as caught:
        read_sites(path)
    assert "c2VjcmV0" not in str(caught.value)


def test_what_is_no_toml_is_named(tmp_path):
    path = write(tmp_path, "[sites")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        read_sites(path)


@pytest.mark.parametrize("name", ["a", "site-1", "site a", "ö" * 100, "a.b", "-"])
def test_a_name_may_be(name):
    check_site_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "the name of a site must have 1 to 100 characters, got 0"),
        ("a" * 101, "the name of a site must have 1 to 100 characters, got 101"),
        ("..", "the name of a site must not begin with a dot, got '..'"),
        ("a/b", "the name of a site must have no slash and no control characters, got 'a/b'"),
        ("a\nb", "the name of a site must have no slash and no control characters, got 'a\\nb'"),
        (
            "a\u202eb",
            "the name of a site must have no slash and no control characters, got 'a\\u202eb'",
        ),
    ],
)
def test_a_name_must_not_be(name, message):
    with pytest.raises(ConfigError) as caught:
        check_site_name(name)
    assert str(caught.value) == message
