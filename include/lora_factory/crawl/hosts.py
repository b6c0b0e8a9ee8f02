"""Which hosts a crawl may reach: the public web, and what the deployment lists beyond it.

The name is judged before a request is made (:meth:`HostRules.allows`), the address when it is
connected to (:meth:`HostRules.allows_address`): a name that resolves to a private address, now
or after rebinding, reaches nothing. A run's conf has no say in either.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from lora_factory.errors import ConfigurationError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
DEFAULT_PORTS = {"http": 80, "https": 443}
LOCAL_SUFFIXES = ("localhost", "local", "internal", "intranet", "lan", "home.arpa", "onion")
"""Names that no public resolver answers (RFC 6761, 6762, 8375, and common private ones)."""
# ipaddress calls these global (Python 3.11); each carries or may carry a private IPv4 address.
TUNNELS = tuple(
    ipaddress.ip_network(net)
    for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96", "fec0::/10")
)


def host_and_port(url: str) -> tuple[str, int] | None:
    """Lower-case host and port of an http(s) URL; None for anything else. Never raises."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # a port that is no number, a broken IPv6 address
        return None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        return None
    return parts.hostname.rstrip("."), port or DEFAULT_PORTS[parts.scheme]


def numeric_address(host: str) -> Address | None:
    """The address a host means that is no name: dotted, decimal, octal, hex, short, IPv6.

    ``127.1``, ``0x7f.1``, ``0177.0.0.1`` and ``2130706433`` are all 127.0.0.1 to the system's
    resolver (inet_aton). None for a name.
    """
    text = host.strip("[]").partition("%")[0]
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    if not re.fullmatch(r"(?:0x)?[0-9a-f]*(?:\.(?:0x)?[0-9a-f]*){0,3}", text, re.IGNORECASE):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):
        return None


def is_public(address: Address) -> bool:
    """Whether an address belongs to somebody on the public internet.

    Private, loopback, link-local, multicast, reserved and unspecified ones don't, nor IPv6
    addresses that tunnel to an IPv4 one (NAT64, 6to4, Teredo, IPv4-compatible); IPv4-mapped
    ones are judged by what they hold.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in net for net in TUNNELS):
            return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )


class HostRules:
    """The public web's ports 80 and 443, and a list of further hosts.

    Args:
        listed: ``host`` (its ports 80 and 443) or ``host:port``, wherever they resolve to.
        public: whether the public web may be reached beside them.

    Raises:
        ConfigurationError: an entry is neither, or nothing at all may be reached.
    """

    def __init__(self, listed: Iterable[str], *, public: bool = True) -> None:
        self._public = public
        self._pairs: set[tuple[str, int]] = set()
        for entry in listed:
            found = host_and_port(f"http://{entry.strip().lower()}/")
            if found is None or re.search(r"[\s/?#@]", entry.strip()):
                msg = f"LORA_FACTORY_CRAWL_HOSTS: {entry!r} is neither host nor host:port"
                raise ConfigurationError(msg)
            self._pairs.add(found)
            if found[1] == 80 and not entry.strip().endswith(":80"):
                self._pairs.add((found[0], 443))
        if not self._pairs and not public:
            msg = (
                "source=web may reach no host; set LORA_FACTORY_CRAWL_HOSTS to the hosts the "
                "crawler may visit (host or host:port, comma-separated), or "
                "LORA_FACTORY_CRAWL_PUBLIC=true for the public web"
            )
            raise ConfigurationError(msg)

    def allows(self, url: str) -> bool:
        """True for an http(s) URL without credentials that is listed, or public by its looks."""
        found = host_and_port(url)
        if found is None:
            return False
        return found in self._pairs or (self._public and _looks_public(*found))

    def lists(self, url: str) -> bool:
        """True where the operator has named this very host and port."""
        return host_and_port(url) in self._pairs

    def allows_name(self, host: str) -> bool:
        """Whether a name may be resolved at all; asked where a connection is made."""
        name = host.lower().rstrip(".")
        return self._named(name) or (self._public and _looks_public(name, 443))

    def allows_address(self, host: str, address: str) -> bool:
        """Whether what ``host`` resolved to may be connected to."""
        found = numeric_address(address)
        if found is None or not self.allows_name(host):
            return False
        return self._named(host.lower().rstrip(".")) or is_public(found)

    def _named(self, name: str) -> bool:
        return any(listed == name for listed, _ in self._pairs)


def _looks_public(host: str, port: int) -> bool:
    if port not in DEFAULT_PORTS.values():
        return False
    address = numeric_address(host)
    if address is not None:
        return is_public(address)
    return "." in host and not any(
        host == suffix or host.endswith("." + suffix) for suffix in LOCAL_SUFFIXES
    )
