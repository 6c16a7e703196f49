"""Parse the address of a server as a site's operator writes it."""

import ipaddress
from dataclasses import dataclass

from fusseg.core.errors import ConfigError
from fusseg.core.visible_text import shown


@dataclass(frozen=True)
class ServerAddress:
    """The address of a server's edge."""

    host: str
    """A DNS name or an IP address, without brackets."""
    port: int

    def __str__(self) -> str:
        """Write the address as HOST:PORT, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> ServerAddress:
    """Read HOST:PORT, or [HOST]:PORT for an IPv6 address.

    Raises:
        ConfigError: If it has another form, such as a URL.
    """
    begin = f"the server must be HOST:PORT, got {shown(text, 100)}"
    scheme, is_url, rest = text.rpartition("://")
    if is_url:
        raise ConfigError(
            f"{begin}; leave out the {shown(f'{scheme}://')}: the connection is always TLS"
        )
    if "/" in rest or "?" in rest or "@" in rest:
        raise ConfigError(f"{begin}; a server has no path, no query and no user")
    host, colon, port = rest.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or host.startswith("[") != bracketed or (port.endswith("]")):
        raise ConfigError(f"{begin}; add the port, which fusseg serve says: HOST:8443")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ConfigError(f"{begin}; a port is a whole number of 1 to 65535")
    if bracketed:
        return ServerAddress(_ipv6(host[1:-1], begin), int(port))
    if ":" in host:
        raise ConfigError(f"{begin}; write an IPv6 address in brackets: [::1]:8443")
    if any(sign.isspace() or not sign.isprintable() for sign in host):
        raise ConfigError(f"{begin}; a host has no spaces and no control characters")
    return ServerAddress(host, int(port))


def _ipv6(text: str, begin: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise ConfigError(f"{begin}; only an IPv6 address stands in brackets") from None
