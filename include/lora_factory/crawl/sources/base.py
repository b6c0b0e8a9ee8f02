"""What a source is to the spider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lora_factory.crawl.extract import ImageRef


class Unreadable(ValueError):
    """A listing is not what its source should answer; one line says why."""


@dataclass(frozen=True)
class FoundImage:
    """An image a listing names, and the page that shows it."""

    ref: ImageRef
    page_url: str = ""
    title: str = ""


@dataclass(frozen=True)
class Listing:
    """What one answer adds: pages and images to fetch, and further listings to ask for."""

    pages: Sequence[str] = ()
    images: Sequence[FoundImage] = ()
    more: Sequence[str] = ()


class Source(Protocol):
    """One way to begin."""

    follows_links: bool
    """Whether links of pages are followed."""
    official: bool
    """Whether listings are an API made to be asked: robots.txt speaks to crawlers, not to it."""
    headers: dict[str, str]
    """Sent with requests for listings, and with no other."""

    def pages(self) -> Sequence[str]:
        """Pages to begin with."""

    def listings(self) -> Sequence[str]:
        """Listings to begin with."""

    def read(self, body: bytes, url: str) -> Listing:
        """Read a listing.

        Raises:
            Unreadable: it is none.
        """
