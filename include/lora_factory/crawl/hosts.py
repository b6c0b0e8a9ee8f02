"""Which hosts a crawl may reach: the deployment's list, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from lora_factory.errors import ConfigurationError

DEFAULT_PORTS = {"http": 80, "https": 443}


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


class HostRules:
    """An allow-list of ``host`` (its ports 80 and 443) and ``host:port``.

    Raises:
        ConfigurationError: the list is empty or an entry is neither.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._pairs: set[tuple[str, int]] = set()
        for entry in allowed:
            found = host_and_port(f"http://{entry.strip().lower()}/")
            if found is None or re.search(r"[\s/?#@]", entry.strip()):
                msg = f"LORA_FACTORY_CRAWL_HOSTS: {entry!r} is neither host nor host:port"
                raise ConfigurationError(msg)
            self._pairs.add(found)
            if found[1] == 80 and not entry.strip().endswith(":80"):
                self._pairs.add((found[0], 443))
        if not self._pairs:
            msg = (
                "source=web may reach no host; set LORA_FACTORY_CRAWL_HOSTS to the hosts "
                "the crawler may visit (host or host:port, comma-separated)"
            )
            raise ConfigurationError(msg)

    def allows(self, url: str) -> bool:
        """True for an http(s) URL without credentials whose host and port are listed."""
        return host_and_port(url) in self._pairs

    def allows_name(self, host: str) -> bool:
        """True where some port of ``host`` is listed; asked once more before a name is resolved."""
        return any(name == host.lower().rstrip(".") for name, _ in self._pairs)
