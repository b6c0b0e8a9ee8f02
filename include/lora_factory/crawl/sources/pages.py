"""Sources ``web`` and ``urls``: pages a user names, with or without what they link to.

Endpoint: the pages themselves. Licence: what each page says. Limits: robots.txt, and the
deployment's delay. Authentication: none.
"""

from __future__ import annotations

from collections.abc import Sequence

from lora_factory.crawl.sources.base import Listing, Unreadable


class PageSource:
    """Begins with pages."""

    official = False

    def __init__(self, seeds: Sequence[str], *, follows_links: bool) -> None:
        self._seeds = tuple(seeds)
        self.follows_links = follows_links
        self.headers: dict[str, str] = {}

    def pages(self) -> Sequence[str]:
        """The seeds."""
        return self._seeds

    def listings(self) -> Sequence[str]:
        """None."""
        return ()

    def read(self, body: bytes, url: str) -> Listing:  # noqa: ARG002 - never asked
        """Never called: there are no listings.

        Raises:
            Unreadable: always.
        """
        msg = f"{url} is no listing"
        raise Unreadable(msg)
