import pytest

from fusseg.core.errors import ConfigError
from fusseg.deployment.wire.server_address import ServerAddress, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("fed.example.org:8443", "fed.example.org", 8443),
        ("localhost:1", "localhost", 1),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
        ("[::1]:9092", "::1", 9092),
        ("[2001:DB8::0:1]:8443", "2001:db8::1", 8443),
        ("föd.example.org:8443", "föd.example.org", 8443),
    ],
)
def test_an_address_is_a_host_and_a_port(text, host, port):
    assert parse_address(text) == ServerAddress(host, port)


@pytest.mark.parametrize("text", ["fed.example.org:8443", "[::1]:9092"])
def test_an_address_is_written_as_it_is_read(text):
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("https://fed.example.org:8443", "leave out the 'https://': the connection is always TLS"),
        ("https://fed.example.org", "leave out the 'https://'"),
        ("grpc://fed.example.org:8443/", "leave out the 'grpc://'"),
        ("fed.example.org:8443/", "has no path, no query and no user"),
        ("fed.example.org/v1:8443", "has no path, no query and no user"),
        ("user@fed.example.org:8443", "has no path, no query and no user"),
        ("fed.example.org", "add the port"),
        ("[::1]", "add the port"),
        ("", "add the port"),
        (":8443", "add the port"),
        ("fed.example.org:", "a port is a whole number of 1 to 65535"),
        ("fed.example.org:0", "a port is a whole number of 1 to 65535"),
        ("fed.example.org:65536", "a port is a whole number of 1 to 65535"),
        ("fed.example.org:-1", "a port is a whole number of 1 to 65535"),
        ("fed.example.org:x", "a port is a whole number of 1 to 65535"),
        ("fed.example.org:٣", "a port is a whole number of 1 to 65535"),
        ("fed.example.org:" + "9" * 5000, "a port is a whole number of 1 to 65535"),
        ("::1:8443", "write an IPv6 address in brackets: [::1]:8443"),
        ("[fed.example.org]:8443", "only an IPv6 address stands in brackets"),
        ("[::1:8443", "add the port"),
        ("fed.example .org:8443", "no spaces and no control characters"),
        ("fed\x1b[2J:8443", "no spaces and no control characters"),
    ],
)
def test_what_is_no_address_is_refused_with_what_to_do(text, remedy):
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert str(caught.value).startswith("the server must be HOST:PORT, got ")
    assert remedy in str(caught.value)
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()
